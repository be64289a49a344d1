"""What one store of a feed costs in an epoch: samples, tokens, bytes, and requests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tokenmill.feed.costs.fetching import Cut, Fetched
from tokenmill.feed.costs.files import Files, mean_positions, open_files, shown_rows
from tokenmill.feed.feed import Feed
from tokenmill.feed.parts import OpenedPart
from tokenmill.feed.sequence.buckets import BucketLane
from tokenmill.feed.sequence.carried import CarriedLane, ShiftedLane
from tokenmill.feed.sequence.lanes import Lane, RowLane
from tokenmill.feed.sequence.order import BLOCK_ROWS, WINDOW_BLOCKS
from tokenmill.feed.sequence.packing import PackedLane, Packing
from tokenmill.feed.sequence.schedule import Schedule
from tokenmill_schemas.errors import JobError

Rows = npt.NDArray[np.int64]

#: Rows of open shuffle windows that are looked at, at the most.
WINDOW_ROWS = 2**20
#: Bytes that are fetched again with too small a cache, up to which windows are said to fit pieces.
AGAIN = 1.1


@dataclass(frozen=True, slots=True)
class PartEstimate:
    """One store's part of an epoch of the feed.

    Attributes:
        name: The part's name, else its store's URI.
        share: Its share of the items (samples, windows or batches) of a step.
        samples: How many samples it shows.
        epoch_samples: How many an epoch of the feed has of it, repeated ones counted; of packed
            windows that are not all shown it is the mean.
        tokens: Positions of each stream in them; of a packed stream its special ids, too.
        padding: Positions of its packed windows that hold no id.
        stored_bytes: Size of the files that hold its samples.
        read_bytes: What of them is read in an epoch: the chosen streams and columns.
        exact: Whether the lengths of all samples were looked at, and not only some.
    """

    name: str
    share: float
    samples: int
    epoch_samples: int
    tokens: dict[str, int]
    padding: int
    stored_bytes: int
    read_bytes: int
    exact: bool


@dataclass(frozen=True, slots=True)
class Windows:
    """What the open shuffle windows of a part on an object store need, and what it costs.

    ``window`` fetches the pieces that they need once, ``once`` everything that an epoch shows.
    ``cache_bytes`` are the pieces that must be kept so that none is fetched twice in an epoch;
    ``again_bytes`` are fetched if only those of open windows are kept.
    """

    once: Fetched
    window: Fetched
    cache_bytes: int
    again_bytes: int


@dataclass(frozen=True, slots=True, eq=False)
class PartCosts:
    """A part, its lane, its files, and how many items of the lane an epoch of the feed has."""

    part: OpenedPart
    lane: Lane
    items: int
    rows_per_item: float
    lengths: dict[str, float]
    exact: bool
    files: tuple[Files, ...]

    @property
    def epoch_samples(self) -> int:
        """Samples of an epoch."""
        return round(self.items * self.rows_per_item)

    @property
    def row_bytes(self) -> float:
        """Bytes that are read of a sample."""
        return sum(files.row_bytes for files in self.files)

    def estimate(self, share: float, packing: Packing | None) -> PartEstimate:
        """Return the part's costs."""
        count, plan = self.epoch_samples, self.part.opened.plan
        tokens = {name: round(length * count) for name, length in self.lengths.items()}
        padding = 0
        if packing is not None:
            tokens[packing.stream], padding = _ids(self.lane, packing, self.items)
        there = shown_rows(plan) > 0
        return PartEstimate(
            name=self.part.name,
            share=share,
            samples=plan.rows,
            epoch_samples=count,
            tokens=tokens,
            padding=padding,
            stored_bytes=sum(int(files.bytes[there].sum()) for files in self.files),
            read_bytes=round(count * self.row_bytes),
            exact=self.exact,
        )

    def first(self, rows: Rows) -> Fetched:
        """Return what has to be fetched to have some rows."""
        found = [Cut.of(files).of_rows(*self.part.opened.plan.locate(rows)) for files in self.files]
        return Fetched(sum(f.requests for f in found), sum(f.bytes for f in found))

    def windows(self, feed: Feed) -> Windows:
        """Return what open shuffle windows need."""
        plan, items = self.part.opened.plan, self._window_items(feed)
        rows = np.unique(self.lane.draw(np.arange(items)).rows)
        shards, places = plan.locate(rows)
        there = shown_rows(plan) > 0
        once, window, stored = Fetched(0, 0), Fetched(0, 0), 0
        for files in self.files:
            cut = Cut.of(files)
            once = _added(once, cut.all_of(there))
            window = _added(window, cut.of_rows(shards, places))
            stored = max(stored, cut.stored_rows(shards, places))
        passes = self.items / self.lane.items
        once = Fetched(*(round(value * min(1.0, passes)) for value in once))
        again = max(once.bytes, round(window.bytes * self.items / items))
        if self._is_in_order(feed):  # what a step leaves of its last piece is the next one's
            again = once.bytes
        fits = again <= AGAIN * once.bytes
        return Windows(once, window, window.bytes if fits else once.bytes, again)

    def _window_items(self, feed: Feed) -> int:
        """Return how many items of the lane the shuffle windows that are open at a time have."""
        settings, rows = feed.settings, self.part.opened.plan.rows
        blocks = -(-rows // BLOCK_ROWS)
        wanted = rows / max(1, round(blocks / WINDOW_BLOCKS))
        if self._is_in_order(feed):
            wanted = settings.batch_size
        elif isinstance(self.lane, BucketLane):
            wanted *= len(self.lane.batches)
        items = round(min(wanted, WINDOW_ROWS) / self.rows_per_item)
        return max(1, min(items, self.lane.items))

    def _is_in_order(self, feed: Feed) -> bool:
        return feed.settings.shuffle == "none" and isinstance(self.lane, RowLane)


def open_costs(feed: Feed) -> tuple[PartCosts, ...]:
    """Return what the costs of a feed's parts are computed from.

    Raises:
        JobError: the feed follows a store, and so has no epoch.
        CorruptShardError: a manifest, or a file that tells the columns, is damaged.
    """
    schedule = feed.source.schedule
    if not isinstance(schedule, Schedule):
        raise JobError(
            "an epoch of a store that is still written has no end: estimate the version that is "
            "there, without follow",
            path="feed.follow",
        )
    if any(isinstance(lane, CarriedLane | ShiftedLane) for lane in schedule.lanes):
        raise JobError(
            "this feed goes on from another version's state: estimate one that does not",
            path="state",
        )
    items = epoch_items(schedule)
    return tuple(
        _open(feed, *entry) for entry in zip(feed.parts, schedule.lanes, items, strict=True)
    )


def epoch_items(schedule: Schedule) -> Sequence[int]:
    """Return how many items of each lane an epoch has."""
    items = schedule.epoch_steps() * schedule.step_items
    return [items] if schedule.blend is None else schedule.blend.counts(items)


def _open(feed: Feed, part: OpenedPart, lane: Lane, items: int) -> PartCosts:
    found = {stream.name: mean_positions(part, stream) for stream in part.opened.streams}
    lengths = {name: length for name, (length, _) in found.items()}
    exact = all(whole for _, whole in found.values())
    files = open_files(part, lengths)
    return PartCosts(part, lane, items, _rows_per_item(feed, part, lane), lengths, exact, files)


def _rows_per_item(feed: Feed, part: OpenedPart, lane: Lane) -> float:
    if feed.settings.buckets:
        return feed.settings.batch_size
    if not isinstance(lane, PackedLane):
        return 1.0
    return (part.opened.plan.rows - lane.plan.left_out) / lane.plan.windows


def _ids(lane: Lane, packing: Packing, windows: int) -> tuple[int, int]:
    """Return the positions of so many windows that hold ids, and those that hold none."""
    positions = windows * packing.length
    padding = round(positions * (lane.plan.padding_share if isinstance(lane, PackedLane) else 0))
    return positions - padding, padding


def _added(one: Fetched, other: Fetched) -> Fetched:
    return Fetched(one.requests + other.requests, one.bytes + other.bytes)
