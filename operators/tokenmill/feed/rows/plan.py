"""Where a snapshot's rows lie: a logical row number to a shard and a row in it, and back.

A logical row counts the samples that the snapshot shows, in manifest order. The feed's order is
made of logical rows only, so what a snapshot hides, or a filter leaves out, never has to be skipped
after it was drawn.

There are two ways to keep that. Where most rows are shown, shards are cut into runs: stretches of
rows without a hidden one between them; a shard of which all is shown is one run. Where runs would
be short, as under a filter that takes every other row, it is one bit per stored row
(`tokenmill.feed.rows.bits`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tokenmill.feed.rows.bits import Bits, Selection
from tokenmill.feed.rows.stretches import Stretches
from tokenmill_schemas.errors import StoreError

Rows = npt.NDArray[np.int64]

#: Rows that a run must have on average. A run takes 28 bytes, a row a bit and a half.
RUN_ROWS = 256
#: Of a run's key, the bits that its first row takes; no shard has so many rows.
_ROW_BITS = 40


@dataclass(frozen=True, slots=True)
class Runs:
    """Shown rows as runs; ``stretches`` has the length of each, in order.

    ``shards`` and ``offsets`` have the shard of each run and its first row there; None where every
    shard is one run, for then a run's number is its shard's.
    """

    stretches: Stretches
    shards: npt.NDArray[np.int32] | None = None
    offsets: Rows | None = None

    @property
    def rows(self) -> int:
        """Number of shown rows."""
        return self.stretches.rows

    def locate(self, rows: Rows) -> tuple[Rows, Rows]:
        """Return the shard of each logical row, and the physical row in that shard."""
        runs = self.stretches.find(rows)
        ranks = rows - self.stretches.starts[runs]
        if self.shards is None or self.offsets is None:
            return runs, ranks
        return self.shards[runs].astype(np.int64), ranks + self.offsets[runs]

    def logical(self, shards: Rows, rows: Rows) -> Rows:
        """Return the logical row of each physical one, -1 where it is not shown."""
        starts = self.stretches.starts
        if self.shards is None or self.offsets is None:
            runs, ranks = shards, rows
        else:
            keys = (self.shards.astype(np.int64) << _ROW_BITS) + self.offsets
            # A row before the first run is taken for one of the last, of which it is none.
            runs = np.searchsorted(keys, (shards << _ROW_BITS) + rows, side="right") - 1
            ranks = np.where(self.shards[runs] == shards, rows - self.offsets[runs], -1)
        shown = (ranks >= 0) & (ranks < starts[runs + 1] - starts[runs])
        return np.where(shown, starts[runs] + ranks, -1)


@dataclass(frozen=True, slots=True)
class Plan:
    """Which rows of which shards are shown, in order; ``samples`` are the rows of each shard."""

    samples: Rows
    index: Runs | Selection

    @classmethod
    def of(cls, samples: npt.ArrayLike, hidden: Mapping[int, Rows] | None = None) -> Plan:
        """Return the plan of shards with so many samples each; zeros are allowed.

        Args:
            samples: Rows of each shard.
            hidden: The rows of a shard, ascending and distinct, that are not shown; by the shard's
                place.
        """
        stored = np.asarray(samples, np.int64)
        if not hidden:
            return cls(stored, Runs(Stretches.of(stored)))
        lengths, shards, offsets = _runs(stored, hidden)
        if len(lengths) > stored.sum() // RUN_ROWS + len(stored):
            return cls(stored, Selection.of(Bits.shown(stored, hidden)))
        return cls(stored, Runs(Stretches.of(lengths), shards.astype(np.int32), offsets))

    @classmethod
    def of_bits(cls, samples: Rows, bits: Bits) -> Plan:
        """Return the plan of shards of which ``bits`` says what is shown."""
        if bits.count_runs() > samples.sum() // RUN_ROWS + len(samples):
            return cls(samples, Selection.of(bits))
        shards, offsets, lengths = bits.runs()
        return cls(samples, Runs(Stretches.of(lengths), shards.astype(np.int32), offsets))

    @property
    def rows(self) -> int:
        """Samples that are shown."""
        return self.index.rows

    def shown_rows(self) -> Rows:
        """Return how many rows of each shard are shown: int64[shards]."""
        shown = np.zeros(len(self.samples), np.int64)
        for first in range(0, self.rows, 2**22):
            rows = np.arange(first, min(first + 2**22, self.rows))
            shown += np.bincount(self.index.locate(rows)[0], minlength=len(shown))
        return shown

    def locate(self, rows: Rows) -> tuple[Rows, Rows]:
        """Return the shard of each logical row, and the physical row in that shard.

        Raises:
            StoreError: a row is outside ``[0, rows)``.
        """
        if not rows.size:
            return rows, rows
        if not 0 <= rows.min() <= rows.max() < self.rows:
            raise StoreError(f"rows must be in [0, {self.rows}), got {rows.min()} to {rows.max()}")
        return self.index.locate(rows)

    def logical(self, shards: Rows, rows: Rows) -> Rows:
        """Return the logical row of row ``rows[i]`` of shard ``shards[i]``, -1 if it is not shown.

        Raises:
            StoreError: there is no such shard.
        """
        if rows.size and not (0 <= shards.min() <= shards.max() < len(self.samples)):
            raise StoreError(f"shards must be in [0, {len(self.samples)})")
        found = np.full(rows.shape, -1, np.int64)
        there = (rows >= 0) & (rows < self.samples[shards]) if self.rows else np.zeros(1, bool)
        if there.any():
            found[there] = self.index.logical(shards[there], rows[there])
        return found


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
