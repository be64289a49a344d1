"""Commits: receipts become the next version of a store, all of them or none.

A commit is one exclusive create of the next log file. When another commit took that number first,
this one reads what won, checks that it still may be added, drops the units that the winner already
holds, and tries the next number.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from tokenmill.store import paths
from tokenmill.store.denied import denied_samples
from tokenmill.store.hidden import hide, unhide
from tokenmill.store.identity import Identity, check, root
from tokenmill.store.locate import locate
from tokenmill.store.log import Log
from tokenmill.store.plans import listed, read_unit
from tokenmill.store.segments import add_segments, held_units, reject_table
from tokenmill.store.tables import append_rows, filter_rows, read_tables
from tokenmill.store.takedown import recheck
from tokenmill.store.takedowns import Takedowns
from tokenmill.store.transaction import next_version, transact
from tokenmill_infra.storage.storage import Storage
from tokenmill_schemas.entropy import combine
from tokenmill_schemas.errors import ConflictError, SnapshotNotFoundError
from tokenmill_schemas.plan import IDENTITY, Unit
from tokenmill_schemas.snapshot import (
    MISSING_SCHEMA,
    REJECT_SCHEMA,
    TOMBSTONE_SCHEMA,
    FileRef,
    Receipt,
    Snapshot,
)


@dataclass(frozen=True, slots=True)
class Commit:
    """What one commit adds to a store, and for the record why and by which job.

    ``resolved`` are keys of assets that were in quarantine and are accounted for anew by
    ``receipts``. ``base`` is the number of the version that the listing was compared with (0 before
    the first); ``commit_id`` tells this commit's version from one that another commit made.

    ``replaced`` are keys of assets that changed: what the store had of them, samples or quarantine,
    gives way. ``vanished`` and ``returned`` are keys that the job named ``scope`` lists no longer,
    and again; ``drop_missing`` hides the samples of all assets that it misses.
    """

    receipts: tuple[Receipt, ...]
    plans: tuple[FileRef, ...]
    identity: Identity
    operation: str = "append"
    message: str = ""
    job: dict[str, Any] = field(default_factory=dict)
    resolved: frozenset[str] = frozenset()
    base: int = 0
    commit_id: str = field(default_factory=lambda: uuid.uuid4().hex)
    scope: str = ""
    replaced: frozenset[str] = frozenset()
    vanished: frozenset[str] = frozenset()
    returned: frozenset[str] = frozenset()
    drop_missing: bool = False


def append(log: Log, commit: Commit) -> Snapshot:
    """Make receipts visible as the next version; returns the newest one if nothing is new.

    Raises:
        FingerprintError: the store holds tokens of another kind.
        ConflictError: a commit that came first holds the same assets in other units, or other
            commits kept winning.
    """

    def change(head: Snapshot | None) -> Snapshot | None:
        check(log.storage, head, commit.identity)
        fresh = _fresh(log.storage, head, commit)
        if head is None:
            return _next(log, root(commit.identity), fresh)
        if head.number != commit.base:
            _check_rebase(log, fresh, head)
        wanted = _next(log, head, fresh)
        return wanted if fresh.receipts or _differs(wanted, head) else None

    looked = Takedowns(log.storage).newest()
    made = transact(log, change)
    if made is None:
        raise ConflictError("a first commit made nothing", uri=log.storage.uri)
    recheck(log, commit.receipts, looked)
    return made


def _differs(wanted: Snapshot, head: Snapshot) -> bool:
    return (wanted.tombstones, wanted.missing, wanted.rejects) != (
        head.tombstones,
        head.missing,
        head.rejects,
    )


def _fresh(storage: Storage, head: Snapshot | None, commit: Commit) -> Commit:
    """Drop the units that the newest version already holds, and what gave way to them there."""
    units = (receipt.unit_id for receipt in commit.receipts)
    held = held_units(storage, head.segments if head else (), units)
    if not held:
        return commit
    receipts = tuple(r for r in commit.receipts if r.unit_id not in held)
    left = replace(commit, receipts=receipts)
    keys = _planned_keys(storage, left)
    return replace(left, replaced=commit.replaced & keys, resolved=commit.resolved & keys)


def _check_rebase(log: Log, commit: Commit, head: Snapshot) -> None:
    """Refuse to account twice for assets that versions since ``commit.base`` account for.

    Another run may have listed the source at another moment and cut other units, which hold some
    of the same assets; or it may have retried some of the same quarantined ones.
    """
    held = _base_plans(log, commit)
    own = {part.sha256 for part in (*held, *commit.plans)}
    others = [part for part in head.plans if part.sha256 not in own]
    twice = _accounted_since(log.storage, commit, held, others) if others else set()
    if commit.resolved:
        rejects = read_tables(log.storage, head.rejects, REJECT_SCHEMA, ["asset_key"])
        twice |= commit.resolved.difference(rejects.column(0).to_pylist())
    if twice:
        raise ConflictError(
            f"snapshot {head.number} came first and accounts for {len(twice)} of the same assets "
            f"({', '.join(sorted(twice)[:3])}, ...) in other units; run again to add the rest",
            uri=log.storage.uri,
            asked=commit.base + 1,
            found=head.number,
        )


def _base_plans(log: Log, commit: Commit) -> tuple[FileRef, ...]:
    try:
        return log.read(commit.base).plans if commit.base else ()
    except SnapshotNotFoundError:  # it was purged meanwhile
        return ()


def _accounted_since(
    storage: Storage, commit: Commit, held: Iterable[FileRef], others: Iterable[FileRef]
) -> set[str]:
    """Return planned keys that parts made since the base list, in another version than it had.

    A part that only moved assets about, as compaction does, lists them as the base did.
    """
    planned = pa.array(sorted(_planned_keys(storage, commit)), pa.string())
    listed_now = set(_identities(storage, others, planned))
    if not listed_now:
        return set()
    return {identity[0] for identity in listed_now - set(_identities(storage, held, planned))}


def _identities(
    storage: Storage, parts: Iterable[FileRef], keys: pa.Array
) -> Iterator[tuple[str, ...]]:
    for part in parts:
        for batch in listed(storage, part, list(IDENTITY)):
            among = batch.filter(pc.is_in(batch.column("key"), value_set=keys))
            columns = (among.column(name).to_pylist() for name in IDENTITY)
            yield from zip(*columns, strict=True)


def _planned_keys(storage: Storage, commit: Commit) -> set[str]:
    units = (Unit(r.unit_id, r.plan, r.row_group, r.assets) for r in commit.receipts)
    return {key for unit in units for key in read_unit(storage, unit).column("key").to_pylist()}


def _next(log: Log, head: Snapshot, commit: Commit) -> Snapshot:
    storage = log.storage
    gone = commit.resolved | commit.replaced
    replaced = locate(storage, head.segments, commit.replaced)
    rejects, again = head.rejects, _held(storage, head, gone, replaced)
    if gone:
        rejects = filter_rows(storage, paths.REJECTS, rejects, column="asset_key", without=gone)
    rejects = append_rows(storage, paths.REJECTS, rejects, reject_table(commit.receipts))
    missing = _missing(storage, head, commit)
    tombstones = _tombstones(storage, head, commit, missing=missing, replaced=replaced)
    totals = _totals(head, commit, rejects=rejects, tombstones=tombstones)
    totals["assets"] -= again
    parts = (replace(part, scope=commit.scope) for part in commit.plans)
    there = {part.sha256 for part in head.plans}
    return next_version(
        log,
        head,
        commit.operation,
        commit_id=commit.commit_id,
        segments=add_segments(storage, head.segments, commit.receipts),
        rejects=rejects,
        plans=head.plans + tuple(part for part in parts if part.sha256 not in there),
        tombstones=tombstones,
        missing=missing,
        totals=totals,
        entropy=combine(head.entropy, *(receipt.entropy for receipt in commit.receipts)),
        message=commit.message,
        job=commit.job,
    )


def _held(storage: Storage, head: Snapshot, keys: frozenset[str], replaced: pa.Table) -> int:
    """Return how many of ``keys`` a version has, be it in quarantine; a restore may have come."""
    if not keys:
        return 0
    rejects = read_tables(storage, head.rejects, REJECT_SCHEMA, ["asset_key"]).column("asset_key")
    return len(keys.intersection([*rejects.to_pylist(), *replaced.column("asset_key").to_pylist()]))


def _missing(storage: Storage, head: Snapshot, commit: Commit) -> tuple[FileRef, ...]:
    """Return the table of missing assets after ``commit``.

    What other jobs miss stays as it is, unless this one has tokenized it: then it is this one's.
    """
    if not (commit.vanished or commit.returned or (commit.replaced and head.missing)):
        return head.missing
    table = read_tables(storage, head.missing, MISSING_SCHEMA)
    mine = pc.equal(table.column("scope"), commit.scope)
    known = table.filter(mine).column("asset_key")
    back, anew = (pa.array(sorted(s), pa.string()) for s in (commit.returned, commit.replaced))
    keys, refs = table.column("asset_key"), head.missing
    gone = pc.or_(pc.and_(mine, pc.is_in(keys, value_set=back)), pc.is_in(keys, value_set=anew))
    if pc.any(gone).as_py():
        refs = append_rows(storage, paths.MISSING, (), table.filter(pc.invert(gone)))
    new = sorted(commit.vanished.difference(known.to_pylist()))
    rows = [{"asset_key": key, "scope": commit.scope} for key in new]
    return append_rows(storage, paths.MISSING, refs, pa.Table.from_pylist(rows, MISSING_SCHEMA))


def _tombstones(
    storage: Storage,
    head: Snapshot,
    commit: Commit,
    *,
    missing: tuple[FileRef, ...],
    replaced: pa.Table,
) -> tuple[FileRef, ...]:
    refs = head.tombstones
    if commit.returned or commit.replaced:
        # What is replaced is lifted too, to be hidden for that: else the asset's next return would
        # show the old samples beside the new ones.
        refs = unhide(storage, refs, commit.returned | commit.replaced, "vanished")
    if replaced.num_rows:
        refs = hide(storage, refs, replaced, "replaced")
    if commit.drop_missing:
        gone = _unhidden(storage, head, commit, missing=missing)
        refs = hide(storage, refs, locate(storage, head.segments, gone), "vanished")
    denied = denied_samples(storage, commit.receipts)
    return hide(storage, refs, denied, "taken_down") if denied.num_rows else refs


def _unhidden(
    storage: Storage, head: Snapshot, commit: Commit, *, missing: tuple[FileRef, ...]
) -> set[str]:
    """Return the keys that the job misses and of which samples may still be shown."""
    table = read_tables(storage, missing, MISSING_SCHEMA)
    mine = table.filter(pc.equal(table.column("scope"), commit.scope))
    gone = set(mine.column("asset_key").to_pylist())
    hidden = read_tables(storage, head.tombstones, TOMBSTONE_SCHEMA, ["asset_key", "reason"])
    dropped = hidden.filter(pc.equal(hidden.column("reason"), "vanished")).column("asset_key")
    rejected = read_tables(storage, head.rejects, REJECT_SCHEMA, ["asset_key"]).column("asset_key")
    return gone.difference(dropped.to_pylist(), rejected.to_pylist())


def _totals(
    head: Snapshot,
    commit: Commit,
    *,
    rejects: tuple[FileRef, ...],
    tombstones: tuple[FileRef, ...],
) -> dict[str, int]:
    """Return the counts of the next version; ``samples`` are those that it shows."""
    old, receipts = head.totals, commit.receipts
    hidden = sum(ref.rows for ref in tombstones)
    shown = sum(r.samples for r in receipts) - (hidden - old.get("hidden", 0))
    added = {
        "shards": sum(1 for r in receipts if r.path),
        "samples": shown,
        "tokens": sum(r.tokens for r in receipts),
        "bytes": sum(r.bytes for r in receipts),
        "assets": sum(r.assets for r in receipts),
    }
    totals = {name: old.get(name, 0) + more for name, more in added.items()}
    totals["rejected"] = sum(ref.rows for ref in rejects)
    return totals | ({"hidden": hidden} if hidden else {})
