"""The bytes of a video as FFmpeg reads them, and what it means when it finds no memory for them.

FFmpeg answers ``ENOMEM`` where there is no memory, and where a size is stated that no memory would
do for: a sample of 3 GiB in a file of 20 kB. The first is the machine's, or a limit's that others
share, and must never cost an asset a frame; the second is the asset's own, on every machine.
"""

from __future__ import annotations

import io
from types import TracebackType
from typing import BinaryIO

import numpy as np

from tokenmill.decoders.base import ClaimError
from tokenmill_schemas.errors import AssetError, Reason

#: The least that a decoder must find, and a pixel's bytes at most.
FRAME_BYTES, PIXEL_BYTES = 2**20, 8
#: More than a sound file's tables take in memory, as a multiple of its bytes and beyond; and more
#: frames than a decoder makes room for at once.
TABLE_SHARE, SLACK_BYTES, FRAMES = 16, 2**26, 8


class Source:
    """A stream as FFmpeg reads it: without a name, and keeping what goes wrong for us.

    An exception inside FFmpeg's callback would surface in whatever call fails next.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._error: BaseException | None = None

    def __enter__(self) -> None:
        pass

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool:
        self._error = self._error or error
        return True

    def read(self, count: int) -> bytes:
        """Return up to ``count`` bytes; none after a failure."""
        data = b""
        if self._error is None:
            with self:
                data = self._stream.read(count)
        return data

    def seek(self, offset: int, whence: int = 0) -> int:
        """Return the new place, or -1 where there is no such place."""
        if whence == 0 and offset < 0:
            return -1
        with self:
            return self._stream.seek(offset, whence)
        return -1

    def tell(self) -> int:
        """Return the place."""
        return self._stream.tell()

    def size(self) -> int:
        """Return how many bytes there are; moves to their end."""
        return max(self.seek(0, io.SEEK_END), 0)

    def check(self) -> None:
        """Raise what the stream raised.

        Raises:
            AssetError: ``unreadable``.
        """
        error, self._error = self._error, None
        if isinstance(error, OSError):
            raise AssetError(Reason.UNREADABLE, f"reading failed: {error}") from error
        if error is not None:
            raise error


def require_frame(pixels: int) -> None:
    """Ask for a frame's memory where a decoder failed: some call it damage that they found none.

    Raises:
        MemoryError: there is none.
    """
    _require(FRAME_BYTES + PIXEL_BYTES * pixels)


def refuse_claim(error: MemoryError, source: Source, pixels: int) -> None:
    """Return if FFmpeg may have wanted memory, where frames have at most so many ``pixels``.

    Raises:
        ClaimError: many times what a file of this size can need is to be had, so that was not it.
    """
    try:
        _require(SLACK_BYTES + TABLE_SHARE * source.size() + FRAMES * PIXEL_BYTES * pixels)
    except MemoryError:
        return
    text = "it asks for more memory than a file of its size can need"
    raise ClaimError(Reason.CORRUPT, text) from error


def _require(count: int) -> None:
    np.empty(count, np.uint8)  # not touched, and given back at once
