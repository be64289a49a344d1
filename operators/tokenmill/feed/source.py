"""What a feed reads, opened: the parts, the schedule of their samples, and the state of a step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial

from tokenmill.feed.parts import (
    Mixture,
    OpenedPart,
    Part,
    Reading,
    Ref,
    merged_streams,
    open_part,
    open_parts,
)
from tokenmill.feed.sequence.carried import CarriedLane
from tokenmill.feed.sequence.follow import Chapters, Follow, FollowSchedule
from tokenmill.feed.sequence.schedule import Schedule, check_step
from tokenmill.feed.settings import Settings, check_followed, schedule_of
from tokenmill.feed.shards.files import ShardCache
from tokenmill.feed.state import SNAPSHOT_DIGITS, FeedState, setting_digest, short_names, shortened
from tokenmill.store import Store
from tokenmill_schemas.canonical import digest
from tokenmill_schemas.errors import JobError
from tokenmill_schemas.tokens import Stream


@dataclass(frozen=True, slots=True)
class Source:
    """Opened parts and their schedule.

    ``mixture`` has its parts pinned to the versions that were opened: opened again, also in another
    process, it gives the same. ``parts`` of a followed store grow. ``facts`` is what the states of
    all steps have in common. ``legs`` and ``base`` are what states keep of versions that an epoch
    was carried over from, see `FeedState`.
    """

    mixture: Mixture
    settings: Settings
    follow: Follow | None
    parts: Sequence[OpenedPart]
    streams: tuple[Stream, ...]
    schedule: Schedule | FollowSchedule
    facts: FeedState
    legs: tuple[tuple[int, ...], ...] = ()
    base: tuple[int, ...] = ()

    @property
    def is_single(self) -> bool:
        """Whether it is one store, in epochs of its own."""
        return len(self.mixture.parts) == 1 and not self.mixture.stages

    def state(self, step: int) -> FeedState:
        """Return the state before a step."""
        check_step(step)
        epoch, position = self.schedule.locate(step)
        base, legs = self._history(epoch)
        return replace(self.facts, epoch=epoch, position=position, base=base, carried=legs)

    def _history(self, epoch: int) -> tuple[tuple[int, ...], tuple[tuple[int, ...], ...]]:
        lane = self.schedule.lanes[0] if isinstance(self.schedule, Schedule) else None
        if isinstance(lane, CarriedLane) and epoch > lane.epoch:
            return (lane.then.start, lane.then.epoch), ()
        return self.base, self.legs


def facts_of(
    mixture: Mixture, settings: Settings, follow: Follow | None, parts: Sequence[OpenedPart]
) -> FeedState:
    """Return what the states of all steps have in common: all that the order depends on."""
    opened = [part.opened for part in parts[: len(mixture.parts)]]
    identities = [part.identity for part in opened]
    single = len(mixture.parts) == 1 and not mixture.stages
    # Epochs of a mixture's stores run on into each other, so nothing is ever left out.
    drop_last = settings.drop_last or not (single or settings.buckets)
    return FeedState(
        snapshot=(identities[0] if single else digest(identities))[:SNAPSHOT_DIGITS],
        number=parts[0].snapshot.number,
        seed=settings.seed,
        shuffle=settings.shuffle,
        batch_size=settings.batch_size,
        drop_last=drop_last,
        epoch=0,
        position=0,
        groups=_groups([part.groups for part in opened]),
        mix="" if single else _mix(mixture),
        where=setting_digest(_unless_empty([part.where for part in opened])),
        packing=setting_digest(asdict(settings.packing) if settings.packing else None),
        buckets=shortened(settings.buckets),
        one_view=settings.one_view,
        follow=shortened(follow.until) if follow else "",
        taken=opened[0].taken,
    )


def _mix(mixture: Mixture) -> str:
    """Return the digest of shares, stages and offsets, however they were written."""
    stages = [[start, list(weights)] for start, weights in mixture.blend(1).stages]
    offsets = [sorted((k, v) for k, v in part.offsets.items() if v) for part in mixture.parts]
    return setting_digest([stages, offsets])


def _groups(groups: Sequence[tuple[str, ...]]) -> tuple[str, ...]:
    """Return the names of column groups; of a mixture, those that are read of each store."""
    if len(set(groups)) == 1:
        return short_names(groups[0])
    return short_names(tuple(f"{i}/{name}" for i, some in enumerate(groups) for name in some))


def _unless_empty(texts: Sequence[str]) -> Sequence[str]:
    return texts if any(texts) else ()


def mixture_of(source: Store | str | Mixture, *, ref: Ref, since: Ref, where: str) -> Mixture:
    """Return a mixture of one store, or the one that was given.

    Raises:
        JobError: what belongs to the parts of a mixture was given beside it.
    """
    if not isinstance(source, Mixture):
        return Mixture((Part(source, ref=ref, since=since, where=where),))
    for name, value in (("ref", ref), ("since", since), ("where", where)):
        if value:
            raise JobError("of a mixture is given to its parts", path=f"feed.{name}")
    return source


def open_source(
    mixture: Mixture,
    reading: Reading,
    settings: Settings,
    *,
    follow: Follow | None,
    cache: ShardCache,
) -> Source:
    """Open all parts of a mixture, or a store that is followed.

    Raises:
        JobError: a setting is impossible; names it.
        FingerprintError: a part has tokens of another fingerprint.
        StoreError: there is no such store or snapshot, or it shows no samples.
    """
    if follow is not None:
        return _followed(mixture, follow, reading, settings, cache=cache)
    parts, streams = open_parts(mixture, reading, cache)
    mixture = replace(mixture, parts=tuple(part.part for part in parts))
    schedule = schedule_of(parts, mixture, settings)
    facts = facts_of(mixture, settings, None, parts)
    return Source(mixture, settings, None, parts, streams, schedule, facts)


def _followed(
    mixture: Mixture, follow: Follow, reading: Reading, settings: Settings, *, cache: ShardCache
) -> Source:
    """Open a store that is still written, see `tokenmill.feed.sequence.follow`."""
    check_followed(mixture, settings)
    opening = partial(open_part, reading=reading, cache=cache)
    chapters = Chapters(opening, mixture.parts[0], follow)
    chapters.look()
    mixture = replace(mixture, parts=(chapters.parts[0].part,))
    schedule = FollowSchedule(chapters, settings.batch_size, settings.seed, settings.shuffle)
    streams = merged_streams(chapters.parts)
    facts = facts_of(mixture, settings, follow, chapters.parts)
    return Source(mixture, settings, follow, chapters.parts, streams, schedule, facts)
