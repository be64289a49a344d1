"""The transaction of a compaction."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tokenmill.store.compact.assembly import assemble
from tokenmill.store.compact.grouping import TARGET_BYTES, Target
from tokenmill.store.compact.survey import Survey
from tokenmill.store.compact.writing import Merge, Merged, Sides, write_merge
from tokenmill.store.rewrite import in_parallel
from tokenmill.store.segments import receipt_of
from tokenmill.store.takedown import recheck
from tokenmill_schemas.errors import JobError, StoreError
from tokenmill_schemas.snapshot import Receipt, Snapshot

if TYPE_CHECKING:
    from tokenmill.store.store import Store


@dataclass(frozen=True, slots=True)
class Compacted:
    """What `compact` did, or would do.

    ``number`` is that of the version that it made, or of the newest one if there was nothing to do.
    ``units`` became ``into``; ``bytes`` of shards were read and written anew; ``dropped`` samples,
    which were hidden for good, are left out.
    """

    number: int
    made: bool
    units: int
    into: int
    shards_before: int
    shards_after: int
    bytes: int
    dropped: int


def compact(
    store: Store,
    *,
    target_bytes: int = TARGET_BYTES,
    target_rows: int | None = None,
    dry_run: bool = False,
) -> Compacted:
    """Make many small shards into few of full size: same samples, same order, one new version.

    Neighbours in the manifest become one until the next would make it too large; units without
    samples go along. Samples that were replaced or taken down are left out for good; those of
    assets that vanished stay hidden, for the assets may return. Column groups, listings, quarantine
    and tombstones go along. Doing it again, or twice at once, makes the same files, and a commit
    that comes first costs only what it touches.

    Args:
        store: The store, as seen from the branch to commit to.
        target_bytes: Size of a full shard; one of three quarters of it is left as it is.
        target_rows: The same in rows, if given.
        dry_run: Write nothing, and say what would be done.

    Raises:
        JobError: a target is not positive.
        ConflictError: other commits kept winning.
        CorruptShardError: a file of the newest version is missing or damaged.
    """
    if target_bytes < 1 or (target_rows is not None and target_rows < 1):
        raise JobError("must be positive", path="target")
    work = _Compaction(store, Target(target_bytes, target_rows))
    if dry_run:
        head = store.snapshot()
        survey = Survey(store, head)
        return _outcome(head, list(survey.merges(work.target).values()), made=False)
    looked = store.takedowns.newest()
    with store.hold("compact"):
        version = store.transact(work.change)
        if work.receipts:
            recheck(store.log, work.receipts, looked)
    if version is None:
        raise StoreError("has no snapshot yet", uri=store.uri)
    return _outcome(work.before or version, work.merges, made=bool(work.merges), now=version)


@dataclass(slots=True)
class _Compaction:
    """A compaction under way: what was written is kept, should another commit come first."""

    store: Store
    target: Target
    before: Snapshot | None = None
    merges: list[Merge] = field(default_factory=list)
    receipts: list[Receipt] = field(default_factory=list)
    written: dict[str, Merged] = field(default_factory=dict)

    def change(self, head: Snapshot | None) -> Snapshot | None:
        """Return the version after ``head``; None if there is nothing to compact."""
        if head is None:
            raise StoreError("has no snapshot yet", uri=self.store.uri)
        survey = Survey(self.store, head)
        found = survey.merges(self.target)
        self.before, self.merges = head, list(found.values())
        if not found:
            self.receipts = []
            return None
        done = in_parallel(lambda merge: self._write(merge, survey.sides), self.merges)
        version, rows = assemble(survey, dict(zip(found, done, strict=True)))
        self.receipts = [receipt_of(row) for row in rows]
        return version

    def _write(self, merge: Merge, sides: Sides) -> Merged:
        beside = {
            group: {row["path"]: files[row["path"]] for row in merge.shards if row["path"] in files}
            for group, files in sides.items()
        }
        facts = sorted((g, row["sha256"]) for g, files in beside.items() for row in files.values())
        key = f"{merge.unit_id} {facts}"
        if key not in self.written:
            self.written[key] = write_merge(self.store.storage, merge, beside)
        return self.written[key]


def _outcome(
    before: Snapshot, merges: list[Merge], *, made: bool, now: Snapshot | None = None
) -> Compacted:
    shards = [row for merge in merges for row in merge.shards]
    dropped = sum(len(merge.gone(row["path"])) for merge in merges for row in merge.shards)
    left = sum(any(_left(merge)) for merge in merges)
    there = before.totals.get("shards", 0)
    return Compacted(
        number=(now or before).number,
        made=made,
        units=sum(len(merge.members) for merge in merges),
        into=len(merges),
        shards_before=there,
        shards_after=there - len(shards) + left,
        bytes=sum(row["bytes"] for row in shards),
        dropped=dropped,
    )


def _left(merge: Merge) -> list[int]:
    return [row["samples"] - len(merge.gone(row["path"])) for row in merge.shards]
