"""What every decoder of videos asks of a file before it is opened."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

from tokenmill.decoders.base import DecodeLimits
from tokenmill.decoders.video_claims import missing
from tokenmill.decoders.video_containers import HEAD_BYTES, Container, sniff
from tokenmill_schemas.asset import AssetRef
from tokenmill_schemas.errors import AssetError, Reason


@contextmanager
def blaming(ref: AssetRef) -> Iterator[None]:
    """Write asset and stage into an `AssetError` that passes."""
    try:
        yield
    except AssetError as error:
        error.uri, error.stage = ref.uri, "decode"
        raise


def recognise(ref: AssetRef, stream: BinaryIO, limits: DecodeLimits) -> tuple[Container, str]:
    """Return the container, and what its structure says is missing ("" = nothing).

    Raises:
        AssetError: ``too_many_bytes``, ``empty``, ``unknown_format``, ``unsupported`` or
            ``unreadable``.
    """
    limit = limits.max_video_bytes
    if ref.size_bytes > limit:
        text = f"listed with {ref.size_bytes} bytes; the limit is {limit}"
        raise AssetError(Reason.TOO_MANY_BYTES, text)
    try:
        size = stream.seek(0, io.SEEK_END)
        if size > limit:
            raise AssetError(Reason.TOO_MANY_BYTES, f"{size} bytes; the limit is {limit}")
        container = _known(stream, size)
        lost = missing(container, stream, size)
    except OSError as error:
        raise AssetError(Reason.UNREADABLE, f"reading failed: {error}") from error
    return container, f"{container.name} of {size} bytes: {lost}" if lost else ""


def _known(stream: BinaryIO, size: int) -> Container:
    if size == 0:
        raise AssetError(Reason.EMPTY, "0 bytes")
    stream.seek(0)
    head = stream.read(HEAD_BYTES)
    container = sniff(head)
    if container is None:
        text = f"no known video format: {size} bytes that start with {head[:16]!r}"
        raise AssetError(Reason.UNKNOWN_FORMAT, text)
    if not container.demuxer:
        raise AssetError(Reason.UNSUPPORTED, f"{container.name}, which is not decoded here")
    return container
