"""What a feed reads, opened: the parts, the schedule of their samples, and the state of a step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial

from tokenmill.feed.carried import CarriedLane
from tokenmill.feed.files import ShardCache
from tokenmill.feed.follow import Chapters, Follow, FollowSchedule
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
from tokenmill.feed.schedule import Schedule
from tokenmill.feed.settings import Settings, check_followed, schedule_of
from tokenmill.feed.state import SNAPSHOT_DIGITS, FeedState, setting_digest
from tokenmill.store import Store
from tokenmill_schemas.canonical import digest
from tokenmill_schemas.errors import JobError
from tokenmill_schemas.tokens import Stream


@dataclass(frozen=True, slots=True)
class Source:
    """Opened parts and their schedule.

    ``mixture`` has its parts pinned to the versions that were opened: opened again, also in another
    process, it gives the same. ``parts`` of a followed store grow. ``legs`` and ``base`` are what
    states keep of versions that an epoch was carried over from, see `FeedState`.
    """

    mixture: Mixture
    settings: Settings
    follow: Follow | None
    parts: Sequence[OpenedPart]
    streams: tuple[Stream, ...]
    schedule: Schedule | FollowSchedule
    legs: tuple[tuple[int, ...], ...] = ()
    base: tuple[int, ...] = ()

    @property
    def is_single(self) -> bool:
        """Whether it is one store, in epochs of its own."""
        return len(self.mixture.parts) == 1 and not self.mixture.stages

    def state(self, step: int) -> FeedState:
        """Return the state before a step."""
        settings, parts = self.settings, self.mixture.parts
        opened = [part.opened for part in self.parts[: len(parts)]]
        names = [part.identity for part in opened]
        epoch, position = self.schedule.locate(step)
        base, legs = self._history(epoch)
        mix = [[part.weight, sorted(part.offsets.items())] for part in parts]
        return FeedState(
            snapshot=(names[0] if self.is_single else digest(names))[:SNAPSHOT_DIGITS],
            number=self.parts[0].snapshot.number,
            seed=settings.seed,
            shuffle=settings.shuffle,
            batch_size=settings.batch_size,
            drop_last=settings.drop_last,
            epoch=epoch,
            position=position,
            groups=opened[0].groups,
            mix="" if self.is_single else setting_digest([mix, list(self.mixture.stages)]),
            where=setting_digest([part.where for part in opened if part.where]),
            packing=setting_digest(asdict(settings.packing) if settings.packing else None),
            buckets=settings.buckets,
            one_view=settings.one_view,
            follow=self.follow.until if self.follow else "",
            taken=opened[0].taken,
            base=base,
            carried=legs,
        )

    def _history(self, epoch: int) -> tuple[tuple[int, ...], tuple[tuple[int, ...], ...]]:
        lane = self.schedule.lanes[0] if isinstance(self.schedule, Schedule) else None
        if isinstance(lane, CarriedLane) and epoch > lane.epoch:
            return (lane.then.start, lane.then.epoch), ()
        return self.base, self.legs


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
    mixture: Mixture, reading: Reading, settings: Settings, *, cache: ShardCache
) -> Source:
    """Open all parts of a mixture.

    Raises:
        JobError: a setting is impossible; names it.
        FingerprintError: a part has tokens of another fingerprint.
        StoreError: there is no such store or snapshot, or it shows no samples.
    """
    parts, streams = open_parts(mixture, reading, cache)
    mixture = replace(mixture, parts=tuple(part.part for part in parts))
    schedule = schedule_of(parts, mixture, settings)
    return Source(mixture, settings, None, parts, streams, schedule)


def follow_source(
    mixture: Mixture, follow: Follow, reading: Reading, settings: Settings, *, cache: ShardCache
) -> Source:
    """Open a store that is still written, see `tokenmill.feed.follow`.

    Raises:
        JobError, FingerprintError, StoreError: as `open_source`.
    """
    check_followed(mixture, settings)
    opening = partial(open_part, reading=reading, cache=cache)
    chapters = Chapters(opening, mixture.parts[0], follow)
    chapters.look()
    mixture = replace(mixture, parts=(chapters.parts[0].part,))
    schedule = FollowSchedule(chapters, settings.batch_size, settings.seed, settings.shuffle)
    streams = merged_streams(chapters.parts)
    return Source(mixture, settings, follow, chapters.parts, streams, schedule)
