"""Bit packing: unsigned values as strings of k bits, least significant bit first.

Bit ``j`` of value ``i`` is bit ``i * k + j`` of its row, and bit ``b`` of a row is bit ``b % 8`` of
its byte ``b // 8``. Every row starts on a byte; the bits that fill its last byte are zero.

Eight values take exactly k bytes, so value ``i % 8 = lane`` of every group of eight has the same
shift and the same byte positions: both directions are a few whole-array shifts per lane, with no
loop over values. Most widths are unpacked by words: 64 bits are read wherever a byte begins,
and the values in them spread over its halves, their halves and so on, as in a Morton code.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import numpy.typing as npt

UInt = npt.NDArray[np.unsignedinteger[Any]]
Bytes = npt.NDArray[np.uint8]
Words = npt.NDArray[np.uint64]

LANES = 8
MAX_BITS = 64
#: Values handled at once: enough to hide numpy's per-call cost, little enough for the caches.
BLOCK_VALUES = 1 << 18
#: Words unpacked at once, for the same reasons.
PIECE_WORDS = 1 << 14


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


def unpack(packed: Bytes, bits: int, count: int, out: UInt | None = None) -> UInt:
    """Return the values of packed rows: ``uint[rows, count]`` of the narrowest type.

    ``out``, if given, is a contiguous array of that type and shape to write them to.

    Raises:
        ValueError: ``bits`` is not from 1 to 64, a row has other than
            ``packed_bytes(count, bits)`` bytes, or ``out`` is not as it should be.
    """
    values = _unpacked(packed, bits, count, out)
    if out is None or values is out:
        return values
    out[...] = values
    return out


def _unpacked(packed: Bytes, bits: int, count: int, out: UInt | None) -> UInt:
    dtype = narrowest(bits)
    width = packed_bytes(count, bits)
    if packed.ndim != 2 or packed.shape[1] != width:
        raise ValueError(
            f"{count} values of {bits} bits are rows of {width} bytes, got shape {packed.shape}"
        )
    rows = packed.shape[0]
    if out is not None and not (
        out.dtype == dtype and out.shape == (rows, count) and out.flags.c_contiguous
    ):
        raise ValueError(
            f"out must be contiguous {dtype}[{rows}, {count}], is {out.dtype}{out.shape}"
        )
    if not packed.size:
        return np.zeros((rows, count), dtype)
    if bits == 1:
        return np.unpackbits(packed, axis=1, count=count, bitorder="little")
    if bits == 8 * dtype.itemsize:
        flat = np.ascontiguousarray(packed).reshape(-1).view(dtype.newbyteorder("<"))
        return flat.astype(dtype, copy=False).reshape(rows, count)
    out = np.empty((rows, count), dtype) if out is None else out
    method = _unpack_words if _fits_words(bits) else _unpack_groups
    for block in _blocks(rows, count):
        groups = _padded(packed[block], bits * _groups(count)).reshape(-1, bits)
        if count % LANES:
            some = np.empty((len(groups), LANES), dtype)
            method(groups, bits, some)
            out[block] = some.reshape(len(packed[block]), -1)[:, :count]
        else:
            method(groups, bits, out[block].reshape(-1, LANES))
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


def _unpack_groups(packed: Bytes, bits: int, out: UInt) -> None:
    """Unpack ``uint8[groups, bits]`` into ``[groups, 8]``."""
    dtype = out.dtype
    # One row a byte position: reading it once as the wide type serves both lanes that share it.
    columns = packed.T.astype(dtype)
    mask = dtype.type((1 << bits) - 1)
    for lane in range(LANES):
        value = np.zeros(len(packed), dtype)
        for byte, shift in _pieces(lane, bits):
            column = columns[byte]
            value |= column << abs(shift) if shift >= 0 else column >> abs(shift)
        out[:, lane] = value & mask


def _fits_words(bits: int) -> bool:
    """Whether a word of 64 bits, from any byte on, holds as many values as it does unpacked."""
    return sys.byteorder == "little" and all(
        first % 8 + run <= 64 for first, run in _runs(bits, narrowest(bits).itemsize)
    )


def _runs(bits: int, itemsize: int) -> list[tuple[int, int]]:
    """Return the first bit and the bits of each run of a group that becomes one word."""
    run = 8 // itemsize * bits
    return [(first, run) for first in range(0, LANES * bits, run)]


def _unpack_words(packed: Bytes, bits: int, out: UInt) -> None:
    """Unpack ``uint8[groups, bits]`` into contiguous ``[groups, 8]``, a word at a time."""
    data, words = packed.reshape(-1), out.reshape(-1).view(np.uint64)
    runs = _runs(bits, out.itemsize)
    width, size = 8 * out.itemsize, runs[0][1]
    room = np.empty(min(len(words), PIECE_WORDS), np.uint64)
    if size % 8 == 0:
        # All runs begin on a byte: they are one sequence.
        for start in range(0, len(words), PIECE_WORDS):
            piece = words[start : start + PIECE_WORDS]
            _read_words(data, start * size // 8, size // 8, piece)
            _spread(piece, bits, width, room[: len(piece)])
        return
    piece = np.empty_like(room)
    for start in range(0, len(packed), PIECE_WORDS):
        count = min(PIECE_WORDS, len(packed) - start)
        for i, (first, _) in enumerate(runs):
            lane = piece[:count]
            _read_words(data, start * bits + first // 8, bits, lane)
            lane >>= np.uint64(first % 8)
            _spread(lane, bits, width, room[:count])
            words[start * len(runs) + i : (start + count) * len(runs) : len(runs)] = lane


def _read_words(data: Bytes, start: int, stride: int, out: Words) -> None:
    """Read a word from byte ``start`` on and from every ``stride``-th one after it."""
    whole = max(0, min(len(out), (len(data) - start - 8) // stride + 1))
    out[:whole] = np.ndarray((whole,), np.uint64, data, start, (stride,))
    # The last words reach over the end, at bits that are of no value.
    rest = np.append(data[start + whole * stride :], np.zeros(8, np.uint8))
    out[whole:] = np.ndarray((len(out) - whole,), np.uint64, rest, 0, (stride,))


def _spread(words: Words, bits: int, width: int, moved: Words) -> None:
    """Move the values of ``bits`` bits that fill each word from its lowest on to ``width`` bits.

    ``moved`` is room for as many words.
    """
    if width == 64:
        words &= np.uint64((1 << bits) - 1)
        return
    slot = 64
    while slot > width:
        half = slot // 2
        kept = half // width * bits
        stays = sum(((1 << kept) - 1) << at for at in range(0, 64, slot))
        np.bitwise_and(words, np.uint64(stays << kept), out=moved)
        moved <<= np.uint64(half - kept)
        words &= np.uint64(stays)
        words |= moved
        slot = half


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
