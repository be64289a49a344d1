"""Adding a column group, extending it to newer shards, writing it anew, and dropping it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

import pyarrow as pa

from tokenmill.shards.select import read_columns, stored_layout
from tokenmill.store.groups.files import folder_of, group_table, with_rows, write_group_file
from tokenmill.store.groups.inputs import GroupInput
from tokenmill.store.groups.join import Joinable
from tokenmill.store.groups.names import check_names, find_group, names_of, present_name
from tokenmill.store.identity import differences
from tokenmill.store.locate import KEYS
from tokenmill.store.rewrite import Form, Rows, in_parallel
from tokenmill.store.tables import append_rows
from tokenmill.store.transaction import next_version
from tokenmill_infra.storage import scratch
from tokenmill_schemas.arrow import ShardLayout
from tokenmill_schemas.canonical import digest
from tokenmill_schemas.errors import FingerprintError, JobError, StoreError
from tokenmill_schemas.snapshot import GROUP_SCHEMA, ColumnGroup, Snapshot

if TYPE_CHECKING:
    from tokenmill.store.store import Store

#: What becomes of shards that the group covers already: an error if the input has rows of them;
#: they stay as they are; or they are written anew, if the input has rows of them.
Covered = Literal["refuse", "keep", "replace"]
#: Rows that are joined at once.
JOINED_ROWS = 4096
_SHARD = ["path", "format", "samples", "batch_rows"]


@dataclass(frozen=True, slots=True)
class Added:
    """What `add_group` did.

    ``shards`` and ``samples`` are those that got values now, ``unmatched`` the input's rows that
    no sample took.
    """

    snapshot: Snapshot
    group: ColumnGroup
    shards: int
    samples: int
    unmatched: int


def add_group(store: Store, name: str, source: GroupInput, *, covered: Covered = "refuse") -> Added:
    """Add columns to a store's samples; makes one version.

    A group of that name is extended to the shards that it does not cover yet. Samples for which the
    input has no row have no values, and shards without any are not covered: nothing is shown of
    either by a reader that asks for the group.

    Args:
        store: The store, as seen from the branch to commit to.
        name: What to call the group.
        source: The rows; see `from_table`, `from_files`, `from_store`.
        covered: What becomes of shards that the group covers already.

    Raises:
        JobError: a name is taken, the input does not fit, or nothing is left to do.
        FingerprintError: the group's tokens were made in another way.
        ConflictError: other commits kept winning.
    """
    with store.hold("add-columns", note=name), scratch() as folder:
        rows = Joinable.of(_typed(store, name, source), folder)
        adding = _Adding(store, name, rows, covered)
        snapshot = store.transact(adding.change)
    if snapshot is None or adding.group is None:
        raise StoreError("has no snapshot yet", uri=store.uri)
    samples = sum(row["present"] for row in adding.new)
    return Added(snapshot, adding.group, len(adding.new), samples, rows.left)


def _typed(store: Store, name: str, source: GroupInput) -> GroupInput:
    """Return an input with the types that the group has already: files tell them loosely."""
    head = store.log.head()
    old = next((group for group in head.groups if group.name == name), None) if head else None
    if old is None or set(old.columns) != set(source.layout.extras.names):
        return source
    for path in group_table(store.storage, old, ["path"]).column("path").to_pylist():
        there = stored_layout(store.storage, path).extras
        extras = pa.schema([there.field(column) for column in old.columns])
        return replace(source, layout=replace(source.layout, extras=extras))
    return source


def drop_group(store: Store, name: str) -> Snapshot:
    """Leave a column group out of the next version; older ones keep it.

    Raises:
        JobError: the newest version has no such group.
    """

    def change(head: Snapshot | None) -> Snapshot | None:
        if head is None:
            raise StoreError("has no snapshot yet", uri=store.uri)
        group = find_group(head, name)
        others = tuple(other for other in head.groups if other is not group)
        return next_version(store.log, head, "drop-columns", message=name, groups=others)

    with store.hold("drop-columns", note=name):
        made = store.transact(change)
    if made is None:
        raise StoreError("has no snapshot yet", uri=store.uri)
    return made


@dataclass(slots=True)
class _Adding:
    """One `add_group` under way: what was written is kept, should another commit come first."""

    store: Store
    name: str
    rows: Joinable
    covered: Covered
    group: ColumnGroup | None = None
    new: list[dict[str, Any]] = field(default_factory=list)
    written: dict[str, dict[str, Any] | None] = field(default_factory=dict)

    def change(self, head: Snapshot | None) -> Snapshot | None:
        """Return the version after ``head``; None if it needs no other."""
        if head is None:
            raise StoreError("has no snapshot yet", uri=self.store.uri)
        shards = self.store.segments(head, _SHARD).to_pylist()
        shards = [shard for shard in shards if shard["path"]]
        if not shards:
            raise StoreError(f"snapshot {head.number} has no samples", uri=self.store.uri)
        old = next((group for group in head.groups if group.name == self.name), None)
        self.group = self._group(head, old, shards[0]["format"])
        there = group_table(self.store.storage, self.group, ["shard"]).column("shard")
        held = set(there.to_pylist())
        self.new = self._write(shards, set() if self.covered == "replace" else held)
        if self.covered == "refuse":
            self._check_covered([shard for shard in shards if shard["path"] in held])
        if not self.new:
            self._check_nothing(old)
            return None
        self.group = self._with_new(self.group, held, [shard["path"] for shard in shards])
        groups = [group for group in head.groups if group is not old]
        groups = sorted([*groups, self.group], key=lambda group: group.name)
        return next_version(
            self.store.log, head, "add-columns", message=self.name, groups=tuple(groups)
        )

    def _group(self, head: Snapshot, old: ColumnGroup | None, kind: str) -> ColumnGroup:
        """Return the group as it is, without files if it is new, once the input fits to it."""
        source, layout = self.rows.source, self._layout
        schema = layout.schema.to_string(show_schema_metadata=True)
        group = ColumnGroup(
            name=self.name,
            spec=layout.spec,
            columns=tuple(source.layout.extras.names),
            layout=digest({"schema": schema, "format": kind}),
            fingerprint=digest(source.parts),
            fingerprint_parts=source.parts,
            segments=old.segments if old else (),
        )
        check_names(head, self.store.layout(head), self.name, names_of(group))
        if old is not None and old.fingerprint != group.fingerprint:
            raise FingerprintError(
                f"the column group {self.name!r} has tokens of another kind: "
                f"{'; '.join(differences(old.fingerprint_parts, source.parts))}. Give these "
                "another name, or drop that group first",
                uri=self.store.uri,
            )
        if old is not None and old.layout != group.layout:
            raise JobError(
                f"the column group {self.name!r} has {names_of(old)} of other types than the "
                f"input's {names_of(group)}: give these another name, or drop that group first",
                path="columns",
            )
        return group

    def _write(self, shards: list[dict[str, Any]], held: set[str]) -> list[dict[str, Any]]:
        chosen = [shard for shard in shards if shard["path"] not in held]
        return [row for row in in_parallel(self._written, chosen) if row is not None]

    def _written(self, shard: dict[str, Any]) -> dict[str, Any] | None:
        path = shard["path"]
        if path not in self.written:
            self.written[path] = self._beside(shard)
        return self.written[path]

    def _beside(self, shard: dict[str, Any]) -> dict[str, Any] | None:
        """Write the file beside a shard; None if the input has no row of it."""
        storage = self.store.storage
        keys = read_columns(storage, shard["path"], KEYS)
        numbers = self.rows.find(keys)
        if (numbers < 0).all():
            return None
        form = Form(self._layout, shard["format"], shard["batch_rows"])
        batches = self._batches(keys, numbers)
        try:
            return write_group_file(storage, self.name, shard["path"], batches, form=form)
        except ValueError as error:
            raise JobError(f"a shard cannot hold the columns: {error}", path="columns") from error

    def _batches(self, keys: pa.Table, numbers: Rows) -> Iterator[pa.RecordBatch]:
        """Yield the rows of ``numbers`` (-1: without values) as rows of the group."""
        schema = self._layout.schema
        for start in range(0, len(numbers), JOINED_ROWS):
            some = numbers[start : start + JOINED_ROWS]
            values = self.rows.rows(some)
            own = keys.slice(start, len(some)).combine_chunks()
            arrays = dict(zip(values.schema.names, values.columns, strict=True))
            arrays |= {name: own.column(name).combine_chunks() for name in KEYS}
            arrays[present_name(self.name)] = pa.array(some >= 0)
            yield pa.RecordBatch.from_arrays([arrays[n] for n in schema.names], schema=schema)

    @property
    def _layout(self) -> ShardLayout:
        """The columns of the group's files."""
        there = pa.field(present_name(self.name), pa.bool_(), nullable=False)
        given = self.rows.source.layout
        return replace(given, extras=given.extras.append(there))

    def _check_covered(self, shards: list[dict[str, Any]]) -> None:
        """Refuse rows of shards that the group covers: they might say something else there."""
        for shard in shards if self.rows.left else ():
            keys = read_columns(self.store.storage, shard["path"], KEYS)
            numbers = self.rows.find(keys)
            if not self.rows.taken[numbers[numbers >= 0]].all():
                raise JobError(
                    f"the column group {self.name!r} covers {shard['path']} already, of which the "
                    "input has rows: say covered='keep' to leave such shards as they are, or "
                    "covered='replace' to write them anew",
                    path="covered",
                )

    def _check_nothing(self, old: ColumnGroup | None) -> None:
        """Accept that nothing is to be done only where that was asked for."""
        if old is None or self.covered != "keep":
            name, rows = self.rows.source.by, len(self.rows.taken)
            raise JobError(
                f"none of the input's {rows} rows has the {name} of a sample in the store",
                path="by",
            )

    def _with_new(self, group: ColumnGroup, held: set[str], shards: list[str]) -> ColumnGroup:
        storage = self.store.storage
        new = {row["shard"]: row for row in self.new}
        if held.isdisjoint(new):
            table = pa.Table.from_pylist(self.new, GROUP_SCHEMA)
            refs = append_rows(storage, folder_of(self.name), group.segments, table)
            return replace(group, segments=refs)
        rows = {row["shard"]: row for row in group_table(storage, group).to_pylist()} | new
        return with_rows(storage, group, [rows[path] for path in shards if path in rows])
