"""Mixing sequences by weight: which sequence the k-th item is of, and which of its items it is.

A function of k, not a list: an exact integer recurrence, as Grain's mixing does it. Of the first k
items, ``(k * weight + total / 2) // total`` are of the first sequence, the rest are mixed of the
other ones in the same way. In every cycle of ``total`` items each sequence has exactly its weight.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from math import gcd, lcm

import numpy as np
import numpy.typing as npt

from tokenmill_schemas.errors import JobError

Items = npt.NDArray[np.int64]

#: Sum of the integer weights at the most: products with a number below it fit 63 bits.
MAX_TOTAL = 2**31


@dataclass(frozen=True)
class Blend:
    """Weighted interleaving; ``stages`` are (first item, weights), the first one at item 0.

    Weights are integers, one a sequence, with a sum of at most `MAX_TOTAL`; see `integer_weights`.
    """

    stages: tuple[tuple[int, tuple[int, ...]], ...]

    def at(self, items: Items) -> tuple[Items, Items]:
        """Return for each of ``items`` its sequence and its number in that sequence."""
        if len(self.stages) == 1:
            return _split(items, self.stages[0][1])
        stage = np.searchsorted(self._starts, items, side="right") - 1
        lanes, numbers = np.empty_like(items), np.empty_like(items)
        for i in np.unique(stage).tolist():
            where = stage == i
            start, weights = self.stages[i]
            lane, number = _split(items[where] - start, weights)
            lanes[where], numbers[where] = lane, number + self._before[i][lane]
        return lanes, numbers

    def counts(self, item: int) -> list[int]:
        """Return how many of the items before ``item`` each sequence has."""
        stage = int(np.searchsorted(self._starts, item, side="right")) - 1
        start, weights = self.stages[stage]
        before = self._before[stage]
        return [b + c for b, c in zip(before.tolist(), _counts(item - start, weights), strict=True)]

    def item_of(self, lane: int, number: int) -> int | None:
        """Return the item that is the ``number``-th of a sequence; None if it never comes."""
        low, high = 0, 1
        while self.counts(high)[lane] <= number:
            if high > 2**61:
                return None
            low, high = high, 2 * high
        while high - low > 1:
            middle = (low + high) // 2
            if self.counts(middle)[lane] <= number:
                low = middle
            else:
                high = middle
        return low

    @cached_property
    def _starts(self) -> Items:
        return np.array([start for start, _ in self.stages], np.int64)

    @cached_property
    def _before(self) -> list[Items]:
        """Items of each sequence before each stage."""
        before = [np.zeros(len(self.stages[0][1]), np.int64)]
        for (start, weights), (end, _) in zip(self.stages, self.stages[1:], strict=False):
            before.append(before[-1] + np.array(_counts(end - start, weights), np.int64))
        return before


def integer_weights(weights: Sequence[float]) -> tuple[int, ...]:
    """Return the smallest integers in proportion to ``weights``, which are read as decimals.

    Raises:
        JobError: a weight is no number or negative, none is positive, or they have too many digits.
    """
    try:
        fractions = [Fraction(str(weight)) for weight in weights]
    except ValueError as error:
        raise JobError(f"are {list(weights)}: not all are numbers", path="mixture") from error
    if not fractions or min(fractions) < 0 or not any(fractions):
        raise JobError(
            f"are {list(weights)}: none may be negative and one must be positive", path="mixture"
        )
    scale = lcm(*(f.denominator for f in fractions))
    whole = [int(f * scale) for f in fractions]
    common = gcd(*whole)
    whole = [w // common for w in whole]
    if sum(whole) > MAX_TOTAL:
        raise JobError(
            f"are {list(weights)}: as integers they add up to {sum(whole)}, more than "
            f"{MAX_TOTAL}; give fewer digits",
            path="mixture",
        )
    return tuple(whole)


def _share(items: Items, weight: int, total: int) -> Items:
    cycles, rest = np.divmod(items, total)
    return np.asarray(cycles * weight + (rest * weight + total // 2) // total)


def _counts(items: int, weights: Sequence[int]) -> list[int]:
    found, total = [], sum(weights)
    for weight in weights[:-1]:
        mine = 0
        if weight:
            cycles, rest = divmod(items, total)
            mine = cycles * weight + (rest * weight + total // 2) // total
        found.append(mine)
        items, total = items - mine, total - weight
    return [*found, items]


def _split(items: Items, weights: Sequence[int]) -> tuple[Items, Items]:
    lanes = np.full(items.shape, len(weights) - 1, np.int64)
    rest, total = items.copy(), sum(weights)
    taken = np.zeros(items.shape, bool)
    for lane, weight in enumerate(weights[:-1]):
        if not weight:
            continue
        before = _share(rest, weight, total)
        hit = ~taken & (_share(rest + 1, weight, total) > before)
        lanes[hit] = lane
        rest = np.where(hit, before, np.where(taken, rest, rest - before))
        taken |= hit
        total -= weight
        if not total:
            break
    return lanes, rest
