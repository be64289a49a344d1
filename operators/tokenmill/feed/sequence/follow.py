"""Follow mode: training on a store while it is written, in an order that no commit changes.

The sequence is made of chapters, one a version: first the samples of the version that is begun
with, then what each later version adds, every chapter shuffled in itself. Which samples a step has
is therefore known from the log alone, whenever a rank looks at it: the order of the prefix is
frozen, ranks that saw a commit early or late agree, and a restore is exact. A tag ends it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from tokenmill.feed.parts import OpenedPart, Part
from tokenmill.feed.sequence.lanes import Items, RowLane, Rows
from tokenmill.feed.sequence.order import Order, Shuffle
from tokenmill.feed.sequence.permutation import derive_key
from tokenmill.feed.sequence.schedule import Place, Span, StepSamples
from tokenmill.store import Store
from tokenmill.store.refs import NAME, RESERVED
from tokenmill_schemas.errors import JobError, SnapshotNotFoundError, StoreError
from tokenmill_schemas.snapshot import Snapshot


@dataclass(frozen=True, slots=True)
class Follow:
    """How a store is followed.

    ``until`` is the tag that will name the last version; `tokenmill tag` sets it when the corpus is
    whole. ``poll_s`` is how often the log is looked at while the feed waits, and ``patience_s`` how
    long it waits for a commit before it gives up with an error (None: for ever).

    Raises:
        JobError: a value is impossible.
    """

    until: str
    poll_s: float = 5.0
    patience_s: float | None = None

    def __post_init__(self) -> None:
        if not NAME.fullmatch(self.until) or self.until in RESERVED:
            raise JobError(f"is {self.until!r}, which no tag can be", path="feed.follow.until")
        if self.poll_s < 0 or (self.patience_s is not None and self.patience_s < 0):
            raise JobError("poll_s and patience_s must not be negative", path="feed.follow")


@dataclass(slots=True)
class Chapters:
    """The chapters that are committed so far; grows, and never changes what it had."""

    open_part: Callable[[Part], OpenedPart]
    part: Part
    follow: Follow
    parts: list[OpenedPart] = field(default_factory=list)
    ends: list[int] = field(default_factory=list)
    newest: Snapshot | None = None
    last: int | None = None
    lock: threading.Lock = field(default_factory=threading.Lock)

    def look(self) -> None:
        """Open what was committed since the last look."""
        with self.lock:
            if self.closed:
                return
            store = self._store()
            if self.newest is None:
                self._add(self.part, self._first(store))
            # The tag before the head, for what it names is committed by then.
            last = self._tagged(store)
            head = store.log.head_number() if last is None else last
            for number in range(self._number() + 1, head + 1):
                snapshot = store.log.read(number)
                self._add(replace(self.part, since=self.newest), snapshot)
            self.last = last

    @property
    def closed(self) -> bool:
        """Whether the last chapter is known."""
        return self.last is not None

    @property
    def rows(self) -> int:
        """Samples of all chapters, up to that of the tag: it may name one that was passed."""
        last = self.last
        if last is None:
            return self.ends[-1] if self.ends else 0
        rows = list(self.ends)
        there = [part.snapshot.number <= last for part in self.parts[: len(rows)]]
        return rows[there.count(True) - 1]

    def __reduce__(self) -> tuple[object, ...]:
        return Chapters, (self.open_part, self.part, self.follow)

    def _store(self) -> Store:
        return Store.open(self.part.store) if isinstance(self.part.store, str) else self.part.store

    def _first(self, store: Store) -> Snapshot:
        ref = self.part.ref
        if ref is None:
            return store.log.read(store.log.numbers()[0])
        found: Snapshot = ref if isinstance(ref, Snapshot) else store.snapshot(ref)
        self._check_branch(store, found, f"version {found.number}")
        return found

    def _tagged(self, store: Store) -> int | None:
        """Return the number of the last version, None as long as there is no tag."""
        tag = self.follow.until
        try:
            found: Snapshot = store.snapshot(tag)
        except SnapshotNotFoundError:
            return None
        if tag in store.refs.branches():
            raise StoreError(f"{tag!r} is a branch, and no tag that ends it", uri=store.uri)
        self._check_branch(store, found, f"tag {tag!r}")
        first = self.parts[0].snapshot.number
        if found.number < first:
            raise StoreError(
                f"tag {tag!r} names version {found.number}, before version {first}, with which "
                "the feed begins: nothing is left to follow",
                uri=store.uri,
            )
        return found.number

    def _check_branch(self, store: Store, snapshot: Snapshot, what: str) -> None:
        """Check that a version is one of the branch that is followed."""
        try:
            mine = store.log.read(snapshot.number).commit_id
        except SnapshotNotFoundError:
            mine = ""
        if mine != snapshot.commit_id:
            raise StoreError(
                f"{what} is of branch {snapshot.branch!r}, the feed follows {store.branch!r}: give "
                "it Store.open(uri).on(branch)",
                uri=store.uri,
            )

    def _number(self) -> int:
        return self.newest.number if self.newest else 0

    def _add(self, part: Part, snapshot: Snapshot) -> None:
        opened = self.open_part(replace(part, ref=snapshot))
        self.newest = snapshot
        if opened.opened.plan.rows or not self.parts:
            before = self.ends[-1] if self.ends else 0
            self.parts.append(opened)
            self.ends.append(before + opened.opened.plan.rows)


@dataclass(frozen=True, slots=True)
class FollowSchedule:
    """The schedule of a store that grows: one epoch, whose end may not be known yet."""

    chapters: Chapters
    batch_size: int
    seed: int
    shuffle: Shuffle

    @property
    def parts(self) -> Sequence[OpenedPart]:
        """The chapters as parts: grows."""
        return self.chapters.parts

    def epoch_steps(self, epochs: int = 1) -> int:
        """Return the steps whose samples are committed; ``epochs`` 0 has none."""
        return self.chapters.rows // self.batch_size if epochs else 0

    def end_of(self, epochs: int) -> int:
        """Return the steps whose samples are committed."""
        return self.epoch_steps(epochs)

    def total_steps(self) -> int | None:
        """Return all steps that there will ever be; None while the end is not known."""
        return self.epoch_steps() if self.chapters.closed else None

    def locate(self, step: int) -> tuple[int, int]:
        """Return a step's epoch, which is 0, and its first item in it."""
        return 0, step * self.batch_size

    def step_at(self, epoch: int, position: int) -> int:
        """Return the step that begins with an item of an epoch."""
        if epoch:
            raise StoreError("a followed store has one epoch", uri=self._uri())
        return position // self.batch_size

    def wait(self, step: int) -> bool:
        """Wait until a step's samples are committed; False if they never will be.

        Raises:
            StoreError: nothing came within the patience of `Follow`.
        """
        follow, since = self.chapters.follow, time.monotonic()
        while step >= self.epoch_steps():
            before = self.epoch_steps()
            self.chapters.look()
            if step < self.epoch_steps():
                return True
            if self.chapters.closed:
                return False
            if self.epoch_steps() > before:
                since = time.monotonic()
            if follow.patience_s is not None and time.monotonic() - since > follow.patience_s:
                raise StoreError(
                    f"no commit for {follow.patience_s} s after version {self._number()}, and no "
                    f"tag {follow.until!r} that says it is whole: is the job still at work?",
                    uri=self._uri(),
                )
            time.sleep(follow.poll_s)
        return True

    def span(self, steps: range, place: Place) -> Span:
        """Return a rank's rows of some steps, all of which must be committed.

        Raises:
            IndexError: one is not.
        """
        if len(steps) and steps[-1] >= self.epoch_steps():
            raise IndexError(f"step {steps[-1]} is not committed yet")
        share = self.batch_size // place.world_size
        items = np.arange(steps.start, steps.stop, steps.step)[:, None] * self.batch_size
        items = (items + np.arange(place.rank * share, (place.rank + 1) * share)).ravel()
        parts = np.searchsorted(np.array(self.chapters.ends), items, side="right")
        rows = np.empty(items.shape, np.int64)
        for part in np.unique(parts).tolist():
            where = parts == part
            rows[where] = self._lane(part).draw(items[where] - self._start(part)).rows
        return Span(steps.start, steps.step, rows, np.arange(len(steps) + 1) * share, parts)

    def samples_of(self, step: int) -> StepSamples:
        """Return the samples of a step's global batch, which must be committed."""
        span = self.span(range(step, step + 1), Place(0, 1))
        parts: Rows = np.zeros(0, np.int64) if span.parts is None else span.parts
        return StepSamples(0, span.rows, parts, None)

    def steps_of(self, part: int, row: int, epochs: range) -> list[int]:
        """Return the step that shows a row of a chapter, if whole batches reach that far."""
        if 0 not in epochs:
            return []
        items: Items = np.array(self._lane(part).numbers_of(row, 0)) + self._start(part)
        steps = (items // self.batch_size).tolist()
        return [step for step in steps if step < self.epoch_steps()]

    def _start(self, part: int) -> int:
        return self.chapters.ends[part - 1] if part else 0

    def _lane(self, part: int) -> RowLane:
        opened = self.chapters.parts[part]
        rows, number = opened.opened.plan.rows, opened.snapshot.number
        seed = derive_key("chapter", self.seed, number) >> 1 if part else self.seed
        return RowLane(Order(rows, seed, self.shuffle), rows)

    def _number(self) -> int:
        return self.chapters.newest.number if self.chapters.newest else 0

    def _uri(self) -> str:
        store = self.chapters.part.store
        return store if isinstance(store, str) else store.uri
