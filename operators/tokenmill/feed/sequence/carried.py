"""Carrying a training job over to another version: what is left of its epoch, and what is new.

The epoch that was begun is finished with the samples that it has not shown and that are still
there, in the order that they would have had, and among them, evenly, what the other version adds.
Nothing that was seen in the epoch is shown again in it, nothing that is new waits for the next one,
and the epochs behind it are the other version's own.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Protocol

import numpy as np

from tokenmill.feed.rows.plan import Plan
from tokenmill.feed.sequence.blend import MAX_TOTAL, Blend
from tokenmill.feed.sequence.lanes import Drawn, Items, Lane, Rows
from tokenmill_schemas.errors import JobError

#: Items whose rows are looked for in the other version at once.
CHUNK_ITEMS = 2**20


@dataclass(frozen=True, slots=True)
class Crossing:
    """Rows of one plan as those of another; ``shards`` has where each shard went, -1 nowhere."""

    before: Plan
    after: Plan
    shards: Rows

    def rows(self, rows: Rows) -> Rows:
        """Return what rows of ``before`` are in ``after``, -1 where they are not shown."""
        shards, within = self.before.locate(rows)
        moved = self.shards[shards]
        there = moved >= 0
        found = np.full(rows.shape, -1, np.int64)
        found[there] = self.after.logical(moved[there], within[there])
        return found

    def drawn(self, drawn: Drawn) -> Drawn:
        """Return items without the rows that are not shown any more."""
        rows = self.rows(drawn.rows)
        if drawn.counts is None:
            return Drawn(rows)
        items = np.repeat(np.arange(len(drawn.counts)), drawn.counts)
        counts = np.bincount(items[rows >= 0], minlength=len(drawn.counts))
        return Drawn(rows[rows >= 0], counts)


class Stretch(Protocol):
    """A sequence of items with an end."""

    def __len__(self) -> int: ...

    def draw(self, places: Items) -> Drawn:
        """Return the rows of the items at those places."""
        ...


@dataclass(frozen=True, slots=True)
class Epoch:
    """One epoch of a lane."""

    lane: Lane
    epoch: int

    def __len__(self) -> int:
        return self.lane.items

    def draw(self, places: Items) -> Drawn:
        """Return the rows of the items at those places."""
        return self.lane.draw(self.epoch * self.lane.items + places)


@dataclass(frozen=True, slots=True)
class Rest:
    """What a stretch has from its ``start``-th item on, but the items in ``gone`` (ascending)."""

    whole: Stretch
    start: int
    crossing: Crossing
    gone: Items

    @classmethod
    def of(cls, whole: Stretch, start: int, crossing: Crossing) -> Rest:
        """Look at all that is left of a stretch for what is not shown any more."""
        rest = cls(whole, start, crossing, np.empty(0, np.int64))
        gone = []
        for first in range(0, len(rest), CHUNK_ITEMS):
            places = np.arange(first, min(first + CHUNK_ITEMS, len(rest)))
            drawn = rest.draw(places)
            lost = drawn.rows < 0 if drawn.counts is None else drawn.counts == 0
            gone.append(places[lost])
        return replace(rest, gone=np.concatenate([rest.gone, *gone]))

    def __len__(self) -> int:
        return len(self.whole) - self.start - len(self.gone)

    def draw(self, places: Items) -> Drawn:
        """Return what items of the rest hold, as rows of the other version."""
        # The place-th that is left: those that are gone and lie before it push it back.
        before = np.searchsorted(self.gone - np.arange(len(self.gone)), places, side="right")
        return self.crossing.drawn(self.whole.draw(self.start + places + before))


@dataclass(frozen=True)
class Chapter:
    """The rest of an epoch with what is new dealt into it evenly."""

    rest: Rest
    fresh: Lane | None
    fresh_crossing: Crossing | None

    def __len__(self) -> int:
        return len(self.rest) + (self.fresh.items if self.fresh else 0)

    def draw(self, places: Items) -> Drawn:
        """Return what items of the chapter hold, as rows of the other version."""
        if self.fresh is None or self.fresh_crossing is None:
            return self.rest.draw(places)
        lanes, numbers = self._blend.at(places)
        old, new = np.flatnonzero(lanes == 0), np.flatnonzero(lanes == 1)
        parts = [
            (old, self.rest.draw(numbers[old])),
            (new, self.fresh_crossing.drawn(self.fresh.draw(numbers[new]))),
        ]
        return _laid(parts, len(places))

    @cached_property
    def _blend(self) -> Blend:
        weights = (len(self.rest), self.fresh.items if self.fresh else 0)
        if sum(weights) > MAX_TOTAL:
            raise JobError(
                f"{sum(weights)} items are left or new, more than {MAX_TOTAL}: finish the epoch on "
                "the version that it was begun with",
                path="state",
            )
        return Blend(((0, weights),))


@dataclass(frozen=True, slots=True)
class ShiftedLane:
    """A lane whose epoch ``epoch`` begins with the item of number ``start``."""

    lane: Lane
    start: int
    epoch: int

    @property
    def items(self) -> int:
        """Items of one epoch."""
        return self.lane.items

    def draw(self, numbers: Items) -> Drawn:
        """Return the rows of the items of those numbers.

        Raises:
            JobError: an item was given out before the state was carried over.
        """
        if numbers.size:
            _check_after(int(numbers.min()), self.start)
        return self.lane.draw(numbers - self.start + self.epoch * self.items)

    def numbers_of(self, row: int, epoch: int) -> list[int]:
        """Return the numbers of an epoch's items that hold a row."""
        shift = self.start - self.epoch * self.items
        return [n + shift for n in self.lane.numbers_of(row, epoch)] if epoch >= self.epoch else []

    def place_of(self, number: int) -> tuple[int, int]:
        """Return an item's epoch, and its place in it.

        Raises:
            JobError: the item was given out before the state was carried over.
        """
        _check_after(number, self.start)
        epoch, place = divmod(number - self.start, self.items)
        return self.epoch + epoch, place

    def number_of(self, epoch: int, place: int) -> int:
        """Return the number of an epoch's item."""
        return self.start + (epoch - self.epoch) * self.items + place


