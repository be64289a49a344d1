"""Which rows of which stores every step has: pure arithmetic, without reading data.

A step is some items of the blended lanes: ``batch_size`` rows or packed windows, or one batch of a
bucket. Ranks share it out: rank r of n has the r-th of n equal parts, in order.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from tokenmill.feed.sequence.blend import Blend
from tokenmill.feed.sequence.carried import CarriedLane, ShiftedLane
from tokenmill.feed.sequence.lanes import Items, Lane, Rows

#: Ends of epochs of a mixture that are kept, for they are searched for.
KEPT_ENDS = 64
#: Items that a feed may show: their numbers, and sums of them, fit 63 bits.
MAX_ITEMS = 2**61


@dataclass(frozen=True, slots=True)
class Place:
    """One rank's part of every step."""

    rank: int
    world_size: int


@dataclass(frozen=True, slots=True)
class Span:
    """Rows of some steps, in order: ``bounds[i]`` to ``bounds[i + 1]`` are those of the i-th.

    ``parts`` says which store each row is of (None: the only one), ``windows`` how many rows each
    packed window has, all windows of the span in order (None: rows are not packed).
    """

    first: int
    stride: int
    rows: Rows
    bounds: Rows
    parts: Rows | None = None
    windows: Rows | None = None

    @property
    def steps(self) -> int:
        """Number of steps."""
        return len(self.bounds) - 1

    def step(self, index: int) -> int:
        """Return the number of the span's ``index``-th step."""
        return self.first + index * self.stride

    def split(self, steps: int) -> Iterator[Span]:
        """Yield this span in spans of at most so many steps."""
        windows = 0
        for i in range(0, self.steps, steps):
            bounds = self.bounds[i : i + steps + 1]
            part = slice(int(bounds[0]), int(bounds[-1]))
            mine = None
            if self.windows is not None:
                count = len(self.windows) // self.steps * (len(bounds) - 1)
                mine, windows = self.windows[windows : windows + count], windows + count
            yield Span(
                self.step(i),
                self.stride,
                self.rows[part],
                bounds - bounds[0],
                None if self.parts is None else self.parts[part],
                mine,
            )


def check_step(step: int, step_items: int = 1) -> None:
    """Check that there may be such a step, of so many items.

    Raises:
        ValueError: it is negative, or so far away that its items have no number.
    """
    if not 0 <= step < MAX_ITEMS // step_items:
        raise ValueError(f"steps are numbered from 0 to {MAX_ITEMS // step_items - 1}, got {step}")


class StepSamples(NamedTuple):
    """The samples of one step's global batch.

    ``rows`` number the samples that a store shows, in manifest order; ``parts`` says which store of
    a mixture (0 where there is one); ``windows`` how many samples each packed window has, None
    where samples are not packed.
    """

    epoch: int
    rows: Rows
    parts: Rows
    windows: Rows | None


