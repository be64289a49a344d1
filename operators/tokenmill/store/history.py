"""Going back and coming together: a version restored, and a branch merged into another."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from tokenmill.store import paths
from tokenmill.store.groups.files import group_table, with_rows
from tokenmill.store.hidden import hide
from tokenmill.store.log import Log
from tokenmill.store.plans import read_units
from tokenmill.store.segments import read_segments
from tokenmill.store.tables import append_rows, read_tables
from tokenmill.store.takedowns import Takedowns
from tokenmill.store.transaction import next_version, transact
from tokenmill_infra.storage.storage import Storage
from tokenmill_schemas.entropy import combine
from tokenmill_schemas.errors import (
    ConflictError,
    FingerprintError,
    SnapshotNotFoundError,
    StoreError,
)
from tokenmill_schemas.plan import Unit
from tokenmill_schemas.snapshot import (
    MISSING_SCHEMA,
    REJECT_SCHEMA,
    SEGMENT_SCHEMA,
    TOMBSTONE_SCHEMA,
    ColumnGroup,
    FileRef,
    Snapshot,
)

#: What a version is made of, and what a restore brings back.
CONTENT = (
    *("segments", "rejects", "plans", "tombstones", "missing", "groups"),
    *("totals", "entropy"),
)


#: The tables of a version whose rows are about single assets.
_BY_ASSET = {"tombstones": TOMBSTONE_SCHEMA, "rejects": REJECT_SCHEMA, "missing": MISSING_SCHEMA}


def restore(log: Log, old: Snapshot) -> Snapshot:
    """Make the content of an older version the newest one; what came between stays in the log.

    What was taken down since stays hidden. Restoring what is there already makes no version.
    """

    def change(head: Snapshot | None) -> Snapshot | None:
        if head is None:
            raise StoreError("has no snapshot yet", uri=log.storage.uri)
        if head.fingerprint != old.fingerprint or head.layout != old.layout:
            raise FingerprintError("the branch holds tokens of another kind", uri=log.storage.uri)
        content = {name: getattr(old, name) for name in CONTENT} | _taken_down(log.storage, old)
        if all(getattr(head, name) == value for name, value in content.items()):
            return None
        message = f"{old.branch}:{old.number}"
        return next_version(log, head, "restore", message=message, **content)

    return _made(log, transact(log, change))


def _taken_down(storage: Storage, old: Snapshot) -> dict[str, Any]:
    """Return the tombstones and totals of a version with all takedowns since in them."""
    found = Takedowns(storage).positions([f.name for f in TOMBSTONE_SCHEMA if f.name != "reason"])
    shards = read_segments(storage, old.segments, ["path"]).column("path") if len(found) else None
    if shards is None:
        return {}
    found = found.filter(pc.is_in(found.column("path"), value_set=shards.combine_chunks()))
    tombstones = hide(storage, old.tombstones, found, "taken_down")
    return {"tombstones": tombstones, "totals": hidden_totals(old.totals, tombstones)}


def hidden_totals(totals: Mapping[str, int], tombstones: Iterable[FileRef]) -> dict[str, int]:
    """Return counts of a version whose tombstones are now ``tombstones``."""
    hidden = sum(ref.rows for ref in tombstones)
    shown = totals.get("samples", 0) + totals.get("hidden", 0) - hidden
    rest = {name: count for name, count in totals.items() if name != "hidden"}
    return rest | {"samples": shown} | ({"hidden": hidden} if hidden else {})


def merge(into: Log, branch: str) -> Snapshot:
    """Bring what a branch did since it began, or since it was last merged, into another branch.

    Both must have done different things: other assets, other units. What the branch added is added
    behind what is there, what it removed or hid goes, in one version. What was merged once stays
    merged: after a restore to a version before it, merging again brings only what came later.

    Raises:
        ConflictError: both account for the same asset anew, or both rewrote the same unit.
        FingerprintError: their tokens are of different kinds.
        StoreError: the branch does not begin on the one that it is merged into.
    """
    source = Log(into.storage, branch)
    fork = source.fork()
    theirs = source.head()
    if fork is None or fork.branch != into.branch or theirs is None:
        raise StoreError(
            f"branch {branch!r} does not begin on {into.branch!r}: merge it into the branch that "
            "it comes from",
            uri=into.storage.uri,
        )
    beginning = fork.number

    def change(head: Snapshot | None) -> Snapshot | None:
        if head is None:
            raise StoreError("has no snapshot yet", uri=into.storage.uri)
        since = max(beginning, head.merged.get(branch, 0))
        if since == theirs.number:
            return None
        base = _base(source, since)
        return _Merge(into.storage, base, head, theirs).next_version(into, branch)

    return _made(into, transact(into, change))


def _base(source: Log, number: int) -> Snapshot:
    try:
        return source.read(number)
    except SnapshotNotFoundError as error:
        raise StoreError(
            f"branch {source.branch!r} can be merged no more: version {number}, from which both "
            "come, was purged",
            uri=source.storage.uri,
        ) from error


def _made(log: Log, snapshot: Snapshot | None) -> Snapshot:
    if snapshot is None:
        raise StoreError("has no snapshot yet", uri=log.storage.uri)
    return snapshot


@dataclass(frozen=True, slots=True)
class _Merge:
    """A three-way merge: what ``theirs`` did since ``base`` is done to ``ours``."""

    storage: Storage
    base: Snapshot
    ours: Snapshot
    theirs: Snapshot

    def next_version(self, log: Log, branch: str) -> Snapshot:
        ours, theirs = self.ours, self.theirs
        if (ours.fingerprint, ours.layout) != (theirs.fingerprint, theirs.layout):
            raise FingerprintError(
                f"branch {branch!r} holds tokens of another kind", uri=self.storage.uri
            )
        self._check()
        segments = self._table("segments", paths.SEGMENTS, SEGMENT_SCHEMA)
        shards = read_segments(self.storage, segments, ["path"]).column("path").combine_chunks()
        tombstones = self._tombstones(shards)
        rejects = self._table("rejects", paths.REJECTS, REJECT_SCHEMA)
        return next_version(
            log,
            ours,
            "merge",
            message=f"{branch}:{theirs.number}",
            segments=segments,
            rejects=rejects,
            plans=_merged(self.base.plans, ours.plans, theirs.plans),
            tombstones=tombstones,
            missing=self._table("missing", paths.MISSING, MISSING_SCHEMA),
            groups=tuple(self._beside(group, shards) for group in self._groups()),
            totals=self._totals(segments, rejects, tombstones),
            entropy=combine(ours.entropy, theirs.entropy, less=self.base.entropy),
            merged=ours.merged | {branch: theirs.number},
        )

    def _shared(self, name: str) -> tuple[FileRef, ...]:
        """Return the files that a table begins with on all three sides; they need no reading."""
        sides = (getattr(s, name) for s in (self.base, self.ours, self.theirs))
        alike = takewhile(lambda refs: len(set(refs)) == 1, zip(*sides, strict=False))
        return tuple(refs[0] for refs in alike)

    def _rows(self, snapshot: Snapshot, name: str, schema: pa.Schema) -> list[tuple[Any, ...]]:
        refs = getattr(snapshot, name)[len(self._shared(name)) :]
        table = read_tables(self.storage, refs, schema)
        return list(zip(*(column.to_pylist() for column in table.columns), strict=True))

    def _table(self, name: str, folder: str, schema: pa.Schema) -> tuple[FileRef, ...]:
        """Return one of the tables, merged row by row; as it is where only one side changed it."""
        base, ours, theirs = (getattr(s, name) for s in (self.base, self.ours, self.theirs))
        if theirs == base or ours == theirs:
            return tuple(ours)
        if ours == base:
            return tuple(theirs)
        sides = (self._rows(s, name, schema) for s in (self.base, self.ours, self.theirs))
        rows = _merged(*sides)
        columns = list(zip(*rows, strict=True)) or [() for _ in schema]
        arrays = [pa.array(c, f.type) for c, f in zip(columns, schema, strict=True)]
        table = pa.table(arrays, schema=schema)
        return append_rows(self.storage, folder, self._shared(name), table)

    def _tombstones(self, shards: pa.Array) -> tuple[FileRef, ...]:
        merged = self._table("tombstones", paths.TOMBSTONES, TOMBSTONE_SCHEMA)
        table = read_tables(self.storage, merged, TOMBSTONE_SCHEMA)
        there = pc.is_in(table.column("path"), value_set=shards)
        if pc.all(there).as_py() is not False:
            return merged
        return append_rows(self.storage, paths.TOMBSTONES, (), table.filter(there))

    def _check(self) -> None:
        """Refuse what both sides did to the same assets or units, unless they did the same.

        A unit that was rewritten, as by compaction, counts for all of its assets.
        """
        units = [
            {row[0]: row for row in self._rows(s, "segments", SEGMENT_SCHEMA)}
            for s in (self.base, self.ours, self.theirs)
        ]
        base, ours, theirs = units
        both = (base.keys() - ours.keys()) & (base.keys() - theirs.keys())
        mine = self._keys(ours[u] for u in ours.keys() - base.keys() - theirs.keys())
        other = self._keys(theirs[u] for u in theirs.keys() - base.keys() - ours.keys())
        for name, schema in _BY_ASSET.items():
            sides = (set(self._rows(s, name, schema)) for s in (self.base, self.ours, self.theirs))
            before, here, there = sides
            key = schema.get_field_index("asset_key")
            mine |= {row[key] for row in (before ^ here) - (before ^ there)}
            other |= {row[key] for row in (before ^ there) - (before ^ here)}
        twice = mine & other
        if both or twice:
            count = len(twice or both)
            what = f"{count} {'assets' if twice else 'units'}"
            some = ", ".join(sorted(twice or both)[:3])
            raise ConflictError(
                f"snapshots {self.ours.branch}:{self.ours.number} and "
                f"{self.theirs.branch}:{self.theirs.number} both account anew for {what} "
                f"({some}{', ...' * (count > 3)}); nothing was merged: begin a new branch at "
                f"{self.ours.branch} and run the job on it, or restore {self.theirs.branch} to "
                "have its content only",
                uri=self.storage.uri,
                asked=self.theirs.number,
                found=self.ours.number,
            )

    def _keys(self, rows: Iterable[tuple[Any, ...]]) -> set[str]:
        names = SEGMENT_SCHEMA.names
        records = [dict(zip(names, row, strict=True)) for row in rows]
        units = [
            Unit(r["unit_id"], r["plan"], r["row_group"], r["assets"]) for r in records if r["plan"]
        ]
        tables = (table for _, table in read_units(self.storage, units, ["key"]))
        return {key for table in tables for key in table.column("key").to_pylist()}

    def _groups(self) -> tuple[ColumnGroup, ...]:
        """Return the column groups of both; a group that both changed is a conflict."""
        sides = ({g.name: g for g in s.groups} for s in (self.base, self.ours, self.theirs))
        base, ours, theirs = sides
        for name in ours.keys() | theirs.keys() | base.keys():
            versions = base.get(name), ours.get(name), theirs.get(name)
            if versions[1] != versions[2] and versions[0] not in versions[1:]:
                raise ConflictError(
                    f"both branches changed the columns {name!r}",
                    uri=self.storage.uri,
                    asked=self.theirs.number,
                    found=self.ours.number,
                )
        chosen = {
            n: ours.get(n) if theirs.get(n) == base.get(n) else theirs.get(n)
            for n in sorted(ours.keys() | theirs.keys())
        }
        return tuple(group for group in chosen.values() if group is not None)

    def _beside(self, group: ColumnGroup, shards: pa.Array) -> ColumnGroup:
        """Return a group without files beside shards that one side has and the other removed."""
        table = group_table(self.storage, group)
        there = pc.is_in(table.column("shard"), value_set=shards)
        if pc.all(there).as_py() is not False:
            return group
        return with_rows(self.storage, group, table.filter(there).to_pylist())

    def _totals(
        self,
        segments: Sequence[FileRef],
        rejects: Iterable[FileRef],
        tombstones: Iterable[FileRef],
    ) -> dict[str, int]:
        counted = ["path", "samples", "tokens", "bytes"]
        table = read_segments(self.storage, segments, counted)
        sums = {name: int(pc.sum(table.column(name)).as_py() or 0) for name in counted[1:]}
        shards = table.num_rows - table.column("path").to_pylist().count("")
        sides = (s.totals.get("assets", 0) for s in (self.ours, self.theirs, self.base))
        ours, theirs, base = sides
        totals = sums | {"shards": shards, "assets": ours + theirs - base}
        totals["rejected"] = sum(ref.rows for ref in rejects)
        return hidden_totals(totals, tombstones)


def _merged(base: Sequence[Any], ours: Sequence[Any], theirs: Sequence[Any]) -> tuple[Any, ...]:
    """Return ours without what theirs removed since the base, then what theirs added to it."""
    removed = set(base).difference(theirs)
    there = set(ours).union(base)
    added = [entry for entry in theirs if entry not in there]
    return (*(entry for entry in ours if entry not in removed), *added)
