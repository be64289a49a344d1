"""The next version of a branch without what was taken down: shards, listings and tables anew.

Whatever held a denied sample, or named a denied asset, is written again without it; all else stays
the file that it is. The order of what stays is kept, and equal versions give equal ones.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tokenmill.shards.select import read_columns
from tokenmill.store import paths
from tokenmill.store.groups.files import group_table, rewrite_group_file, with_rows
from tokenmill.store.history import hidden_totals
from tokenmill.store.locate import locate
from tokenmill.store.log import Log
from tokenmill.store.plans import read_unit, write_plan
from tokenmill.store.rewrite import in_parallel, rewrite_shard, without
from tokenmill.store.tables import append_rows, put_table, read_table, read_tables
from tokenmill.store.taint import NO_ROWS, Rows, Taint
from tokenmill.store.transaction import next_version
from tokenmill_infra.storage import open_ranges
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

#: Where a unit's listing lies: plan part and row group.
Place = tuple[str, int]
#: Why an asset has no samples of which each was taken down by itself.
TAKEN_DOWN = "taken_down"
#: Totals that are sums over the manifest.
_COUNTS = ("shards", "samples", "tokens", "bytes")


@dataclass(slots=True)
class _Work:
    """What one version becomes, step by step.

    ``rows`` are denied rows of shards, ``listed`` those of listings. The others go from what there
    was to what it becomes: ``units`` (None: nothing is left), ``shards`` and ``places``. ``bare``
    are assets that stay listed and lost samples, with where they were; ``gone`` those that go.
    """

    storage: Storage
    taint: Taint
    rows: dict[str, Rows]
    listed: dict[Place, Rows]
    parts: set[str] = field(default_factory=set)
    units: dict[str, dict[str, Any] | None] = field(default_factory=dict)
    ids: dict[str, str] = field(default_factory=dict)
    shards: dict[str, str] = field(default_factory=dict)
    places: dict[Place, Place] = field(default_factory=dict)
    bare: dict[str, dict[str, str]] = field(default_factory=dict)
    gone: set[str] = field(default_factory=set)
    less: dict[str, int] = field(default_factory=lambda: dict.fromkeys(_COUNTS, 0))


def purged_id(unit_id: str, shard_rows: Rows, listed_rows: Rows) -> str:
    """Return the id of what is left of a unit without rows of its shard and of its listing."""
    sha = hashlib.sha256(f"purge-v1\n{unit_id}\n".encode())
    for rows in (shard_rows, listed_rows):
        sha.update(f"{len(rows)}\n".encode() + rows.astype("<i8").tobytes())
    return sha.hexdigest()[:32]


def cleaned(log: Log, head: Snapshot, taint: Taint) -> Snapshot | None:
    """Return the version that follows ``head`` without anything that is denied; None if it is so.

    Raises:
        CorruptShardError: a file of the version is missing or damaged.
    """
    if not taint.has(head):
        return None
    storage = log.storage
    work = _Work(storage, taint, taint.rows(head), dict(_listed_rows(storage, head, taint)))
    for ref in head.segments:
        rows = list(_affected(work, read_table(storage, ref)))
        made = in_parallel(lambda row: _clean_unit(work, row), rows)
        for old, unit in zip(rows, made, strict=True):
            _take(work, old, unit)
    work.parts.update(part for part, _ in work.listed)
    plans = tuple(ref for part in head.plans for ref in _clean_part(work, part))
    segments = tuple(_clean_segments(work, head))
    rejects = _clean_rejects(work, head, segments)
    tombstones = _clean_tombstones(work, head)
    return next_version(
        log,
        head,
        "purge",
        segments=segments,
        plans=plans,
        rejects=rejects,
        tombstones=tombstones,
        missing=tuple(_clean_missing(work, head)),
        groups=tuple(_clean_group(work, group) for group in head.groups),
        totals=_totals(work, head, rejects=rejects, tombstones=tombstones),
    )


def _listed_rows(storage: Storage, head: Snapshot, taint: Taint) -> Iterator[tuple[Place, Rows]]:
    """Yield the denied rows of each unit's listing, by where that lies."""
    for part in head.plans:
        rows = taint.listed(part)
        if not len(rows):
            continue
        with open_ranges(storage, part.path) as stream, pq.ParquetFile(stream) as file:
            counts = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
        ends = np.cumsum(counts)
        groups = np.searchsorted(ends, rows, side="right")
        for group in np.unique(groups).tolist():
            yield (part.path, group), rows[groups == group] - (ends[group] - counts[group])


