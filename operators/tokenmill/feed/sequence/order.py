"""The order in which an epoch shows its rows: a function of (seed, epoch, position), not an array.

Block shuffle is two permutations: blocks of neighbouring rows are dealt over the epoch, then the
rows of a window of hundreds of dealt blocks are mixed. A window reads a few hundred contiguous
ranges instead of as many single rows, and trains like a full shuffle (Levanter, marin#2917).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, get_args

import numpy as np

from tokenmill.feed.sequence.permutation import Indices, derive_key, permute, unpermute
from tokenmill_schemas.errors import JobError
from tokenmill_schemas.strict import nearest

Shuffle = Literal["block", "full", "none"]
SHUFFLES: tuple[str, ...] = get_args(Shuffle)

#: Rows of a block: half a megabyte of 1024 two-byte tokens, one read on an object store.
BLOCK_ROWS = 256
#: Blocks of a window: 131,072 rows are mixed with each other.
WINDOW_BLOCKS = 512
#: Epochs and windows that are kept: each shape bucket of a feed is in one of its own.
KEPT = 256


@dataclass(frozen=True, slots=True)
class Order:
    """Orders of all epochs over ``range(rows)``; every epoch is another permutation of it."""

    rows: int
    seed: int = 0
    shuffle: Shuffle = "block"
    block_rows: int = BLOCK_ROWS
    window_blocks: int = WINDOW_BLOCKS

    def __post_init__(self) -> None:
        if self.shuffle not in SHUFFLES:
            hint = nearest(str(self.shuffle), list(SHUFFLES))
            raise JobError(f"is {self.shuffle!r}; {hint}", path="feed.shuffle")

    def at(self, epoch: int, positions: Indices) -> Indices:
        """Return the rows that ``epoch`` shows at ``positions``.

        Raises:
            ValueError: a position is outside ``[0, rows)``.
        """
        if self.shuffle == "full":
            return permute(positions, self.rows, derive_key("rows", self.seed, epoch))
        if self.shuffle == "block":
            return _blocks(self, epoch).at(positions)
        if positions.size and not 0 <= positions.min() <= positions.max() < self.rows:
            raise ValueError(f"positions must be in [0, {self.rows})")
        return positions

    def positions_of(self, epoch: int, rows: Indices) -> Indices:
        """Return where ``epoch`` shows ``rows``: the inverse of `at`.

        Raises:
            ValueError: a row is outside ``[0, rows)``.
        """
        if self.shuffle == "full":
            return unpermute(rows, self.rows, derive_key("rows", self.seed, epoch))
        if rows.size and not 0 <= rows.min() <= rows.max() < self.rows:
            raise ValueError(f"rows must be in [0, {self.rows})")
        return _blocks(self, epoch).positions_of(rows) if self.shuffle == "block" else rows


@dataclass(frozen=True, slots=True)
class _Blocks:
    """One epoch's block shuffle.

    The epoch has ``count`` slots, each filled by one block. The last block of the store may be
    short of rows; wherever it is dealt, the slots behind it begin ``shortfall`` rows earlier.
    """

    rows: int
    size: int
    count: int
    windows: int
    short_slot: int
    key: int
    seed: int
    epoch: int

    @property
    def shortfall(self) -> int:
        return self.count * self.size - self.rows

    def at(self, positions: Indices) -> Indices:
        if not positions.size:
            return positions
        least, greatest = int(positions.min()), int(positions.max())
        if least < 0 or greatest >= self.rows:
            raise ValueError(f"positions must be in [0, {self.rows})")
        first, last = self._windows(np.array([least, greatest])).tolist()
        if first == last:
            return self._within(first, positions)
        out = np.empty(positions.shape, np.int64)
        for window, where in _groups(self._windows(positions)):
            out[where] = self._within(window, positions[where])
        return out

    def positions_of(self, rows: Indices) -> Indices:
        blocks = rows // self.size
        slots = unpermute(blocks, self.count, self.key)
        mixed = slots * self.size - self.shortfall * (slots > self.short_slot)
        mixed += rows - blocks * self.size
        windows = ((slots + 1) * self.windows - 1) // self.count
        out = np.empty(rows.shape, np.int64)
        for window, where in _groups(windows):
            start, end, key = self._window(window)
            out[where] = unpermute(mixed[where] - start, end - start, key) + start
        return out

    def _window(self, window: int) -> tuple[int, int, int]:
        """Return a window's first position, the one behind its last, and its key."""
        start, end = map(self._start, self.slots_of(window))
        return start, end, derive_key("window", self.seed, self.epoch, window)

    def _within(self, window: int, positions: Indices) -> Indices:
        start, end, key = self._window(window)
        rows = permute(positions - start, end - start, key)
        first, stop = self.slots_of(window)
        if self.shortfall and first <= self.short_slot < stop - 1:
            slots = self._slots(rows + start) - first
        else:
            slots = rows // self.size
        rows += _moves(self, window)[slots]
        return rows

    def slots_of(self, window: int) -> tuple[int, int]:
        """Return a window's first slot and the one behind its last."""
        first, stop = (w * self.count // self.windows for w in (window, window + 1))
        return first, stop

    def _start(self, slot: int) -> int:
        return slot * self.size - self.shortfall * (slot > self.short_slot)

    def _slots(self, positions: Indices) -> Indices:
        if not self.shortfall:
            return positions // self.size
        behind = positions >= self._start(self.short_slot + 1)
        shifted: Indices = (positions + self.shortfall * behind) // self.size
        return shifted

    def _windows(self, positions: Indices) -> Indices:
        """Window w holds the slots from ``w * count // windows`` to the next one's first."""
        found: Indices = ((self._slots(positions) + 1) * self.windows - 1) // self.count
        return found


@lru_cache(maxsize=KEPT)
def _blocks(order: Order, epoch: int) -> _Blocks:
    count = -(-order.rows // order.block_rows)
    # Windows of even size, for a last one of a few blocks would hardly be shuffled.
    windows = max(1, round(count / order.window_blocks))
    key = derive_key("blocks", order.seed, epoch)
    short = int(unpermute([count - 1], count, key)[0])
    size = order.block_rows
    return _Blocks(order.rows, size, count, windows, short, key, order.seed, epoch)


@lru_cache(maxsize=KEPT)
def _moves(blocks: _Blocks, window: int) -> Indices:
    """Return how far behind its mixed place in the window each slot's block begins.

    A window's worth, never all blocks.
    """
    slots = np.arange(*blocks.slots_of(window))
    dealt = permute(slots, blocks.count, blocks.key)
    starts = slots * blocks.size - blocks.shortfall * (slots > blocks.short_slot)
    moves: Indices = dealt * blocks.size - (starts - starts[0])
    moves.flags.writeable = False
    return moves


def _groups(windows: Indices) -> Iterator[tuple[int, Indices]]:
    """Yield every window that occurs, and where it does, in order."""
    order = np.argsort(windows, kind="stable")
    ends = np.flatnonzero(np.diff(windows[order])) + 1
    for where in np.split(order, ends) if windows.size else ():
        yield int(windows[where[0]]), where
