"""What the order of a feed depends on beside its snapshots, and the schedule made of both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from operator import index
from typing import TYPE_CHECKING, SupportsIndex

from tokenmill.feed.parts import Mixture, OpenedPart
from tokenmill.feed.sequence.lanes import Lane, RowLane
from tokenmill.feed.sequence.order import Order, Shuffle
from tokenmill.feed.sequence.permutation import derive_key
from tokenmill.feed.sequence.schedule import Place, Schedule
from tokenmill_schemas.errors import JobError, StoreError
from tokenmill_schemas.snapshot import Snapshot

if TYPE_CHECKING:
    from tokenmill.feed.sequence.follow import Follow
    from tokenmill.feed.sequence.packing import Packing


@dataclass(frozen=True, slots=True)
class Settings:
    """See `tokenmill.feed.Feed`."""

    batch_size: int
    seed: int = 0
    shuffle: Shuffle = "block"
    drop_last: bool = True
    packing: Packing | None = None
    buckets: str = ""
    one_view: bool = False


def whole(name: str, value: SupportsIndex) -> int:
    """Return a number as an int that JSON knows; numpy has others.

    Raises:
        JobError: it is no whole number.
    """
    try:
        return index(value)
    except TypeError:
        raise JobError(f"is {value!r}, must be a whole number", path=f"feed.{name}") from None


def check_settings(
    settings: Settings,
    place: Place,
    *,
    threads: int,
    epochs: int | None,
    follow: Follow | None = None,
) -> None:
    """Check what can be checked before anything is opened.

    Raises:
        JobError: a setting is impossible; names it.
    """
    batch, world = settings.batch_size, place.world_size
    if batch < 1 or world < 1 or batch % world:
        raise JobError(
            f"is {batch} for {world} ranks: it must be a positive multiple of world_size",
            path="feed.batch_size",
        )
    if not 0 <= place.rank < world:
        raise JobError(f"is {place.rank}, must be in [0, {world})", path="feed.rank")
    if threads < 0 or (epochs is not None and epochs < 0):
        raise JobError("threads and epochs must not be negative", path="feed")
    if follow is not None and epochs is not None:
        raise JobError("is not for a store that is still written", path="feed.epochs")
    if settings.packing is not None and settings.buckets:
        raise JobError("packed windows have one shape already", path="feed.buckets")
    if settings.one_view and (settings.packing is not None or settings.buckets):
        raise JobError("is for samples that are neither packed nor bucketed", path="feed.one_view")


def check_length(steps: int, epochs: int | None, batch_size: int) -> None:
    """Check that so many epochs of a mixture, which have ``steps``, are not over at once.

    Raises:
        JobError: they have no step.
    """
    if epochs and not steps:
        raise JobError(
            f"is {epochs}, but a batch of {batch_size} shows a store of the mixture more often "
            "than that: take a smaller batch or more epochs, or set where to stop yourself",
            path="feed.epochs",
        )


def check_followed(mixture: Mixture, settings: Settings) -> None:
    """Check the settings of a feed that follows a store.

    Raises:
        JobError: a setting needs to know the whole of it.
    """
    several = len(mixture.parts) > 1 or bool(mixture.stages)
    for name, there in (
        ("mixture", several),
        ("packing", settings.packing is not None),
        ("buckets", bool(settings.buckets)),
        ("one_view", settings.one_view),
        ("drop_last=False", not settings.drop_last),
    ):
        if there:
            raise JobError("is not for a store that is still written", path=f"feed.{name}")


def schedule_of(parts: Sequence[OpenedPart], mixture: Mixture, settings: Settings) -> Schedule:
    """Return the schedule of opened parts.

    Raises:
        JobError: a setting does not fit what is shown.
        StoreError: a part shows no samples.
    """
    for part in parts:
        _check_shown(part)
    single = len(parts) == 1 and not mixture.stages
    lanes = tuple(
        lane_of(part, settings, derive_key("part", settings.seed, i) >> 1 if i else settings.seed)
        for i, part in enumerate(parts)
    )
    whole = bool(settings.buckets)
    blend = None if single else mixture.blend(1 if whole else settings.batch_size)
    used = (aligned(lanes[0], settings),) if single and not whole else lanes
    schedule = Schedule(used, blend, settings.batch_size, whole)
    # A mixture may have a store that a batch shows more than once.
    if blend is None and not schedule.epoch_steps():
        _raise_too_large(parts[0], lanes[0], settings)
    return schedule


def lane_of(part: OpenedPart, settings: Settings, seed: int) -> Lane:
    """Return the lane of a part, all of whose samples an epoch shows."""
    plan = part.opened.plan
    name = settings.packing.stream if settings.packing else settings.buckets
    if settings.one_view:
        from tokenmill.feed.sequence.one_view import OneViewLane, open_assets

        assets = open_assets(part.store, part.opened)
        order = Order(assets.count, seed, settings.shuffle)
        return OneViewLane(RowLane(order, assets.count), assets, seed)
    if not name:
        return RowLane(Order(plan.rows, seed, settings.shuffle), plan.rows)
    from tokenmill.feed.rows.sizes import open_sizes
    from tokenmill.feed.sequence.buckets import BucketLane
    from tokenmill.feed.sequence.packing import PackedLane

    names = [stream.name for stream in part.opened.streams]
    if name not in names:
        where = "feed.packing" if settings.packing else "feed.buckets"
        raise JobError(f"is by stream {name!r}, which is not read: {names}", path=where)
    stream = part.opened.streams[names.index(name)]
    sizes = open_sizes(part.store, part.snapshot, plan, stream)
    if settings.packing is not None:
        return PackedLane.of(sizes, settings.packing, seed=seed, shuffle=settings.shuffle)
    return BucketLane(
        sizes,
        settings.batch_size,
        seed=seed,
        shuffle=settings.shuffle,
        drop_last=settings.drop_last,
    )


def aligned(lane: Lane, settings: Settings) -> Lane:
    """Return a lane whose epochs are whole batches."""
    from tokenmill.feed.sequence.one_view import OneViewLane

    if isinstance(lane, OneViewLane):
        return replace(lane, lane=aligned(lane.lane, settings))  # type: ignore[arg-type]
    full, rest = divmod(lane.items, settings.batch_size)
    steps = full + bool(rest and not settings.drop_last)
    return replace(lane, items=steps * settings.batch_size)  # type: ignore[type-var]


def _check_shown(part: OpenedPart) -> None:
    opened = part.opened
    if opened.plan.rows:
        return
    groups = ", ".join(opened.groups)
    why = f" with values in the column groups {groups}" if opened.uncovered else ""
    why += f" where {opened.where}" if opened.where else ""
    since = part.part.since
    number = since.number if isinstance(since, Snapshot) else since
    what = "no samples" if since is None else f"nothing new since {number}"
    raise StoreError(f"snapshot {part.snapshot.number} has {what}{why}", uri=part.store.uri)


def _raise_too_large(part: OpenedPart, lane: Lane, settings: Settings) -> None:
    what = f"{lane.items} windows" if settings.packing else f"{part.opened.plan.rows} samples"
    if settings.one_view:
        what += ", of which an epoch shows one of each asset's"
    raise JobError(
        f"is {settings.batch_size}, but the snapshot has {what}: take a smaller batch or "
        "drop_last=False",
        path="feed.batch_size",
    )
