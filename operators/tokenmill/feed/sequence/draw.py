"""Random numbers for shaping tokens: functions of (seed, step, place in the global batch) alone.

A sample gets the same numbers whichever rank, thread or restart reads it, so what a transform makes
of it is part of the deterministic sequence too. The generator is counter-based: a number is the
hash of where it stands (Salmon et al., "Parallel Random Numbers: As Easy as 1, 2, 3", SC 2011),
with the finaliser of splitmix64 (Steele, Lea and Flood, OOPSLA 2014) as its mixer.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from tokenmill.feed.sequence.permutation import derive_key

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Words = npt.NDArray[np.uint64]

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))
#: Numbers that one sample may ask for under one name.
WIDTH_BITS = 40


@dataclass(frozen=True, slots=True)
class Draw:
    """What a transform may draw from, for the ``rows`` samples from place ``first`` of a step.

    Every name is a stream of its own; asking twice under one name gives the same numbers twice.
    """

    seed: int
    step: int
    first: int
    rows: int

    def words(self, name: str, width: int = 1) -> Words:
        """Return uniform ``uint64[rows, width]``.

        Raises:
            ValueError: ``width`` is not in ``[0, 2**40)``.
        """
        if not 0 <= width < 2**WIDTH_BITS:
            raise ValueError(f"width must be in [0, 2**{WIDTH_BITS}), got {width}")
        key = derive_key("draw", self.seed, self.step, name)
        # Two rounds: the place into a key of its own, then the column; no counter can overflow
        # into a neighbour's.
        keys = words_at(key, np.arange(self.first, self.first + self.rows))
        columns = (np.arange(width, dtype=np.uint64) + np.uint64(1)) * _GOLDEN
        return _mix(keys[:, None] + columns)

    def uniform(self, name: str, width: int = 1) -> Floats:
        """Return ``float64[rows, width]`` in ``[0, 1)``, multiples of 2**-53."""
        return np.asarray((self.words(name, width) >> np.uint64(11)) * 2.0**-53, np.float64)

    def integers(self, name: str, high: int, width: int = 1) -> Integers:
        """Return ``int64[rows, width]`` in ``[0, high)``, for ``high`` up to 2**53.

        Raises:
            ValueError: ``high`` is out of range.
        """
        if not 0 < high <= 2**53:
            raise ValueError(f"high must be in (0, 2**53], got {high}")
        found = (self.uniform(name, width) * high).astype(np.int64)
        return np.minimum(found, high - 1)  # a product may round up to ``high``

    def normal(self, name: str, width: int = 1) -> Floats:
        """Return standard normal ``float64[rows, width]`` (Box and Muller 1958)."""
        one = self.uniform(name + "/radius", width)
        two = self.uniform(name + "/angle", width)
        return np.asarray(np.sqrt(-2.0 * np.log1p(-one)) * np.cos(2.0 * np.pi * two))

    def permutations(self, name: str, n: int) -> Integers:
        """Return a permutation of ``range(n)`` for each sample: ``int64[rows, n]``."""
        return np.argsort(self.words(name, n), axis=1, kind="stable")

    def shared(self) -> Draw:
        """Return the draw of one number for the whole step, the same on every rank."""
        step = self.step if self.step < 0 else -1 - self.step  # no step has a negative number
        return replace(self, step=step, first=0, rows=1)


def words_at(key: int, places: Integers) -> Words:
    """Return a uniform word for each of ``places``: a function of it and of ``key``."""
    return _mix(np.uint64(key) + (places.astype(np.uint64) + np.uint64(1)) * _GOLDEN)


def _mix(words: Words) -> Words:
    out = (words ^ (words >> np.uint64(30))) * _MIX[0]
    out = (out ^ (out >> np.uint64(27))) * _MIX[1]
    return np.asarray(out ^ (out >> np.uint64(31)))
