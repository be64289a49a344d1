"""One bit per stored row: which rows are shown, and the n-th of them.

Ranks are counted per block of 256 bits, and a block lies in one cache line; see Vigna, "Broadword
implementation of rank/select queries" (2008), of which this is the form that numpy does well.
Every shard begins a block of its own, so that threads may fill different shards.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt

from tokenmill.feed.rows.stretches import Stretches

Rows = npt.NDArray[np.int64]
Words = npt.NDArray[np.uint64]

#: Rows of a block, and the words that they take.
BLOCK_ROWS = 256
BLOCK_WORDS = BLOCK_ROWS // 64
#: Words looked at at once: what is computed of them stays in the processor's cache.
WORDS_AT_ONCE = 2**18

_ALL = np.uint64(0xFFFF_FFFF_FFFF_FFFF)
_ONE = np.uint64(1)
_BYTE = np.uint64(255)
#: Every byte 1, its top bit, its lower half; and what counts the bits of pairs and of fours.
_ONES = np.uint64(0x0101_0101_0101_0101)
_TOPS = np.uint64(0x8080_8080_8080_8080)
_EIGHTS = np.uint64(0x0F0F_0F0F_0F0F_0F0F)
_FOURS = np.uint64(0x3333_3333_3333_3333)
_PAIRS = np.uint64(0x5555_5555_5555_5555)


@dataclass(frozen=True, slots=True)
class Bits:
    """Which rows of shards are shown.

    Bit r % 64 of word r // 64 behind a shard's first block is its row r. ``blocks`` has the first
    block of each shard and, at its end, the number of blocks.
    """

    words: Words
    blocks: Rows

    @classmethod
    def shown(cls, samples: Rows, hidden: Mapping[int, Rows] | None = None) -> Bits:
        """Return that all rows of shards of so many rows are shown, but those in ``hidden``."""
        counts = -(-samples // BLOCK_ROWS)
        blocks = np.concatenate([[0], np.cumsum(counts)])
        bits = cls(np.full(int(blocks[-1]) * BLOCK_WORDS, _ALL), blocks)
        there = counts > 0
        tails = (blocks[1:][there] - 1) * BLOCK_WORDS
        left = samples[there] - (counts[there] - 1) * BLOCK_ROWS
        for word in range(BLOCK_WORDS):
            bits.words[tails + word] = _lowest(np.clip(left - 64 * word, 0, 64))
        for shard, rows in (hidden or {}).items():
            bits.hide(shard, rows)
        return bits

    def hide(self, shard: int, rows: Rows) -> None:
        """Show some rows of a shard no more."""
        places = rows + self.blocks[shard] * BLOCK_ROWS
        gone = np.left_shift(_ONE, (places & 63).astype(np.uint64))
        np.bitwise_and.at(self.words, places >> 6, ~gone)

    def keep(self, shard: int, mask: npt.NDArray[np.bool_]) -> None:
        """Of a shard, show only rows for which ``mask`` (bool[its rows]) is true.

        Threads may do this to different shards.
        """
        packed = np.packbits(mask, bitorder="little")
        start = int(self.blocks[shard]) * (BLOCK_ROWS // 8)
        self.words.view(np.uint8)[start : start + len(packed)] &= packed

    def shards_shown(self) -> Rows:
        """Return the shards of which any row is shown, ascending."""
        shown = np.zeros(len(self.blocks) - 1, bool)
        shown[self.shards()[self.words.reshape(-1, BLOCK_WORDS).any(axis=1)]] = True
        return np.flatnonzero(shown)

    def count_runs(self) -> int:
        """Return the number of runs: rows that are shown and have none shown before them."""
        return sum(int(count_bits(firsts).sum()) for _, firsts, _ in self._edges())

    def runs(self) -> tuple[Rows, Rows, Rows]:
        """Return the shard, the first row and the length of every run."""
        none = np.empty(0, np.int64)
        firsts, lasts = [none], [none]
        for start, begin, end in self._edges():
            firsts.append(_places(begin) + start * 64)
            lasts.append(_places(end) + start * 64)
        starts, ends = np.concatenate(firsts), np.concatenate(lasts)
        shards = self.shards()[starts // BLOCK_ROWS]
        return shards, starts - self.blocks[shards] * BLOCK_ROWS, ends - starts + 1

    def shards(self) -> Rows:
        """Return the shard of every block."""
        return np.repeat(np.arange(len(self.blocks) - 1), np.diff(self.blocks))

    def _edges(self) -> Iterator[tuple[int, Words, Words]]:
        """Yield, some words at a time, where they start and the first and last rows of runs."""
        heads = self.blocks * BLOCK_WORDS
        for start in range(0, len(self.words), WORDS_AT_ONCE):
            words = self.words[start : start + WORDS_AT_ONCE]
            stop = start + len(words)
            before = np.roll(words, 1)
            before[0] = self.words[start - 1]
            behind = np.roll(words, -1)
            behind[-1] = self.words[stop % len(self.words)]
            # A shard's first row has none before it, and its last none behind it.
            near = heads[np.searchsorted(heads, start) : np.searchsorted(heads, stop, "right")]
            before[near[near < stop] - start] = 0
            behind[near[near > start] - start - 1] = 0
            firsts = words & ~(words << _ONE | before >> np.uint64(63))
            yield start, firsts, words & ~(words >> _ONE | behind << np.uint64(63))


@dataclass(frozen=True, slots=True)
class Selection:
    """The n-th shown row, and which one a row is; made of `Bits` that change no more."""

    bits: Bits
    stretches: Stretches
    shards: npt.NDArray[np.int32]

    @classmethod
    def of(cls, bits: Bits) -> Selection:
        """Return the index of ``bits``."""
        counts = count_bits(bits.words).reshape(-1, BLOCK_WORDS)
        counts = counts.sum(axis=1, dtype=np.int64)
        return cls(bits, Stretches.of(counts), bits.shards().astype(np.int32))

    @property
    def rows(self) -> int:
        """Number of shown rows."""
        return self.stretches.rows

    def locate(self, rows: Rows) -> tuple[Rows, Rows]:
        """Return the shard of each logical row, and the physical row in that shard."""
        blocks = self.stretches.find(rows)
        ranks = rows - self.stretches.starts[blocks]
        places = blocks * BLOCK_WORDS
        for _ in range(BLOCK_WORDS - 1):
            counts = count_bits(self.bits.words[places])
            further = ranks >= counts
            ranks -= counts * further
            places += further
        shards = self.shards[blocks].astype(np.int64)
        within = places * 64 - self.bits.blocks[shards] * BLOCK_ROWS
        return shards, within + select(self.bits.words[places], ranks)

    def logical(self, shards: Rows, rows: Rows) -> Rows:
        """Return the logical row of each physical one, -1 where it is not shown.

        Rows must be less than those that the shards have bits for, or are taken for others.
        """
        places = rows + self.bits.blocks[shards] * BLOCK_ROWS
        blocks, last = places // BLOCK_ROWS, places >> 6
        ranks = self.stretches.starts[blocks]
        for word in range(BLOCK_WORDS - 1):
            index = blocks * BLOCK_WORDS + word
            ranks += count_bits(self.bits.words[index]) * (index < last)
        words, bit = self.bits.words[last], (places & 63).astype(np.uint64)
        below = words & (np.left_shift(_ONE, bit) - _ONE)
        return np.where(words >> bit & _ONE, ranks + count_bits(below), -1)


def count_bits(words: Words) -> npt.NDArray[np.uint8]:
    """Return the number of set bits of each word: uint8."""
    if hasattr(np, "bitwise_count"):
        counts: npt.NDArray[np.uint8] = np.bitwise_count(words)
        return counts
    return (_byte_counts(words) * _ONES >> np.uint64(56)).astype(np.uint8)  # NumPy before 2.0


def _byte_counts(words: Words) -> Words:
    """Return words whose bytes are the numbers of set bits of the bytes of ``words``."""
    sums = words - (words >> _ONE & _PAIRS)
    sums = (sums & _FOURS) + (sums >> np.uint64(2) & _FOURS)
    counts: Words = sums + (sums >> np.uint64(4)) & _EIGHTS
    return counts


def select(words: Words, ranks: Rows) -> Rows:
    """Return the place of the ``ranks[i]``-th set bit (from 0) of each word, which has so many.

    Vigna's broadword selection: the sums of the bytes before each byte are compared with the rank
    all at once, and what is left is looked up.
    """
    wanted = ranks.astype(np.uint64)
    sums = _byte_counts(words) * _ONES
    # The top bit of a byte stays where the set bits up to its end are not more than the rank.
    passed = count_bits(((wanted * _ONES | _TOPS) - sums) & _TOPS)
    shift = passed.astype(np.uint64) << np.uint64(3)
    wanted -= sums << np.uint64(8) >> shift & _BYTE
    entry = (words >> shift & _BYTE) << np.uint64(3) | wanted
    found: Rows = shift.view(np.int64) + _in_byte()[entry.view(np.int64)]
    return found


@cache
def _in_byte() -> npt.NDArray[np.uint8]:
    """Return, at 8 b + r, the place of the r-th set bit of byte b."""
    bits = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1, bitorder="little")
    return np.argsort(1 - bits.astype(np.int8), axis=1, kind="stable").astype(np.uint8).ravel()


def _lowest(counts: Rows) -> Words:
    """Return words of which the lowest ``counts[i]`` bits are set; up to 64."""
    wide = np.minimum(counts, 63).astype(np.uint64)
    return np.where(counts > 63, _ALL, np.left_shift(_ONE, wide) - _ONE)


def _places(words: Words) -> Rows:
    """Return the places of all set bits."""
    index = np.flatnonzero(words)
    bits = np.unpackbits(words[index].view(np.uint8), bitorder="little").reshape(-1, 64)
    row, bit = np.nonzero(bits)
    return index[row] * 64 + bit
