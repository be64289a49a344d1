"""A remote file as a seekable stream of range reads, for readers of a footer and some parts."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO, cast

from tokenmill_infra.storage.paths import without_credentials
from tokenmill_infra.storage.remote import connect, path_of
from tokenmill_infra.storage.retry import Retry
from tokenmill_infra.storage.storage import Storage
from tokenmill_infra.storage.transfer import Transfer
from tokenmill_schemas.errors import TransientError

#: What a stream over a URL reads ahead.
BLOCK_BYTES = 8 * 2**20
#: What `AheadReads` fetches beyond what was asked for, at first and at the most.
AHEAD_BYTES = 64 * 2**10
MOST_AHEAD_BYTES = 4 * 2**20
#: Parts so near each other are read with what lies between: some 10 ms of a request's 20.
NEAR_BYTES = 512 * 2**10


class RangeFile(io.RawIOBase):
    """Reads ranges of one file; every read is one request, so ask for large pieces."""

    def __init__(self, read: Callable[[int, int], bytes], size: int) -> None:
        """Take the function that returns the bytes from a start to a stop, and the file's size."""
        self._read, self._size = read, size
        self._position = 0

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move; returns the new position."""
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}[whence]
        self._position = max(0, base + offset)
        return self._position

    def tell(self) -> int:
        """Return the position."""
        return self._position

    def readinto(self, buffer: object) -> int:
        """Fill ``buffer`` from the position on; returns how many bytes there were.

        Raises:
            TransientError: the answer was shorter than the file is.
        """
        view = memoryview(buffer).cast("B")  # type: ignore[arg-type]  # any writable buffer
        stop = min(self._position + len(view), self._size)
        data = self._read(self._position, stop) if self._position < stop else b""
        if self._position + len(data) < stop:
            raise TransientError(
                f"asked for {stop - self._position} bytes at {self._position}, got {len(data)}"
            )
        view[: len(data)] = data
        self._position += len(data)
        return len(data)


class AheadReads:
    """Ranges of a file by few requests: the first fetches the file's end, others more than asked.

    For readers of a footer and then of parts that lie in order, as those of Arrow and Parquet files
    do. How far it reads ahead grows while the parts lie so near each other that a request costs
    more than what is between them.
    """

    def __init__(self, read: Callable[[int, int], bytes], size: int) -> None:
        """Take what `RangeFile` takes."""
        self._read, self._size = read, size
        self._end = max(0, size - AHEAD_BYTES), b""
        self._last = 0, b""
        self._ahead = AHEAD_BYTES

    def __call__(self, start: int, stop: int) -> bytes:
        """Return the bytes from ``start`` to ``stop``; fewer if the file was cut off meanwhile."""
        first, data = self._end
        if start >= first:
            if not data:
                data = self._read(first, self._size)
                self._end = first, data
            return data[start - first : stop - first]
        first, data = self._last
        if start < first or stop > first + len(data):
            near = bool(data) and 0 <= start - first - len(data) < NEAR_BYTES
            self._ahead = min(MOST_AHEAD_BYTES, 4 * self._ahead) if near else AHEAD_BYTES
            first, data = start, self._read(start, min(self._size, stop + self._ahead))
            self._last = first, data
        return data[start - first : stop - first]


def open_ranges(storage: Storage, path: str, *, ahead: bool = False) -> BinaryIO:
    """Open a stored file for reading parts of it: a local file itself, else range reads.

    Each read is a request; with ``ahead`` each request fetches more, see `AheadReads`.

    Raises:
        FileNotFoundError: there is no such file.
    """
    local = storage.local(path)
    if local is not None:
        return local.open("rb")
    size = storage.size(path)
    if size is None:
        raise FileNotFoundError(f"{storage.uri}/{path}")

    def read(start: int, stop: int) -> bytes:
        return storage.read(path, start, stop)

    return cast("BinaryIO", RangeFile(AheadReads(read, size) if ahead else read, size))


def open_remote(uri: str, options: Mapping[str, Any], *, retry: Retry | None = None) -> BinaryIO:
    """Open the file at a URL for reading, seekable, some megabytes ahead.

    Raises:
        FileNotFoundError: there is no such file.
        TransientError: the storage failed after its retries.
    """
    what = f"reading {without_credentials(uri)}"
    transfer = Transfer(connect(uri, options), path_of(uri), retry or Retry(), what)
    if not transfer.in_parts:
        opened = transfer.call(lambda: transfer.fs.open(transfer.key, "rb"))
        return cast("BinaryIO", opened)
    stream = RangeFile(transfer.read_range, transfer.size())
    return cast("BinaryIO", io.BufferedReader(stream, BLOCK_BYTES))