@dataclass(frozen=True, slots=True)
class CarriedLane:
    """A chapter that ends the epoch which another version began, then epochs of a lane's own.

    ``start`` is the number of the chapter's first item, ``place`` its place in the epoch, and
    ``length`` how many items the chapter has in whole batches: more than it holds if its own first
    items complete the last one.
    """

    chapter: Chapter
    start: int
    place: int
    length: int
    then: ShiftedLane

    @property
    def items(self) -> int:
        """Items of one epoch behind the chapter."""
        return self.then.items

    @property
    def epoch(self) -> int:
        """The epoch that the chapter ends."""
        return self.then.epoch - 1

    def draw(self, numbers: Items) -> Drawn:
        """Return the rows of the items of those numbers.

        Raises:
            JobError: an item was given out before the state was carried over.
        """
        if numbers.size:
            _check_after(int(numbers.min()), self.start)
        old = numbers < self.then.start
        places = (numbers[old] - self.start) % max(1, len(self.chapter))
        parts = [
            (np.flatnonzero(old), self.chapter.draw(places)),
            (np.flatnonzero(~old), self.then.draw(numbers[~old])),
        ]
        return _laid(parts, len(numbers))

    def numbers_of(self, row: int, epoch: int) -> list[int]:
        """Return the numbers of an epoch's items that hold a row; the chapter is searched."""
        if epoch != self.epoch:
            return self.then.numbers_of(row, epoch)
        found = []
        for first in range(0, self.length, CHUNK_ITEMS):
            numbers = np.arange(first, min(first + CHUNK_ITEMS, self.length)) + self.start
            drawn = self.draw(numbers)
            items = numbers if drawn.counts is None else np.repeat(numbers, drawn.counts)
            found += items[drawn.rows == row].tolist()
        return found

    def place_of(self, number: int) -> tuple[int, int]:
        """Return an item's epoch, and its place in it.

        Raises:
            JobError: the item was given out before the state was carried over.
        """
        _check_after(number, self.start)
        if number >= self.then.start:
            return self.then.place_of(number)
        return self.epoch, self.place + number - self.start

    def number_of(self, epoch: int, place: int) -> int:
        """Return the number of an epoch's item."""
        if epoch > self.epoch:
            return self.then.number_of(epoch, place)
        return self.start + place - self.place


def _check_after(number: int, start: int) -> None:
    if number < start:
        raise JobError(
            f"item {number} was given out by the version before, which ends with item {start}: ask "
            "a feed of that version",
            path="feed.step",
        )


def _laid(parts: list[tuple[Items, Drawn]], items: int) -> Drawn:
    """Return items of several sources, each at its places."""
    if any(drawn.counts is not None for places, drawn in parts if len(places)):
        counts = np.zeros(items, np.int64)
        for places, drawn in parts:
            if drawn.counts is not None:
                counts[places] = drawn.counts
        rows = np.empty(int(counts.sum()), np.int64)
        owner = np.repeat(np.arange(items), counts)
        for places, drawn in parts:
            mine = np.zeros(items, bool)
            mine[places] = True
            rows[mine[owner]] = drawn.rows
        return Drawn(rows, counts)
    rows = np.empty(items, np.int64)
    for places, drawn in parts:
        rows[places] = drawn.rows
    return Drawn(rows)