@dataclass(frozen=True, slots=True)
class Schedule:
    """The order of everything; ``blend`` None is a single lane.

    ``whole_batches`` says that an item is a batch of ``batch_size`` rows and not a part of one.
    """

    lanes: tuple[Lane, ...]
    blend: Blend | None
    batch_size: int
    whole_batches: bool = False
    _ends: dict[int, int] = field(default_factory=dict, compare=False, repr=False)

    @property
    def step_items(self) -> int:
        """Items of a step."""
        return 1 if self.whole_batches else self.batch_size

    def epoch_steps(self, epochs: int = 1) -> int:
        """Return the steps of so many epochs: until the first store has been shown as often."""
        if self.blend is None:
            return epochs * self.lanes[0].items // self.step_items
        if epochs not in self._ends:
            if len(self._ends) >= KEPT_ENDS:
                self._ends.clear()
            self._ends[epochs] = self._search_end(epochs)
        return self._ends[epochs]

    def _search_end(self, epochs: int) -> int:
        low, high = 0, 1
        while self._epoch_of(high - 1) < epochs:
            low, high = high, 2 * high
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if self._epoch_of(middle - 1) < epochs else (low, middle)
        return low

    def total_steps(self) -> int | None:
        """Return all steps that there will ever be: None, for a schedule goes on for ever."""
        return None

    def locate(self, step: int) -> tuple[int, int]:
        """Return a step's epoch and its first item in it; batches of a bucket count their rows."""
        lane = self.lanes[0]
        if isinstance(lane, CarriedLane | ShiftedLane):
            return lane.place_of(step * self.batch_size)
        epoch = self._epoch_of(step)
        return epoch, (step - self.epoch_steps(epoch)) * self.batch_size

    def step_at(self, epoch: int, position: int) -> int:
        """Return the step that begins with an item of an epoch."""
        lane = self.lanes[0]
        if isinstance(lane, CarriedLane | ShiftedLane):
            return lane.number_of(epoch, position) // self.batch_size
        return self.epoch_steps(epoch) + position // self.batch_size

    def end_of(self, epochs: int) -> int:
        """Return the steps of so many epochs, counted from the start of training."""
        lane = self.lanes[0]
        if isinstance(lane, CarriedLane | ShiftedLane):
            return self.step_at(epochs, 0)
        return self.epoch_steps(epochs)

    def span(self, steps: range, place: Place) -> Span:
        """Return a rank's rows of some steps."""
        share = self.batch_size // place.world_size
        numbers = np.arange(steps.start, steps.stop, steps.step)
        if self.whole_batches:
            return self._batches(
                steps, numbers, slice(place.rank * share, (place.rank + 1) * share)
            )
        items = numbers[:, None] * self.batch_size
        items = (items + np.arange(place.rank * share, (place.rank + 1) * share)).ravel()
        parts, rows, counts = self._draw(items)
        if counts is None:
            return Span(steps.start, steps.step, rows, np.arange(len(steps) + 1) * share, parts)
        ends = np.concatenate([[0], np.cumsum(counts)])
        if parts is not None:
            parts = np.repeat(parts, counts)
        return Span(steps.start, steps.step, rows, ends[::share], parts, counts)

    def samples_of(self, step: int) -> StepSamples:
        """Return the samples of a step's global batch."""
        check_step(step, self.step_items)
        span = self.span(range(step, step + 1), Place(0, 1))
        parts = np.zeros(len(span.rows), np.int64) if span.parts is None else span.parts
        return StepSamples(self.locate(step)[0], span.rows, parts, span.windows)

    def steps_of(self, part: int, row: int, epochs: range) -> list[int]:
        """Return the steps that show a row of a store in some of that store's epochs."""
        found: set[int] = set()
        for epoch in epochs:
            for number in self.lanes[part].numbers_of(row, epoch):
                item = number if self.blend is None else self.blend.item_of(part, number)
                if item is not None:
                    found.add(item // self.step_items)
        return sorted(found)

    def _epoch_of(self, step: int) -> int:
        """Return the epoch in which a step ends: no store was shown more often by then."""
        if self.blend is None:
            return step // self.epoch_steps()
        counts = self.blend.counts((step + 1) * self.step_items)
        return max(-(-c // lane.items) for c, lane in zip(counts, self.lanes, strict=True)) - 1

    def _batches(self, steps: range, numbers: Items, part: slice) -> Span:
        lanes, rows, counts = self._draw(numbers)
        if counts is None:
            raise ValueError("items of a schedule of whole batches must be batches")
        mine = rows.reshape(len(numbers), self.batch_size)[:, part]
        bounds = np.arange(len(numbers) + 1) * mine.shape[1]
        if lanes is not None:
            lanes = np.repeat(lanes, mine.shape[1])
        return Span(steps.start, steps.step, mine.ravel(), bounds, lanes)

    def _draw(self, items: Items) -> tuple[Rows | None, Rows, Rows | None]:
        """Return the lane of every item, the rows of all items in order, and rows per item."""
        if self.blend is None:
            drawn = self.lanes[0].draw(items)
            return None, drawn.rows, drawn.counts
        lanes, numbers = self.blend.at(items)
        return (lanes, *_joined(self.lanes, lanes, numbers))


def _joined(all_lanes: Sequence[Lane], lanes: Items, numbers: Items) -> tuple[Rows, Rows | None]:
    """Return the rows of items of several lanes, in the order of the items."""
    places = [np.flatnonzero(lanes == lane) for lane in range(len(all_lanes))]
    drawn = [lane.draw(numbers[where]) for lane, where in zip(all_lanes, places, strict=True)]
    if all(d.counts is None for d in drawn):
        rows = np.empty(len(lanes), np.int64)
        for where, some in zip(places, drawn, strict=True):
            rows[where] = some.rows
        return rows, None
    counts = np.zeros(len(lanes), np.int64)
    for where, some in zip(places, drawn, strict=True):
        counts[where] = 1 if some.counts is None else some.counts
    ends = np.cumsum(counts)
    rows = np.empty(int(ends[-1]) if len(ends) else 0, np.int64)
    for where, some in zip(places, drawn, strict=True):
        rows[ranges(ends[where] - counts[where], counts[where])] = some.rows
    return rows, counts


def ranges(starts: npt.NDArray[np.int64], counts: npt.NDArray[np.int64]) -> Rows:
    """Return ``starts[0], starts[0] + 1, ...``: ``counts[i]`` numbers from each of ``starts``."""
    total = int(counts.sum())
    firsts = np.cumsum(counts) - counts
    return np.asarray(np.arange(total) + np.repeat(starts - firsts, counts))