def _affected(work: _Work, table: pa.Table) -> Iterator[dict[str, Any]]:
    """Yield the units of a manifest segment of which something goes."""
    parts = {part for part, _ in work.listed}
    mask = pc.or_(
        pc.is_in(table.column("path"), value_set=pa.array(sorted(work.rows), pa.string())),
        pc.is_in(table.column("plan"), value_set=pa.array(sorted(parts), pa.string())),
    )
    for row in table.filter(mask).to_pylist():
        if row["path"] in work.rows or (row["plan"], row["row_group"]) in work.listed:
            yield row


@dataclass(frozen=True, slots=True)
class _Unit:
    """What becomes of a unit: its row of the manifest, and by uri the assets of ``bare``."""

    row: dict[str, Any]
    bare: dict[str, str]


def _clean_unit(work: _Work, old: dict[str, Any]) -> _Unit:
    """Make a unit's shard anew, if anything goes from it, and its row of the manifest."""
    storage, path = work.storage, old["path"]
    rows = work.rows.get(path, NO_ROWS) if path else NO_ROWS
    cut = work.listed.get((old["plan"], old["row_group"]), NO_ROWS)
    row = {**old, "unit_id": purged_id(old["unit_id"], rows, cut)}
    if len(rows):
        keep = without(old["samples"], rows)
        row = rewrite_shard(storage, row, keep, unit_id=row["unit_id"])
    unit = Unit(old["unit_id"], old["plan"], old["row_group"], old["assets"])
    listing = read_unit(storage, unit).select(["key", "uri"])
    keys = listing.column("key").to_pylist()
    uris = dict(zip(keys, listing.column("uri").to_pylist(), strict=True))
    held = _keys(storage, path)
    gone = {keys[i] for i in cut.tolist()}
    stay = [key for key in keys if key not in gone]
    kept = {held[i] for i in without(len(held), rows).tolist()}
    bare = {held[i] for i in rows.tolist()} - kept - gone
    row["assets"] -= len(cut)
    row["rejected"] += len(bare) - len(gone.difference(held))
    row["min_key"], row["max_key"] = min(stay, default=""), max(stay, default="")
    return _Unit(row, {key: uris.get(key, "") for key in bare})


def _take(work: _Work, old: dict[str, Any], unit: _Unit) -> None:
    """Note what became of a unit."""
    row, path = unit.row, old["path"]
    work.ids[old["unit_id"]] = row["unit_id"]
    work.units[old["unit_id"]] = row if row["assets"] or row["path"] else None
    work.parts.add(old["plan"])
    if path in work.rows:
        work.shards[path] = row["path"]
    for count in _COUNTS[1:]:
        work.less[count] += old[count] - row[count]
    work.less["shards"] += bool(path) - bool(row["path"])
    work.bare |= {key: {"uri": uri, "unit_id": row["unit_id"]} for key, uri in unit.bare.items()}


def _keys(storage: Storage, path: str) -> list[str]:
    if not path:
        return []
    keys: list[str] = read_columns(storage, path, ["asset_key"]).column(0).to_pylist()
    return keys


def _clean_part(work: _Work, part: FileRef) -> Iterator[FileRef]:
    """Write a plan part anew without what goes, and under the new ids of its units."""
    if part.path not in work.parts:
        yield part
        return
    kept: list[int] = []
    with open_ranges(work.storage, part.path) as stream, pq.ParquetFile(stream) as file:
        ids = json.loads(file.metadata.metadata[b"tokenmill.units"])
        schema = file.schema_arrow.remove_metadata()

        def planned() -> Iterator[tuple[str, pa.Table]]:
            for group, name in enumerate(ids):
                table, cut = file.read_row_group(group), work.listed.get((part.path, group))
                if cut is not None:
                    work.gone.update(table.column("key").take(pa.array(cut)).to_pylist())
                    name = work.ids.get(name) or purged_id(name, NO_ROWS, cut)
                    table = table.take(pa.array(without(table.num_rows, cut)))
                if table.num_rows:
                    kept.append(group)
                    yield work.ids.get(name, name), table

        made = write_plan(work.storage, planned(), schema)
    units = (unit for each in made for unit in each.units)
    for group, unit in zip(kept, units, strict=True):
        work.places[part.path, group] = unit.part, unit.row_group
    yield from (replace(each.ref, scope=part.scope) for each in made)


def _clean_segments(work: _Work, head: Snapshot) -> Iterator[FileRef]:
    parts = pa.array(sorted(work.parts), pa.string())
    for ref in head.segments:
        table = read_table(work.storage, ref)
        if not pc.any(pc.is_in(table.column("plan"), value_set=parts)).as_py():
            yield ref
            continue
        rows = [row for old in table.to_pylist() if (row := _placed(work, old)) is not None]
        if rows:
            yield put_table(
                work.storage, paths.SEGMENTS, pa.Table.from_pylist(rows, SEGMENT_SCHEMA)
            )


