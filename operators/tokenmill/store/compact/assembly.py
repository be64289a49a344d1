"""The version after a compaction: its manifest, listings, quarantine, tombstones and groups."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tokenmill.shards.select import read_columns
from tokenmill.store import paths
from tokenmill.store.compact.listings import Listings, Place, Unlisted, recut
from tokenmill.store.compact.survey import Survey
from tokenmill.store.compact.writing import Merge, Merged
from tokenmill.store.groups.files import with_rows
from tokenmill.store.history import hidden_totals
from tokenmill.store.locate import locate
from tokenmill.store.plans import read_unit
from tokenmill.store.rewrite import Rows, in_parallel, without
from tokenmill.store.tables import append_rows, put_rows, put_table, read_table, read_tables
from tokenmill.store.transaction import next_version
from tokenmill_infra.storage.storage import Storage
from tokenmill_schemas.plan import Unit
from tokenmill_schemas.snapshot import (
    REJECT_SCHEMA,
    SEGMENT_SCHEMA,
    TOMBSTONE_SCHEMA,
    ColumnGroup,
    FileRef,
    Snapshot,
)

#: Why an asset has no samples any more.
TAKEN_DOWN = "taken_down"


@dataclass(frozen=True, slots=True)
class _Lost:
    """The assets of one unit that lose their last sample in it.

    ``row`` is the unit's of the manifest. ``unlisted`` go from its listing, for a later one has
    them. ``bare`` were taken down: they stay listed, as assets that were filtered, until a purge
    removes their names; for an older listing of theirs may lie in a unit that stays as it is.
    """

    row: dict[str, Any]
    unlisted: frozenset[str]
    bare: frozenset[str]


def assemble(
    survey: Survey, done: Mapping[tuple[int, ...], Merged]
) -> tuple[Snapshot, list[dict[str, Any]]]:
    """Return the version in which merges have taken the place of their units, and its new rows.

    Raises:
        CorruptShardError: a file of the version is missing or damaged.
    """
    head, storage = survey.head, survey.store.storage
    lost = _lost(survey, [merged.merge for merged in done.values()])
    units = [_unlisted(merged.merge, lost) for merged in done.values()]
    listings = recut(storage, head.plans, [unit for unit in units if unit.places])
    made = {places: _row(merged, listings) for places, merged in done.items()}
    rows = [row for row in made.values() if row is not None]
    segments = put_rows(storage, paths.SEGMENTS, _manifest(survey, made, listings))
    tombstones = _tombstones(survey, done.values())
    rejects = _rejects(survey, done.values(), segments, lost)
    version = next_version(
        survey.store.log,
        head,
        "compact",
        message=f"{sum(map(len, done))} units became {len(rows)}",
        segments=segments,
        plans=listings.plans,
        rejects=rejects,
        tombstones=tombstones,
        groups=tuple(_group(survey, group, done.values()) for group in head.groups),
    )
    return replace(version, totals=_totals(version, done.values())), rows


def _lost(survey: Survey, merges: Sequence[Merge]) -> dict[Place, _Lost]:
    """Return by the places of listings which of their assets lose samples for good."""
    shards = [
        (row, merge.gone(row["path"]))
        for merge in merges
        for row in merge.shards
        if row["plan"] and len(merge.gone(row["path"]))
    ]

    def of(shard: tuple[dict[str, Any], Rows]) -> _Lost:
        row, gone = shard
        column = read_columns(survey.store.storage, row["path"], ["asset_key"]).column(0)
        keys = column.combine_chunks()
        kept = keys.take(pa.array(without(len(keys), gone)))
        missing = keys.take(pa.array(gone)).unique()
        missing = missing.filter(pc.invert(pc.is_in(missing, value_set=kept)))
        older = keys.take(pa.array(survey.replaced.get(row["path"], gone[:0]))).to_pylist()
        superseded = frozenset(missing.to_pylist()).intersection(older)
        return _Lost(row, superseded, frozenset(missing.to_pylist()) - superseded)

    found = in_parallel(of, shards)
    return {(lost.row["plan"], lost.row["row_group"]): lost for lost in found}


def _unlisted(merge: Merge, lost: Mapping[Place, _Lost]) -> Unlisted:
    places = tuple((row["plan"], row["row_group"]) for row in merge.members if row["plan"])
    gone = {place: lost[place].unlisted for place in places if place in lost}
    return Unlisted(merge.unit_id, places, gone)


def _row(merged: Merged, listings: Listings) -> dict[str, Any] | None:
    """Return a merge's row of the manifest, with its listing; None if nothing is left of it."""
    first = merged.merge.members[0]
    if not first["plan"]:
        return merged.row
    listed = listings.units.get((first["plan"], first["row_group"]))
    if listed is None:
        return None
    bounds = {"min_key": listed.min_key, "max_key": listed.max_key}
    plan, row_group = listed.place
    place = {"plan": plan, "row_group": row_group, "assets": listed.assets}
    return merged.row | bounds | place


