"""From a state of one version to a feed of another, with exact books of what was seen."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from json import dumps

import numpy as np

from tokenmill.feed.parts import OpenedPart, Part
from tokenmill.feed.sequence.carried import (
    CarriedLane,
    Chapter,
    Crossing,
    Epoch,
    Rest,
    ShiftedLane,
    Stretch,
)
from tokenmill.feed.sequence.lanes import Lane
from tokenmill.feed.sequence.permutation import derive_key
from tokenmill.feed.sequence.schedule import Schedule
from tokenmill.feed.settings import aligned, lane_of
from tokenmill.feed.source import Source
from tokenmill.feed.state import (
    MAX_BYTES,
    SNAPSHOT_DIGITS,
    FeedState,
    check_settings_of,
    check_state,
)
from tokenmill.store.paths import MAIN
from tokenmill.store.segments import shard_places
from tokenmill_schemas.errors import JobError, StoreError

#: Opens a part, by the takedowns that there were then (None: by all that there are).
Opening = Callable[[Part, int | None], OpenedPart]


@dataclass(frozen=True, slots=True)
class Migration:
    """What became of an epoch that was begun on another version, in samples (or windows).

    ``seen`` were given out before, ``left`` come yet, ``gone`` would have come and are not shown
    any more, and ``fresh`` are added by the other version. ``steps`` are those that are left.
    """

    before: int
    after: int
    seen: int
    left: int
    gone: int
    fresh: int
    steps: int


@dataclass(frozen=True, slots=True)
class _Leg:
    """A version that part of the epoch was shown from, and how far into the epoch that went."""

    number: int
    taken: int
    place: int


def restored(source: Source, state: FeedState, opening: Opening) -> tuple[Source, int]:
    """Return the source and the step that a state of its own version names.

    Raises:
        StoreError: the state belongs to another snapshot, or one that it was carried over from
            cannot be opened as it was.
        JobError: the state was made with other settings.
    """
    check_state(state, source.facts, uri=source.parts[0].store.uri)
    if not isinstance(source.schedule, Schedule) or not source.is_single:
        return source, _step_of(source, state)
    plain = replace(source, schedule=_schedule(source, _regular(source)), legs=(), base=())
    if state.carried:
        plain, _ = _carried(plain, state, opening, legs=state.carried)
    elif state.base:
        lane = ShiftedLane(_regular(source), *state.base)
        plain = replace(plain, schedule=_schedule(source, lane), base=state.base)
    return plain, _step_of(plain, state)


def _step_of(source: Source, state: FeedState) -> int:
    step = source.schedule.step_at(state.epoch, state.position)
    if step < 0 or source.schedule.locate(step) != (state.epoch, state.position):
        raise _no_position(state.epoch, state.position)
    return step


def _no_position(epoch: int, position: int) -> JobError:
    return JobError(
        f"epoch {epoch} has no position {position}: it is shorter, or that was shown by a version "
        "before",
        path="state.position",
    )


def migrated(source: Source, state: FeedState, opening: Opening) -> tuple[Source, int, Migration]:
    """Return the source, the step and the books of a state that was made on another version.

    Raises:
        StoreError: that version cannot be opened as it was, or its shards were written anew.
        JobError: the state was made with other settings, or with ones that cannot be carried over.
    """
    check_settings_of(state, source.facts)
    new_only = source.parts[0].part.since is not None
    if not source.is_single or source.follow or source.settings.buckets or state.groups or new_only:
        raise JobError(
            "only a feed of one store, without buckets, since= and columns of groups, can be "
            "carried over in the midst of an epoch: open the version of the state, or begin anew",
            path="state",
        )
    here = (state.number, state.taken, state.position)
    made, books = _carried(source, state, opening, legs=(*state.carried, here))
    step = made.schedule.step_at(state.epoch, state.position)
    _check_size(made, step, books.steps)
    return made, step, books


def _check_size(source: Source, step: int, steps: int) -> None:
    """Check that the states of what is left of the epoch are small."""
    bytes_ = max(len(dumps(source.state(s).to_json())) for s in (step, step + max(0, steps - 1)))
    if bytes_ >= MAX_BYTES:
        raise JobError(
            f"was carried over {len(source.legs)} times in one epoch: a state of it would have "
            f"{bytes_} bytes, and they have less than {MAX_BYTES}. Finish the epoch on version "
            f"{source.legs[-1][0]}, and carry it over then",
            path="state.carried",
        )


def _carried(
    source: Source, state: FeedState, opening: Opening, *, legs: tuple[tuple[int, ...], ...]
) -> tuple[Source, Migration]:
    """Follow an epoch through the versions that it was shown from, to the source's own."""
    route = [_Leg(*leg) for leg in legs]
    base = state.base or (0, 0)
    now = source.parts[0]
    parts = [_reopened(now, leg, opening) for leg in route]
    if len(legs) > len(state.carried) and not _is_of(parts[-1], state):
        raise StoreError(
            f"version {state.number} is not what the state was made of (content "
            f"{state.snapshot[:12]}): the state is of another store or branch, or what it was "
            "shown was purged since",
            uri=now.store.uri,
        )
    first = lane_of(parts[0], source.settings, source.settings.seed)
    lane = aligned(first, source.settings)
    start = base[0] + (state.epoch - base[1]) * lane.items + route[0].place
    stretch: Stretch = Epoch(first, state.epoch)
    done, books = 0, None
    for i, leg in enumerate(route):
        if not done <= leg.place <= done + len(stretch):
            raise _no_position(state.epoch, leg.place)
        after = parts[i + 1] if i + 1 < len(parts) else now
        chapter = _chapter(stretch, leg.place - done, (parts[i], after), source, opening)
        books = Migration(
            before=leg.number,
            after=after.snapshot.number,
            seen=leg.place,
            left=len(chapter.rest),
            gone=len(chapter.rest.gone),
            fresh=chapter.fresh.items if chapter.fresh else 0,
            steps=0,
        )
        stretch, done = chapter, leg.place
    if books is None or not isinstance(stretch, Chapter):
        raise JobError("names no version that it was carried over from", path="state.carried")
    start += route[-1].place - route[0].place
    batch = source.settings.batch_size
    steps = len(stretch) // batch
    steps += bool(len(stretch) % batch and not source.settings.drop_last)
    then = ShiftedLane(_regular(source), start + steps * batch, state.epoch + 1)
    carried = CarriedLane(stretch, start, route[-1].place, steps * batch, then)
    made = replace(source, schedule=_schedule(source, carried), legs=legs, base=state.base)
    return made, replace(books, steps=steps)


