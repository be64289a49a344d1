"""Rows dealt to groups of neighbours that a shuffle exchanges, and arrays put in order by words."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tokenmill.feed.sequence.draw import Words
from tokenmill.feed.sequence.lanes import Rows
from tokenmill.feed.sequence.order import BLOCK_ROWS, WINDOW_BLOCKS, Shuffle
from tokenmill.feed.sequence.permutation import derive_key, permute, unpermute

#: Rows of a group, about.
GROUP_ROWS = BLOCK_ROWS * WINDOW_BLOCKS


@dataclass(frozen=True, slots=True)
class Deal:
    """Which rows are in which group.

    Blocks of rows are dealt by a permutation under ``key`` (None: in their order).
    """

    rows: int
    block_rows: int
    group_rows: int
    key: int | None

    @classmethod
    def of(cls, rows: int, seed: int, shuffle: Shuffle, *, group_rows: int = GROUP_ROWS) -> Deal:
        """Return the deal of a shuffle: "block" deals blocks of 256 rows, "full" single rows."""
        key = None if shuffle == "none" else derive_key("groups", seed)
        return cls(rows, 1 if shuffle == "full" else BLOCK_ROWS, group_rows, key)

    @property
    def blocks(self) -> int:
        """Blocks of rows; the last one may be short."""
        return -(-self.rows // self.block_rows)

    @property
    def groups(self) -> int:
        """Number of groups, which are of even size."""
        return max(1, round(self.blocks * self.block_rows / self.group_rows))

    def rows_of(self, group: int) -> Rows:
        """Return the rows of a group, ascending."""
        first, stop = (g * self.blocks // self.groups for g in (group, group + 1))
        blocks = np.arange(first, stop)
        if self.key is not None:
            blocks = np.sort(permute(blocks, self.blocks, self.key))
        rows = (blocks[:, None] * self.block_rows + np.arange(self.block_rows)).ravel()
        return rows[rows < self.rows]

    def group_of(self, row: int) -> int:
        """Return the group of a row."""
        block = row // self.block_rows
        if self.key is not None:
            block = int(unpermute(np.array([block]), self.blocks, self.key)[0])
        return ((block + 1) * self.groups - 1) // self.blocks


def sorted_by(keys: Rows, ties: Words | None) -> Rows:
    """Return the order that sorts ``keys`` (not negative), equal ones by ``ties`` or their place.

    Of the ties as many of the highest bits count as a word of 64 bits has left. Numbers are sorted
    as one word, which is several times as fast as sorting indices.
    """
    if not len(keys):
        return keys
    low, high = len(keys).bit_length(), max(1, int(keys.max()).bit_length())
    words = keys.astype(np.uint64) << np.uint64(64 - high)
    words |= np.arange(len(keys), dtype=np.uint64)
    if ties is not None:
        words |= (ties >> np.uint64(high + low)) << np.uint64(low)
    words.sort()
    return (words & np.uint64((1 << low) - 1)).astype(np.int64)