def _manifest(
    survey: Survey,
    made: Mapping[tuple[int, ...], dict[str, Any] | None],
    listings: Listings,
) -> pa.Table:
    """Return the manifest with each merge where its first unit was."""
    table = survey.table
    moved = pc.is_in(table.column("plan"), value_set=pa.array(sorted(listings.parts), pa.string()))
    merged = np.zeros(table.num_rows, bool)
    merged[[place for places in made for place in places]] = True
    others = np.flatnonzero(moved.to_numpy() & ~merged)
    stays = np.flatnonzero(~moved.to_numpy() & ~merged)
    rows = [(places[0], row) for places, row in made.items() if row is not None]
    for place, row in zip(others.tolist(), table.take(pa.array(others)).to_pylist(), strict=True):
        listed = listings.units.get((row["plan"], row["row_group"]))
        plan, row_group = listed.place if listed else ("", 0)
        rows.append((place, row | {"plan": plan, "row_group": row_group}))
    new = pa.Table.from_pylist([row for _, row in rows], SEGMENT_SCHEMA)
    order = np.concatenate([stays, np.array([place for place, _ in rows], np.int64)])
    both = pa.concat_tables([table.take(pa.array(stays)), new])
    return both.take(pa.array(np.argsort(order, kind="stable"))).combine_chunks()


def _tombstones(survey: Survey, done: Collection[Merged]) -> tuple[FileRef, ...]:
    """Return the tombstones of rows that stay, where those are now."""
    storage, head = survey.store.storage, survey.head
    owners = {path: merged for merged in done for path in merged.starts}
    table = read_tables(storage, head.tombstones, TOMBSTONE_SCHEMA)
    moved = pc.is_in(table.column("path"), value_set=pa.array(sorted(owners), pa.string()))
    rows = []
    for row in table.filter(moved).to_pylist():
        place = owners[row["path"]].place(row["path"], row["row"])
        if place is not None:
            rows.append(row | {"path": place[0], "row": place[1]})
    new = pa.Table.from_pylist(rows, TOMBSTONE_SCHEMA)
    if new.equals(table.filter(moved)):
        return head.tombstones
    left = pa.concat_tables([table.filter(pc.invert(moved)), new])
    return put_rows(storage, paths.TOMBSTONES, left.combine_chunks())


def _rejects(
    survey: Survey,
    done: Collection[Merged],
    segments: tuple[FileRef, ...],
    lost: Mapping[Place, _Lost],
) -> tuple[FileRef, ...]:
    """Return quarantine by the new units, and with the assets that have no samples any more."""
    storage = survey.store.storage
    ids = {row["unit_id"]: m.row["unit_id"] for m in done for row in m.merge.members}
    made: list[FileRef] = []
    held: set[str] = set()
    for ref in survey.head.rejects:
        table = read_table(storage, ref)
        held.update(table.column("asset_key").to_pylist())
        units = table.column("unit_id").to_pylist()
        named = [ids.get(unit, unit) for unit in units]
        if named != units:
            at = table.schema.get_field_index("unit_id")
            column = pa.array(named, pa.string())
            table = table.set_column(at, table.schema.field(at), column)
            ref = put_table(storage, paths.REJECTS, table)
        made.append(ref)
    bare = {key: one.row for one in lost.values() for key in one.bare if key not in held}
    held.update(locate(storage, segments, bare).column("asset_key").to_pylist())
    rows = [
        _reject(storage, key, row, unit_id=ids[row["unit_id"]])
        for key, row in sorted(bare.items())
        if key not in held
    ]
    return append_rows(storage, paths.REJECTS, made, pa.Table.from_pylist(rows, REJECT_SCHEMA))


def _reject(storage: Storage, key: str, row: Mapping[str, Any], *, unit_id: str) -> dict[str, Any]:
    unit = Unit(row["unit_id"], row["plan"], row["row_group"], row["assets"])
    listing = read_unit(storage, unit).select(["key", "uri"])
    uris = listing.filter(pc.equal(listing.column("key"), key)).column("uri").to_pylist()
    return {
        "asset_key": key,
        "uri": uris[-1] if uris else "",
        "disposition": "filtered",
        "reason": TAKEN_DOWN,
        "stage": TAKEN_DOWN,
        "error": "all of its samples were taken down",
        "unit_id": unit_id,
    }


def _group(survey: Survey, group: ColumnGroup, done: Collection[Merged]) -> ColumnGroup:
    """Return a column group with the files of merged shards beside the new ones."""
    before = survey.sides[group.name]
    new: dict[str, dict[str, Any]] = {}
    gone: set[str] = set()
    for merged in done:
        gone.update(row["path"] for row in merged.merge.shards)
        side = merged.sides.get(group.name)
        if side is not None:
            new[side["shard"]] = side
    rows = {shard: row for shard, row in before.items() if shard not in gone} | new
    if rows == before:
        return group
    return with_rows(survey.store.storage, group, [rows[shard] for shard in sorted(rows)])


def _totals(version: Snapshot, done: Collection[Merged]) -> dict[str, int]:
    """Return the counts of a version that has those of the one before."""
    totals = dict(version.totals)
    for merged in done:
        shards = merged.merge.shards
        for name in ("samples", "tokens", "bytes"):
            less = sum(shard[name] for shard in shards) - merged.row[name]
            totals[name] = totals.get(name, 0) - less
        totals["shards"] = totals.get("shards", 0) - len(shards) + bool(merged.row["path"])
    totals["rejected"] = sum(ref.rows for ref in version.rejects)
    return hidden_totals(totals, version.tombstones)
