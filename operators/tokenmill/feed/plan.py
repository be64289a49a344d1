"""Where a snapshot's rows lie: a logical row number to a shard and a row in it.

A logical row counts the samples that the snapshot shows, in manifest order. The feed's order is
made of logical rows only, so what a snapshot hides never has to be skipped after it was drawn.

Shards are cut into runs: stretches of rows without a hidden one between them. A shard of which all
is shown is one run.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tokenmill_schemas.errors import StoreError

Rows = npt.NDArray[np.int64]


#: Guesses that are corrected one shard at a time, before shards of very mixed sizes are searched.
CORRECTIONS = 3


@dataclass(frozen=True, slots=True)
class Plan:
    """Cumulative rows of the runs: ``starts`` has one entry a run and a last one.

    ``guesses`` has the run of every ``2**shift``-th row, about one entry a run: where runs are of
    similar size it finds a row's run with a fraction of a binary search's cache misses.
    ``shards`` and ``offsets`` have the shard of each run and its first row there; None where every
    shard is one run, for then a run's number is its shard's.
    """

    starts: Rows
    guesses: Rows
    shift: int
    shards: Rows | None = None
    offsets: Rows | None = None

    @classmethod
    def of(cls, samples: npt.ArrayLike, hidden: Mapping[int, Rows] | None = None) -> Plan:
        """Return the plan of shards with so many samples each; zeros are allowed.

        Args:
            samples: Rows of each shard.
            hidden: The rows of a shard, ascending, that are not shown; by the shard's place.
        """
        if not hidden:
            return cls(*_index(np.asarray(samples, np.int64)))
        lengths, shards, offsets = _runs(np.asarray(samples, np.int64), hidden)
        return cls(*_index(lengths), shards, offsets)

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
        runs = self._runs(rows)
        ranks = rows - self.starts[runs]
        if self.shards is None or self.offsets is None:
            return runs, ranks
        return self.shards[runs], ranks + self.offsets[runs]

    def _runs(self, rows: Rows) -> Rows:
        runs: Rows = self.guesses[rows >> self.shift]
        ends = self.starts[1:]
        for _ in range(CORRECTIONS):
            before = ends[runs] <= rows
            if not before.any():
                return runs
            runs += before
        found: Rows = np.searchsorted(self.starts, rows, side="right") - 1
        return found


def _index(lengths: Rows) -> tuple[Rows, Rows, int]:
    starts = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
    rows = int(starts[-1])
    shift = max(0, (rows // max(1, len(starts) - 1)).bit_length() - 1)
    marks = np.arange(0, rows, 1 << shift)
    return starts, np.searchsorted(starts, marks, side="right") - 1, shift


def _runs(samples: Rows, hidden: Mapping[int, Rows]) -> tuple[Rows, Rows, Rows]:
    """Return the length, the shard and the first row of every run that has rows, in order."""
    count = len(samples)
    gone = [np.asarray(hidden[shard], np.int64) for shard in sorted(hidden)]
    where = np.repeat(np.array(sorted(hidden), np.int64), [len(rows) for rows in gone])
    # Every shard begins a run, and so does every row behind a hidden one.
    shards = np.concatenate([np.arange(count), where])
    offsets = np.concatenate([np.zeros(count, np.int64), np.concatenate(gone) + 1])
    # A run ends at the next hidden row, or with its shard; sorted, that is where the next begins.
    order = np.lexsort((offsets, shards))
    shards, offsets = shards[order], offsets[order]
    last = np.append(shards[1:] != shards[:-1], True)
    ends = np.where(last, samples[shards], np.append(offsets[1:], 0) - 1)
    kept = ends > offsets
    return (ends - offsets)[kept], shards[kept], offsets[kept]
