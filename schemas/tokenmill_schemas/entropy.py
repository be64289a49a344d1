"""How varied ids are, as sums of integers that add up from shards to versions.

The entropy that a histogram has grows with how much it counts, so that of ten pictures tells
nothing about that of a million. Means over groups of equally many samples can be compared, whatever
their number: `GROUPS` are the sizes of such groups. What is kept of all groups of one size is four
sums, which add and subtract exactly.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

#: Samples of a group: one by one, and eight that follow each other in a shard.
GROUPS = (1, 8)
#: Per stream, per size of a group (as text, for JSON): the sums that `Entropy` explains.
EntropySums = dict[str, dict[str, dict[str, int]]]

NAMES: tuple[str, ...] = ("groups", "millibits", "squares", "ids")


@dataclass(frozen=True, slots=True)
class Entropy:
    """The sums of one stream over ``groups`` groups of one size.

    ``millibits`` sums the groups' entropies in thousandths of a bit per id, ``squares`` the squares
    of those integers, ``ids`` the numbers of different ids (of a binary code: 0, not counted).
    """

    groups: int = 0
    millibits: int = 0
    squares: int = 0
    ids: int = 0

    @property
    def mean_bits(self) -> float:
        """Mean entropy of a group, in bits per id."""
        return self.millibits / (1000 * max(1, self.groups))

    @property
    def error_bits(self) -> float:
        """Standard error of `mean_bits`; 0 of a single group, of which none is known."""
        if self.groups < 2:
            return 0.0
        # Exact integers until the very end: the difference of large sums would cancel.
        scatter = self.groups * self.squares - self.millibits**2
        return math.sqrt(scatter / (self.groups - 1)) / (1000 * self.groups)

    @property
    def mean_ids(self) -> float:
        """Mean number of different ids of a group."""
        return self.ids / max(1, self.groups)


def entropy_of(sums: EntropySums, stream: str, size: int) -> Entropy:
    """Return what ``sums`` say of a stream by groups of ``size``; no groups if they say nothing."""
    kept = sums.get(stream, {}).get(str(size), {})
    return Entropy(**{name: kept.get(name, 0) for name in NAMES})


def combine(*parts: EntropySums, less: EntropySums | None = None) -> EntropySums:
    """Return the sums of all ``parts``, without those of ``less``; what comes to 0 is left out."""
    total: dict[tuple[str, str], dict[str, int]] = {}
    for sign, part in (*((1, part) for part in parts), (-1, less or {})):
        for stream, sizes in part.items():
            for size, sums in sizes.items():
                _add(total.setdefault((stream, size), dict.fromkeys(NAMES, 0)), sums, sign)
    combined: EntropySums = {}
    for (stream, size), sums in total.items():
        if sums["groups"]:
            combined.setdefault(stream, {})[size] = sums
    return combined


def _add(total: dict[str, int], sums: Mapping[str, int], sign: int) -> None:
    for name in NAMES:
        total[name] += sign * sums.get(name, 0)
