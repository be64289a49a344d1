"""Where a snapshot's rows lie: a logical row number to a shard and a row in it.

A logical row counts the samples that the snapshot shows, in manifest order. The feed's order is
made of logical rows only, so what a snapshot hides never has to be skipped after it was drawn.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tokenmill_schemas.errors import StoreError

Rows = npt.NDArray[np.int64]


#: Guesses that are corrected one shard at a time, before shards of very mixed sizes are searched.
CORRECTIONS = 3


@dataclass(frozen=True, slots=True)
class Plan:
    """Cumulative live samples of the shards: ``starts`` has one entry a shard and a last one.

    ``guesses`` has the shard of every ``2**shift``-th row, about one entry a shard: where shards
    are of similar size it finds a row's shard with a fraction of a binary search's cache misses.
    """

    starts: Rows
    guesses: Rows
    shift: int

    @classmethod
    def of(cls, samples: npt.ArrayLike) -> Plan:
        """Return the plan of shards with so many live samples each; zeros are allowed."""
        starts = np.concatenate([[0], np.cumsum(samples, dtype=np.int64)])
        rows = int(starts[-1])
        shift = max(0, (rows // max(1, len(starts) - 1)).bit_length() - 1)
        marks = np.arange(0, rows, 1 << shift)
        return cls(starts, np.searchsorted(starts, marks, side="right") - 1, shift)

    @property
    def rows(self) -> int:
        """Live samples of the snapshot."""
        return int(self.starts[-1])

    def locate(self, rows: Rows) -> tuple[Rows, Rows]:
        """Return the shard of each logical row, and the physical row in that shard.

        Raises:
            StoreError: a row is outside ``[0, rows)``.
        """
        if rows.size and not 0 <= rows.min() <= rows.max() < self.rows:
            raise StoreError(f"rows must be in [0, {self.rows}), got {rows.min()} to {rows.max()}")
        shards = self._shards(rows)
        return shards, self._select(rows - self.starts[shards])

    def _shards(self, rows: Rows) -> Rows:
        shards: Rows = self.guesses[rows >> self.shift]
        ends = self.starts[1:]
        for _ in range(CORRECTIONS):
            before = ends[shards] <= rows
            if not before.any():
                return shards
            shards += before
        found: Rows = np.searchsorted(self.starts, rows, side="right") - 1
        return found

    def _select(self, ranks: Rows) -> Rows:
        """Return the physical row of the rank-th live sample of a shard: no sample is hidden."""
        return ranks
