"""Binary codes: bits, plus and minus one, ids, and ids split into smaller ones.

MAGVIT-v2's lookup-free quantization (arXiv:2310.05737), BSQ (arXiv:2406.07548); Open-MAGVIT2
(arXiv:2409.04410) predicts an 18-bit id as one of 6 and one of 12 bits, WeTok (arXiv:2508.05599) as
groups of 8. Least significant bit first, unless a function says otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tokenmill.feed.columns import Batch
from tokenmill.feed.sequence.draw import Draw
from tokenmill.feed.shaping.common import Array, Floats, Ids, each, positive, problem, values_of


def signs(bits: Array, *, unit_norm: bool = False) -> Floats:
    """Return ``float32[..., d]`` of bits: 1 for a set bit, -1 for another.

    With ``unit_norm`` they are divided by the root of d (BSQ, Infinity).
    """
    scale = np.float32(1 / np.sqrt(bits.shape[-1]) if unit_norm else 1)
    return np.where(bits > 0, scale, -scale).astype(np.float32)


def unpack_bits(packed: Array, width: int) -> Array:
    """Return ``uint8[..., width]`` bits of bytes ``uint8[..., ceil(width / 8)]``.

    Raises:
        JobError: the last axis has another number of bytes.
    """
    if packed.dtype != np.uint8 or packed.shape[-1] != -(-width // 8):
        raise problem(f"{width} bits are uint8[..., {-(-width // 8)}], got {packed.shape}")
    return np.unpackbits(packed, axis=-1, count=width, bitorder="little")


def ids_to_bits(ids: Array, width: int, *, big_endian: bool = False) -> Array:
    """Return ``uint8[..., width]`` bits of ids; ``big_endian`` as BSQ-ViT writes its indices."""
    bits = (ids.astype(np.uint64)[..., None] >> np.arange(width, dtype=np.uint64)) & np.uint64(1)
    return (bits[..., ::-1] if big_endian else bits).astype(np.uint8)


def bits_to_ids(bits: Array, *, big_endian: bool = False) -> Ids:
    """Return ids int64[...] of up to 63 bits ``[..., d]``.

    Raises:
        JobError: there are more bits than an id holds.
    """
    if bits.shape[-1] > 63:
        raise problem(f"{bits.shape[-1]} bits are no id: take groups of them")
    ordered = bits[..., ::-1] if big_endian else bits
    return np.asarray(ordered.astype(np.int64) @ (1 << np.arange(bits.shape[-1], dtype=np.int64)))


def split_ids(ids: Array, widths: tuple[int, ...]) -> Ids:
    """Return ``int64[..., len(widths)]``: an id's lowest ``widths[0]`` bits, the next ones, ..."""
    starts = np.cumsum((0, *widths[:-1]))
    masks = (1 << np.array(widths, np.int64)) - 1
    return np.asarray((ids.astype(np.int64)[..., None] >> starts) & masks)


def join_ids(parts: Array, widths: tuple[int, ...]) -> Ids:
    """Return ids int64[...] of what `split_ids` made."""
    starts = np.cumsum((0, *widths[:-1]))
    return np.asarray((parts.astype(np.int64) << starts).sum(axis=-1))


def group_bits(bits: Array, width: int) -> Ids:
    """Return an id for each group of ``width`` bits: int64[..., d / width].

    Raises:
        JobError: d is not a multiple of ``width``.
    """
    if width < 1 or bits.shape[-1] % width:
        raise problem(f"{bits.shape[-1]} bits are no groups of {width}")
    return bits_to_ids(bits.reshape(*bits.shape[:-1], -1, width))


@dataclass(frozen=True, slots=True)
class Signs:
    """Makes float32 plus and minus one of bits ``[..., d]``; of ids with ``width`` d.

    BSQ (arXiv:2406.07548), and BitDance and UniWeTok, read a position's bits as a vector.
    """

    name: str
    width: int = 0
    unit_norm: bool = False
    big_endian: bool = False

    def __call__(self, batch: Batch, draw: Draw) -> Batch:
        """Replace the stream by ``float32[..., d]``."""
        del draw
        return {**batch, self.name: each(values_of(batch, self.name), self._signs)}

    def _signs(self, values: Array) -> Array:
        if self.width:
            values = ids_to_bits(values, self.width, big_endian=self.big_endian)
        return signs(values, unit_norm=self.unit_norm)


@dataclass(frozen=True, slots=True)
class SplitIds:
    """Splits ids of ``sum(widths)`` bits: ``int64[..., len(widths)]``, lowest bits first.

    Open-MAGVIT2 (arXiv:2409.04410): 18 bits as 6 and 12.
    """

    name: str
    widths: tuple[int, ...]

    def __post_init__(self) -> None:
        positive("widths", self.widths)
        if sum(self.widths) > 63:
            raise problem(f"ids of {sum(self.widths)} bits do not fit")

    @property
    def vocab_sizes(self) -> tuple[int, ...]:
        """Sizes of the parts' vocabularies."""
        return tuple(1 << width for width in self.widths)

    def __call__(self, batch: Batch, draw: Draw) -> Batch:
        """Replace the stream by its parts."""
        del draw
        values = values_of(batch, self.name)
        return {**batch, self.name: each(values, lambda ids: split_ids(ids, self.widths))}


@dataclass(frozen=True, slots=True)
class GroupBits:
    """Makes an id of each group of ``width`` bits: ``int64[..., d / width]``.

    WeTok (arXiv:2508.05599): groups of 8.
    """

    name: str
    width: int

    def __call__(self, batch: Batch, draw: Draw) -> Batch:
        """Replace the stream by ids."""
        del draw
        values = values_of(batch, self.name)
        return {**batch, self.name: each(values, lambda bits: group_bits(bits, self.width))}