def _chapter(
    stretch: Stretch,
    place: int,
    between: tuple[OpenedPart, OpenedPart],
    source: Source,
    opening: Opening,
) -> Chapter:
    before, after = between
    rest = Rest.of(stretch, place, _crossing(before, after))
    if before.snapshot.content_id == after.snapshot.content_id:
        return Chapter(rest, None, None)
    new = opening(replace(after.part, since=before.snapshot), after.opened.taken)
    if not new.opened.plan.rows:
        return Chapter(rest, None, None)
    seed = derive_key("fresh", source.settings.seed, after.snapshot.number) >> 1
    crossing = Crossing(new.opened.plan, after.opened.plan, np.arange(len(new.opened.plan.samples)))
    return Chapter(rest, lane_of(new, source.settings, seed), crossing)


def _crossing(before: OpenedPart, after: OpenedPart) -> Crossing:
    storage, segments = after.store.storage, after.snapshot.segments
    paths = before.store.segments(before.snapshot, ["path"]).column("path").combine_chunks()
    places = shard_places(storage, segments, paths)
    shown = before.opened.plan.shown_rows()
    lost = int(shown[places < 0].sum())
    if lost:
        raise StoreError(
            f"shards with {lost} samples of version {before.snapshot.number} were written anew or "
            f"left out by version {after.snapshot.number} (compact, purge or restore): where each "
            "sample went is not known. Finish the epoch on the version of the state",
            uri=after.store.uri,
        )
    return Crossing(before.opened.plan, after.opened.plan, places)


def _reopened(now: OpenedPart, leg: _Leg, opening: Opening) -> OpenedPart:
    # Of the branch that is read now, whichever the store commits to.
    branch = now.snapshot.branch
    log = now.store.log if branch == MAIN else now.store.on(branch).log
    snapshot = log.read(leg.number)
    return opening(replace(now.part, ref=snapshot, since=None), leg.taken)


def _is_of(part: OpenedPart, state: FeedState) -> bool:
    return part.opened.identity[:SNAPSHOT_DIGITS] == state.snapshot


def _regular(source: Source) -> Lane:
    lane = source.schedule.lanes[0] if isinstance(source.schedule, Schedule) else None
    if isinstance(lane, CarriedLane):
        lane = lane.then
    if isinstance(lane, ShiftedLane):
        lane = lane.lane
    if lane is None:
        raise JobError("a followed store has no epochs to be carried over", path="state")
    return lane


def _schedule(source: Source, lane: Lane) -> Schedule:
    if not isinstance(source.schedule, Schedule):
        raise JobError("a followed store has no epochs to be carried over", path="state")
    return replace(source.schedule, lanes=(lane,))
