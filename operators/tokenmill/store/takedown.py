"""Takedown: hide samples from every reader of every version, at once and for ever.

    takedown(store, keys=["cats/0017.jpg"], reason="request 12")
    takedown(store, where="licence = 'unknown'")

The request is resolved over all versions of all branches, and one record is added to the chain
(`tokenmill.store.takedowns`). From that moment nobody shows the samples. Then the newest version of
each branch gets tombstones, so that it says by itself what it shows.

Whoever commits writes the version first and then looks at the chain (`recheck`); a takedown adds to
the chain first and then looks at the versions again. So of the two at least one sees the other.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from tokenmill.store.denied import Denied, denied_samples, hexes
from tokenmill.store.hidden import among, hide
from tokenmill.store.history import hidden_totals
from tokenmill.store.locate import FOUND_SCHEMA, By, find, locate, shard_paths
from tokenmill.store.log import Log
from tokenmill.store.plans import listed
from tokenmill.store.retained import branch_names, distinct, retained
from tokenmill.store.segments import read_segments, receipt_of
from tokenmill.store.tables import read_tables
from tokenmill.store.takedowns import DENIED_SCHEMA, Takedown, Takedowns
from tokenmill.store.transaction import Change, next_version, transact
from tokenmill_infra.storage.storage import Storage
from tokenmill_schemas.canonical import digest
from tokenmill_schemas.errors import JobError
from tokenmill_schemas.snapshot import REJECT_SCHEMA, TOMBSTONE_SCHEMA, FileRef, Receipt, Snapshot
from tokenmill_schemas.where import Where, parse

if TYPE_CHECKING:
    from tokenmill.store.store import Store

_PLACES = FOUND_SCHEMA.names


@dataclass(frozen=True, slots=True)
class TakedownResult:
    """What a takedown found.

    ``number`` is that of its record, None if all of it was taken down before. ``samples`` counts
    over all versions, shown there or not. ``unknown`` are names that no version has; they are
    denied all the same. ``versions`` are the numbers of the newest version of each branch.
    """

    number: int | None
    assets: int
    samples: int
    unknown: tuple[str, ...]
    versions: dict[str, int]


@dataclass(frozen=True, slots=True)
class _Request:
    names: tuple[str, ...]
    by: By
    where: Where | None
    reason: str

    def to_json(self) -> dict[str, Any]:
        """What was asked for, without a name: a record stays for ever."""
        asked = self.where.text if self.where else list(self.names)
        by = "where" if self.where else self.by
        value = {"by": by, "names": len(self.names), "sha256": digest(asked)}
        return value | {"reason": self.reason}


def takedown(
    store: Store,
    *,
    keys: Iterable[str] = (),
    by: By = "asset_key",
    where: str = "",
    reason: str = "",
) -> TakedownResult:
    """Hide samples from every reader of every version, also of those to come.

    A takedown that was interrupted is completed by the same call; done twice it does nothing new.

    Args:
        store: The store.
        keys: Keys of assets, or ids of samples as ``by`` says.
        by: ``asset_key``: all samples of these assets; ``sample_id``: these samples alone.
        where: Instead of keys, a filter over the columns of samples
            (`tokenmill_schemas.where`): all samples of every asset with a sample that it holds for.
        reason: Why, for the record. Records stay for ever: it must not name an asset.

    Raises:
        JobError: the request is empty, or ``where`` does not fit the store's columns.
        ConflictError: other commits kept winning.
        StoreError: a gc is at work and does not end.
    """
    request = _request(tuple(sorted(set(keys))), by, where, reason)
    storage = store.storage
    with store.hold("takedown"):
        seen = distinct(ref for version in retained(storage) for ref in version.segments)
        found = _resolve(store, request, seen)
        record = _record(storage, request, found)
        # What was committed before the record was there: see above.
        now = distinct(ref for version in retained(storage) for ref in version.segments)
        known = {ref.path for ref in seen}
        if late := [ref for ref in now if ref.path not in known]:
            more = _resolve(store, request, now if request.where else late)
            record = _record(storage, request, more) or record
            found = pa.concat_tables([found, more.filter(pc.invert(among(more, found)))])
        versions = cover(storage)
        unknown = _unknown(storage, request, found)
    assets = len(found.column("asset_key").unique())
    return TakedownResult(
        record.number if record else None, assets, found.num_rows, unknown, versions
    )


def cover(storage: Storage) -> dict[str, int]:
    """Add all that was taken down to the tombstones of each branch's newest version.

    Returns:
        The number of the newest version of each branch that has one.
    """
    found = Takedowns(storage).positions(_PLACES)
    numbers = {}
    for name in branch_names(storage):
        log = Log(storage, name)
        made = transact(log, _covering(log, found))
        if made is not None:
            numbers[name] = made.number
    return numbers


def complete(storage: Storage) -> None:
    """Hide what commits brought back that were killed before they looked at the chain again.

    Reads the keys of all that the branches' newest versions list, and of the units with something
    of a denied asset the keys of their samples.
    """
    denied = Denied.of(storage)
    for name in branch_names(storage) if denied.owners else ():
        head = Log(storage, name).head()
        if head is not None:
            _add_fresh(storage, _unhidden(storage, head, denied))
    cover(storage)


def _unhidden(storage: Storage, head: Snapshot, denied: Denied) -> pa.Table:
    """Return the denied samples of a version that its tombstones do not say are taken down."""
    parts = [part.path for part in head.plans if _lists_any(storage, part, denied)]
    table = read_segments(storage, head.segments)
    asked = pc.is_in(table.column("plan"), value_set=pa.array([*parts, ""], pa.string()))
    found = denied_samples(storage, map(receipt_of, table.filter(asked).to_pylist()))
    own = read_tables(storage, head.tombstones, TOMBSTONE_SCHEMA, ["path", "row", "reason"])
    own = own.filter(pc.equal(own.column("reason"), "taken_down"))
    return found.filter(pc.invert(among(found, own)))


def _lists_any(storage: Storage, part: FileRef, denied: Denied) -> bool:
    keys = (batch.column("key") for batch in listed(storage, part, ["key"]))
    return any(denied.touches(some) for some in keys)


def recheck(log: Log, receipts: Sequence[Receipt], looked: int) -> None:
    """Hide what a commit has just brought back, if takedowns came between its look and its end.

    Args:
        log: The branch that was committed to.
        receipts: The shards that were added.
        looked: The number of the newest record that the commit knew.
    """
    takedowns = Takedowns(log.storage)
    if takedowns.newest() == looked:
        return
    found = denied_samples(log.storage, receipts)
    _add_fresh(log.storage, found)
    transact(log, _covering(log, found))


def _add_fresh(storage: Storage, found: pa.Table) -> None:
    """Add samples that came back to the chain, where it does not name them yet."""
    takedowns = Takedowns(storage)
    fresh = found.filter(pc.invert(among(found, takedowns.positions(_PLACES))))
    if fresh.num_rows:
        request = {"by": "commit", "names": 0, "sha256": "", "reason": ""}
        facts = {"assets": len(fresh.column("asset_key").unique()), "samples": fresh.num_rows}
        takedowns.append(
            "takedown", request, positions=takedowns.put(_tombstones(fresh)), facts=facts
        )


def _request(names: tuple[str, ...], by: By, where: str, reason: str) -> _Request:
    if bool(names) == bool(where):
        raise JobError("name keys, or say where, and not both", path="takedown")
    if any(not name for name in names):
        raise JobError("an empty key names nothing", path="takedown.keys")
    if any(name in reason for name in names):
        raise JobError(
            "names what is taken down; records of takedowns stay for ever", path="takedown.reason"
        )
    return _Request(names, by, parse(where) if where else None, reason)


def _resolve(store: Store, request: _Request, segments: Sequence[FileRef]) -> pa.Table:
    """Return the samples meant in the shards of some manifest segments (`FOUND_SCHEMA`)."""
    storage, where = store.storage, request.where
    if where is None:
        return locate(storage, segments, request.names, by=request.by)
    shards = shard_paths(storage, segments)
    for path in shards[:1]:
        with store.shard(path) as shard:
            layout = shard.layout
        streams = {stream.name for stream in layout.spec.streams}
        where.check(pa.schema([f for f in layout.schema if f.name not in streams]))
    held = find(storage, shards, where.columns, where.mask)
    return locate(storage, segments, held.column("asset_key").to_pylist())


def _record(storage: Storage, request: _Request, found: pa.Table) -> Takedown | None:
    """Add to the chain what it does not say yet; None if it says all of it."""
    takedowns = Takedowns(storage)
    fresh = found.filter(pc.invert(among(found, takedowns.positions(_PLACES))))
    denied = _denied(request, found)
    known = set(_pairs(takedowns.denied()))
    new = sorted(pair for pair in set(_pairs(denied)) if pair not in known)
    if not fresh.num_rows and not new:
        return None
    assets = len(found.column("asset_key").unique())
    rows = [{"asset": asset, "sample": sample} for asset, sample in new]
    return takedowns.append(
        "takedown",
        request.to_json(),
        positions=takedowns.put(_tombstones(fresh)),
        denied=takedowns.put(pa.Table.from_pylist(rows, DENIED_SCHEMA)),
        facts={"assets": assets, "samples": found.num_rows},
    )


def _denied(request: _Request, found: pa.Table) -> pa.Table:
    """Return what the request forbids (`DENIED_SCHEMA`), whether there is anything of it or not."""
    if request.by == "sample_id" and request.where is None:
        columns = (found.column(name).to_pylist() for name in ("sample_id", "asset_key"))
        owners = dict(zip(*columns, strict=True))
        names = list(request.names)
        keys = [owners.get(name, name.rpartition("#")[0]) for name in names]
        assets = [h if key else "" for h, key in zip(_hex(keys), keys, strict=True)]
        return pa.table([assets, _hex(names)], schema=DENIED_SCHEMA)
    keys = sorted({*request.names, *found.column("asset_key").to_pylist()})
    return pa.table([_hex(keys), [""] * len(keys)], schema=DENIED_SCHEMA)


def _hex(names: list[str]) -> list[str]:
    return hexes(pa.table({"name": pa.array(names, pa.string())}), "name")


def _pairs(table: pa.Table) -> Iterable[tuple[str, str]]:
    return zip(table.column("asset").to_pylist(), table.column("sample").to_pylist(), strict=True)


def _tombstones(found: pa.Table) -> pa.Table:
    reasons = pa.array(["taken_down"] * found.num_rows, pa.string())
    table = found.append_column(TOMBSTONE_SCHEMA.field("reason"), reasons)
    return table.cast(TOMBSTONE_SCHEMA).sort_by([("path", "ascending"), ("row", "ascending")])


def _covering(log: Log, found: pa.Table) -> Change:
    def change(head: Snapshot | None) -> Snapshot | None:
        if head is None or not found.num_rows:
            return None
        shards = read_segments(log.storage, head.segments, ["path"]).column("path")
        here = found.filter(pc.is_in(found.column("path"), value_set=shards.combine_chunks()))
        tombstones = hide(log.storage, head.tombstones, here, "taken_down")
        if tombstones == head.tombstones:
            return None
        totals = hidden_totals(head.totals, tombstones)
        return next_version(log, head, "takedown", tombstones=tombstones, totals=totals)

    return change


def _unknown(storage: Storage, request: _Request, found: pa.Table) -> tuple[str, ...]:
    """Return the names that no version has, neither as samples nor in quarantine."""
    if request.where is not None:
        return ()
    left = set(request.names).difference(found.column(request.by).to_pylist())
    if left and request.by == "asset_key":
        rejects = distinct(ref for version in retained(storage) for ref in version.rejects)
        keys = read_tables(storage, rejects, REJECT_SCHEMA, ["asset_key"]).column("asset_key")
        left.difference_update(keys.to_pylist())
    return tuple(sorted(left))
