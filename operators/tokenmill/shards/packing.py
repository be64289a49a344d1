"""Bit packing: unsigned values as strings of k bits, least significant bit first.

Bit ``j`` of value ``i`` is bit ``i * k + j`` of its row, and bit ``b`` of a row is bit ``b % 8`` of
its byte ``b // 8``. Every row starts on a byte; the bits that fill its last byte are zero.

Eight values take exactly k bytes, so value ``i % 8 = lane`` of every group of eight has the same
shift and the same byte positions: both directions are a few whole-array shifts per lane, with no
loop over values.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import numpy.typing as npt

UInt = npt.NDArray[np.unsignedinteger[Any]]
Bytes = npt.NDArray[np.uint8]

LANES = 8
MAX_BITS = 64
#: Values handled at once: enough to hide numpy's per-call cost, little enough for the caches.
BLOCK_VALUES = 1 << 18


def packed_bytes(count: int, bits: int) -> int:
    """Return the bytes of one packed row of ``count`` values."""
    return (count * bits + 7) // 8


def narrowest(bits: int) -> np.dtype[Any]:
    """Return the narrowest unsigned numpy type that holds ``bits`` bits."""
    _check_bits(bits)
    return np.dtype(next(f"u{size}" for size in (1, 2, 4, 8) if bits <= 8 * size))


def pack(values: npt.NDArray[Any], bits: int) -> Bytes:
    """Pack unsigned integers ``[rows, count]``, each below ``2**bits``, to ``uint8[rows, bytes]``.

    Higher bits of a value are dropped: whoever needs to know checks before.

    Raises:
        ValueError: ``bits`` is not from 1 to 64, or ``values`` is not a matrix.
    """
    dtype = narrowest(bits)
    if values.ndim != 2:
        raise ValueError(f"values must be a matrix [rows, count], got shape {values.shape}")
    rows, count = values.shape
    if not values.size:
        return np.zeros((rows, packed_bytes(count, bits)), np.uint8)
    if bits == 1:
        ones: Bytes = values.astype(np.uint8) & np.uint8(1)
        return np.packbits(ones, axis=1, bitorder="little")
    if bits == 8 * dtype.itemsize:
        return _little(np.ascontiguousarray(values, dtype)).view(np.uint8).reshape(rows, -1)
    out: Bytes = np.empty((rows, packed_bytes(count, bits)), np.uint8)
    for block in _blocks(rows, count):
        groups = _padded(values[block].astype(dtype), LANES).reshape(-1, LANES)
        packed = _pack_groups(groups, bits)
        out[block] = packed.reshape(-1, _groups(count) * bits)[:, : out.shape[1]]
    return out


def unpack(packed: Bytes, bits: int, count: int) -> UInt:
    """Return the values of packed rows: ``uint[rows, count]`` of the narrowest type.

    Raises:
        ValueError: ``bits`` is not from 1 to 64, or a row has other than
            ``packed_bytes(count, bits)`` bytes.
    """
    dtype = narrowest(bits)
    width = packed_bytes(count, bits)
    if packed.ndim != 2 or packed.shape[1] != width:
        raise ValueError(
            f"{count} values of {bits} bits are rows of {width} bytes, got shape {packed.shape}"
        )
    rows = packed.shape[0]
    if not packed.size:
        return np.zeros((rows, count), dtype)
    if bits == 1:
        return np.unpackbits(packed, axis=1, count=count, bitorder="little")
    if bits == 8 * dtype.itemsize:
        flat = np.ascontiguousarray(packed).reshape(-1).view(dtype.newbyteorder("<"))
        return flat.astype(dtype, copy=False).reshape(rows, count)
    out = np.empty((rows, count), dtype)
    for block in _blocks(rows, count):
        groups = _padded(packed[block], bits * _groups(count)).reshape(-1, bits)
        out[block] = _unpack_groups(groups, bits, dtype).reshape(-1, LANES * _groups(count))[
            :, :count
        ]
    return out


def _pack_groups(values: UInt, bits: int) -> Bytes:
    """Pack ``[groups, 8]`` to ``uint8[groups, bits]``."""
    out: Bytes = np.zeros((len(values), bits), np.uint8)
    mask = values.dtype.type((1 << bits) - 1)
    for lane in range(LANES):
        value = values[:, lane] & mask
        for byte, shift in _pieces(lane, bits):
            moved = value >> abs(shift) if shift >= 0 else value << abs(shift)
            out[:, byte] |= moved.astype(np.uint8)
    return out


def _unpack_groups(packed: Bytes, bits: int, dtype: np.dtype[Any]) -> UInt:
    """Unpack ``uint8[groups, bits]`` to ``[groups, 8]``."""
    out = np.empty((len(packed), LANES), dtype)
    # One row a byte position: reading it once as the wide type serves both lanes that share it.
    columns = packed.T.astype(dtype)
    mask = dtype.type((1 << bits) - 1)
    for lane in range(LANES):
        value = np.zeros(len(packed), dtype)
        for byte, shift in _pieces(lane, bits):
            column = columns[byte]
            value |= column << abs(shift) if shift >= 0 else column >> abs(shift)
        out[:, lane] = value & mask
    return out


def _pieces(lane: int, bits: int) -> list[tuple[int, int]]:
    """Bytes that hold a lane's bits, each with how far left its bits go in the value."""
    first, shift = divmod(lane * bits, 8)
    last = (lane * bits + bits - 1) // 8
    return [(byte, 8 * (byte - first) - shift) for byte in range(first, last + 1)]


def _groups(count: int) -> int:
    return -(-count // LANES)


def _blocks(rows: int, count: int) -> list[slice]:
    step = max(1, BLOCK_VALUES // max(1, count))
    return [slice(start, start + step) for start in range(0, rows, step)]


def _padded(values: npt.NDArray[Any], multiple: int) -> npt.NDArray[Any]:
    """Return rows filled up with zeros to a multiple of ``multiple`` columns."""
    short = -values.shape[1] % multiple
    if not short:
        return np.ascontiguousarray(values)
    return np.pad(values, ((0, 0), (0, short)))


def _little(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    return values if sys.byteorder == "little" else values.byteswap()


def _check_bits(bits: int) -> None:
    if not 1 <= bits <= MAX_BITS:
        raise ValueError(f"bits must be from 1 to {MAX_BITS}, got {bits}")
