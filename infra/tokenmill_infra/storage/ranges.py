"""A stored file as a seekable stream of range reads, for readers of a footer and some parts."""

from __future__ import annotations

import io
import os
from typing import BinaryIO, cast

from tokenmill_infra.storage.storage import Storage


class RangeFile(io.RawIOBase):
    """Reads ranges of one file; every read is one request, so ask for large pieces."""

    def __init__(self, storage: Storage, path: str) -> None:
        """Look up the file.

        Raises:
            FileNotFoundError: there is no such file.
        """
        size = storage.size(path)
        if size is None:
            raise FileNotFoundError(f"{storage.uri}/{path}")
        self._storage, self._path, self._size = storage, path, size
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
        """Fill ``buffer`` from the position on; returns how many bytes there were."""
        view = memoryview(buffer).cast("B")  # type: ignore[arg-type]  # any writable buffer
        stop = min(self._position + len(view), self._size)
        data = self._storage.read(self._path, self._position, stop) if view else b""
        view[: len(data)] = data
        self._position += len(data)
        return len(data)


def open_ranges(storage: Storage, path: str) -> BinaryIO:
    """Open a stored file for reading parts of it: a local file itself, else range reads.

    Raises:
        FileNotFoundError: there is no such file.
    """
    local = storage.local(path)
    return local.open("rb") if local is not None else cast("BinaryIO", RangeFile(storage, path))
