"""Where the record batches of an Arrow IPC file lie, which pyarrow reads but does not show."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import numpy.typing as npt

#: ``Block`` of the IPC footer (File.fbs): where a record batch's message lies in the file.
_BLOCK = np.dtype([("offset", "<i8"), ("head", "<i4"), ("pad", "<i4"), ("body", "<i8")])


def footer_blocks(data: npt.NDArray[np.uint8]) -> npt.NDArray[Any]:
    """Return the record batch blocks that the footer of an Arrow IPC file lists.

    The footer is a flatbuffer (File.fbs): its root table's fourth field is the vector of blocks.
    """
    raw = data[-10:].tobytes()
    length = struct.unpack_from("<i", raw)[0]
    footer = data[len(data) - 10 - length : len(data) - 10].tobytes()
    table = struct.unpack_from("<I", footer)[0]
    vtable = table - struct.unpack_from("<i", footer, table)[0]
    size = struct.unpack_from("<H", footer, vtable)[0]
    slot = struct.unpack_from("<H", footer, vtable + 10)[0] if size > 10 else 0
    if not slot:
        return np.empty(0, _BLOCK)
    vector = table + slot + struct.unpack_from("<I", footer, table + slot)[0]
    count = struct.unpack_from("<I", footer, vector)[0]
    return np.frombuffer(footer, _BLOCK, count=count, offset=vector + 4)