def _placed(work: _Work, old: dict[str, Any]) -> dict[str, Any] | None:
    """Return what becomes of a row of the manifest, with where its listing lies now."""
    row = work.units.get(old["unit_id"], old)
    place = work.places.get((old["plan"], old["row_group"]))
    if row is None or place is None:
        return row
    return {**row, "plan": place[0], "row_group": place[1]}


def _clean_rejects(
    work: _Work, head: Snapshot, segments: tuple[FileRef, ...]
) -> tuple[FileRef, ...]:
    """Return quarantine without what goes, and with what lost its last sample."""
    made: list[FileRef] = []
    there: set[str] = set()
    for ref in head.rejects:
        table = read_table(work.storage, ref)
        left = table.filter(pa.array(~work.taint.denied.keys(table.column("asset_key"))))
        units = left.column("unit_id").to_pylist()
        named = [work.ids.get(unit, unit) for unit in units]
        there.update(left.column("asset_key").to_pylist())
        if left.num_rows == table.num_rows and named == units:
            made.append(ref)
        elif left.num_rows:
            at = left.schema.get_field_index("unit_id")
            left = left.set_column(at, left.schema.field(at), pa.array(named, pa.string()))
            made.append(put_table(work.storage, paths.REJECTS, left))
    held = locate(work.storage, segments, work.bare).column("asset_key").to_pylist()
    rows = [
        {"asset_key": key, "disposition": "filtered", "reason": TAKEN_DOWN, "stage": TAKEN_DOWN}
        | {"error": "all of its samples were taken down", **work.bare[key]}
        for key in sorted(set(work.bare).difference(held, there))
    ]
    return append_rows(work.storage, paths.REJECTS, made, pa.Table.from_pylist(rows, REJECT_SCHEMA))


def _clean_tombstones(work: _Work, head: Snapshot) -> tuple[FileRef, ...]:
    """Return tombstones without those of rows that go; others move with their shards."""
    table = read_tables(work.storage, head.tombstones, TOMBSTONE_SCHEMA)
    moved = pc.is_in(table.column("path"), value_set=pa.array(sorted(work.shards), pa.string()))
    if not pc.any(moved, min_count=0).as_py():
        return head.tombstones
    rows = []
    for row in table.filter(moved).to_pylist():
        removed = work.rows[row["path"]]
        at = int(np.searchsorted(removed, row["row"]))
        if at == len(removed) or removed[at] != row["row"]:
            rows.append({**row, "path": work.shards[row["path"]], "row": row["row"] - at})
    left = pa.concat_tables(
        [table.filter(pc.invert(moved)), pa.Table.from_pylist(rows, TOMBSTONE_SCHEMA)]
    )
    return append_rows(work.storage, paths.TOMBSTONES, (), left)


def _clean_missing(work: _Work, head: Snapshot) -> Iterator[FileRef]:
    for ref in head.missing:
        table = read_table(work.storage, ref)
        left = table.filter(pa.array(~work.taint.denied.keys(table.column("asset_key"))))
        if left.num_rows == table.num_rows:
            yield ref
        elif left.num_rows:
            yield put_table(work.storage, paths.MISSING, left)


def _clean_group(work: _Work, group: ColumnGroup) -> ColumnGroup:
    """Return a column group with the files beside rewritten shards written anew."""
    files = group_table(work.storage, group).to_pylist()
    if not any(row["shard"] in work.shards for row in files):
        return group
    made = (_clean_group_file(work, group, row) for row in files)
    return with_rows(work.storage, group, [row for row in made if row is not None])


def _clean_group_file(
    work: _Work, group: ColumnGroup, row: dict[str, Any]
) -> dict[str, Any] | None:
    shard = work.shards.get(row["shard"])
    if shard is None:
        return row
    keep = without(row["samples"], work.rows[row["shard"]])
    return rewrite_group_file(work.storage, group, row, keep, shard=shard) if shard else None


def _totals(
    work: _Work,
    head: Snapshot,
    *,
    rejects: tuple[FileRef, ...],
    tombstones: tuple[FileRef, ...],
) -> dict[str, int]:
    old = head.totals
    less = work.less | {"assets": len(work.gone)}
    totals = old | {name: old.get(name, 0) - count for name, count in less.items()}
    totals["rejected"] = sum(ref.rows for ref in rejects)
    return hidden_totals(totals, tombstones)
