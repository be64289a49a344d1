"""Reading all bytes of an asset, and never more than its limit allows."""

from __future__ import annotations

from typing import BinaryIO

from tokenmill_schemas.errors import AssetError, Reason

_FIRST_READ_BYTES = 2**20


def read_within(stream: BinaryIO, size_bytes: int, max_bytes: int) -> bytes:
    """Read all of ``stream``, but never more than one byte beyond ``max_bytes``.

    ``size_bytes`` is what the listing says (-1: nothing).

    Raises:
        AssetError: ``too_many_bytes``, or ``unreadable`` where the stream fails.
    """
    if size_bytes > max_bytes:
        text = f"listed with {size_bytes} bytes; the limit is {max_bytes}"
        raise AssetError(Reason.TOO_MANY_BYTES, text)
    want = size_bytes + 1 if size_bytes >= 0 else _FIRST_READ_BYTES
    parts: list[bytes] = []
    total = 0
    while total <= max_bytes:
        try:
            part = stream.read(min(want, max_bytes + 1 - total))
        except OSError as error:
            text = f"reading failed after {total} bytes: {error}"
            raise AssetError(Reason.UNREADABLE, text) from error
        if not part:
            break
        parts.append(part)
        total += len(part)
        want = max(total, _FIRST_READ_BYTES)
    if total > max_bytes:
        raise AssetError(Reason.TOO_MANY_BYTES, f"more than the limit of {max_bytes} bytes")
    return parts[0] if len(parts) == 1 else b"".join(parts)
