"""Consecutive stretches of rows: in which of them a row is."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Rows = npt.NDArray[np.int64]

#: Guesses that are corrected one stretch at a time, before stretches of very mixed sizes are
#: searched.
CORRECTIONS = 3


@dataclass(frozen=True, slots=True)
class Stretches:
    """Cumulative rows of stretches: ``starts`` has one entry a stretch and a last one.

    ``guesses`` has the stretch of every ``2**shift``-th row, about one entry a stretch: where they
    are of similar size it finds a row's stretch with a fraction of a binary search's cache misses.
    """

    starts: Rows
    guesses: Rows
    shift: int

    @classmethod
    def of(cls, lengths: npt.NDArray[np.integer]) -> Stretches:
        """Return stretches of so many rows each; zeros are allowed."""
        starts = np.zeros(len(lengths) + 1, np.int64)
        np.cumsum(lengths, out=starts[1:])
        rows = int(starts[-1])
        shift = max(0, (rows // max(1, len(lengths))).bit_length() - 1)
        marks = -(-rows >> shift)
        # A stretch is the one of every mark from its start on, until the next one begins. In place,
        # for what takes long of a million is that the kernel hands out their memory.
        firsts = starts[:-1] + ((1 << shift) - 1)
        firsts >>= shift
        guesses = np.bincount(firsts, minlength=marks)[:marks]
        np.cumsum(guesses, out=guesses)
        guesses -= 1
        return cls(starts, guesses, shift)

    @property
    def rows(self) -> int:
        """Rows of all stretches."""
        return int(self.starts[-1])

    def find(self, rows: Rows) -> Rows:
        """Return the stretch of each row; all are in ``[0, self.rows)``."""
        found: Rows = self.guesses[rows >> self.shift]
        ends = self.starts[1:]
        for _ in range(CORRECTIONS):
            before = ends[found] <= rows
            if not before.any():
                return found
            found += before
        return np.searchsorted(self.starts, rows, side="right") - 1
