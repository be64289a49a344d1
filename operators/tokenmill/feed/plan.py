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


@dataclass(frozen=True, slots=True)
class Plan:
    """Cumulative live samples of the shards: ``starts`` has one entry a shard and a last one."""

    starts: Rows

    @classmethod
    def of(cls, samples: npt.ArrayLike) -> Plan:
        """Return the plan of shards with so many live samples each; zeros are allowed."""
        return cls(np.concatenate([[0], np.cumsum(samples, dtype=np.int64)]))

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
        shards = np.searchsorted(self.starts, rows, side="right") - 1
        return shards, self._select(rows - self.starts[shards])

    def _select(self, ranks: Rows) -> Rows:
        """Return the physical row of the rank-th live sample of a shard: no sample is hidden."""
        return ranks
