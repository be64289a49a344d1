"""Verification of column groups: whole files that go with the shards beside which they lie."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from tokenmill.shards.base import ShardReader
from tokenmill.shards.select import read_columns
from tokenmill.store.checks import file_digest, value_problems, words
from tokenmill.store.groups.files import absent_rows, group_table
from tokenmill.store.groups.names import present_name
from tokenmill_schemas.canonical import digest
from tokenmill_schemas.errors import StoreError
from tokenmill_schemas.snapshot import ColumnGroup, Snapshot

if TYPE_CHECKING:
    from tokenmill.store.store import Store


def group_problems(store: Store, snapshot: Snapshot, *, deep: bool = True) -> Iterator[str]:
    """Yield what is wrong with the column groups of a version; ``deep`` also reads their files."""
    try:
        facts = store.segments(snapshot, ["path", "samples"])
    except StoreError:
        return  # told of the manifest already
    live = dict(zip(*(facts.column(name).to_pylist() for name in facts.schema.names), strict=True))
    for group in snapshot.groups:
        if digest(group.fingerprint_parts) != group.fingerprint:
            yield f"group {group.name}: the fingerprint is not the hash of its parts"
        try:
            rows = group_table(store.storage, group).to_pylist()
        except StoreError as error:
            yield f"group {group.name}: {words(store.storage, error)}"
            continue
        for row in rows:
            if row["shard"] not in live:
                yield f"{row['path']}: {row['shard']} is no shard of the version"
            elif row["samples"] != live[row["shard"]]:
                yield f"{row['path']}: is of {row['samples']} rows, {row['shard']} of others"
            else:
                yield from _file_problems(store, group, row, deep=deep)


def _file_problems(
    store: Store, group: ColumnGroup, row: Mapping[str, Any], *, deep: bool
) -> Iterator[str]:
    path = row["path"]
    if not store.storage.exists(path):
        yield f"{path} is missing"
        return
    if not deep:
        return
    if file_digest(store.storage, path) != (row["sha256"], row["bytes"]):
        yield f"{path}: its bytes are not those that were committed"
        return
    try:
        with store.shard(path) as reader:
            yield from (f"{path}: {problem}" for problem in _row_problems(reader, group, row))
        ids = [read_columns(store.storage, p, ["sample_id"]) for p in (path, row["shard"])]
        if ids[0] != ids[1]:
            yield f"{path}: its samples are not those of {row['shard']}"
    except StoreError as error:
        yield words(store.storage, error)


def _row_problems(reader: ShardReader, group: ColumnGroup, row: Mapping[str, Any]) -> Iterator[str]:
    if reader.rows != row["samples"]:
        yield f"holds {reader.rows} rows, committed were {row['samples']}"
    if reader.layout.spec != group.spec:
        yield "its token spec is not the group's"
        return
    wanted = [*group.columns, present_name(group.name)]
    if reader.layout.extras.names != wanted:
        yield f"its columns are {reader.layout.extras.names}, the group's {wanted}"
        return
    there: list[pa.Array] = []
    for batch in reader.batches():
        there.append(batch.column(present_name(group.name)))
        problem = value_problems(batch, group.spec, reader.layout.packing)
        if problem:
            yield problem
            return
    flags = pa.chunked_array(there, pa.bool_())
    absent = absent_rows(row["absent"], row["samples"])
    found = pc.indices_nonzero(pc.invert(flags)).to_numpy()
    if found.tolist() != absent.tolist() or row["present"] != len(flags) - len(absent):
        yield "other rows have values than its manifest row says"
