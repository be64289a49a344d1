"""Delta Lake tables of a version, for DuckDB, Polars, Spark and whatever else reads Delta.

    samples/   a row a sample: sample_id, asset_key, all companion columns, shard.path, shard.row
    shards/    a row a shard: the manifest, but for the shapes of samples, which are bytes of ours

The tokens stay in the store: ``shard.path`` and ``shard.row`` say where. Dotted names are structs
(see `tokenmill.export.delta_types`). A file of ``samples`` holds the rows of one shard and is named
by the hash of what it shows, so exporting a later version to the same folder writes only what is
new and makes the next version of the tables; exporting the same one again makes none.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby
from typing import Any, ClassVar

import pyarrow as pa
import pyarrow.parquet as pq

from tokenmill.export.base import Target
from tokenmill.export.delta_log import DataFile, Table, commit, read
from tokenmill.export.delta_types import nest, nested, schema_json, statistics
from tokenmill.export.samples import Samples
from tokenmill.store.groups.names import find_group
from tokenmill.store.hidden import Rows
from tokenmill_schemas.canonical import canonical_json, digest
from tokenmill_schemas.errors import JobError
from tokenmill_schemas.snapshot import SEGMENT_SCHEMA

_OURS = ("shards/", "samples/")
#: The manifest's columns that a table names; readers of Delta Lake pass over others of a file.
MANIFEST = pa.schema([field for field in SEGMENT_SCHEMA if field.name != "shapes"])
#: Where in the store a sample lies.
PLACE = (pa.field("shard.path", pa.string()), pa.field("shard.row", pa.int64()))


@dataclass(frozen=True, slots=True)
class DeltaExporter:
    """Writes the tables ``samples`` and ``shards``, or their next versions."""

    again: ClassVar[bool] = True

    def write(self, samples: Samples, target: Target) -> int:
        """Write what is new and return the number of samples that the table shows.

        Raises:
            JobError: the folder holds something else, or a column has no type in Delta.
            ConflictError: another export came first.
        """
        tables = {name: read(target, name) for name in ("shards", "samples")}
        found = (entry.path for entry in target.storage.list(""))
        if (other := next((p for p in found if not p.startswith((*_OURS,))), None)) is not None:
            text = f"{target.storage.uri} holds {other}, which is of no such export"
            raise JobError(f"{text}; choose a new folder", path="to")
        shards = _Shards(samples, target, tables["shards"])
        _commit(samples, target, tables["shards"], (MANIFEST, list(shards.files())))
        rows = _Rows(samples, target, tables["samples"])
        _commit(samples, target, tables["samples"], (rows.schema, list(rows.files())))
        return rows.count


PLUGIN = DeltaExporter


def _commit(
    samples: Samples, target: Target, table: Table, content: tuple[pa.Schema, list[DataFile]]
) -> None:
    snapshot = samples.version.snapshot
    schema, files = content
    text = canonical_json(schema_json(schema)).decode()
    created = int(datetime.fromisoformat(snapshot.created_at).timestamp() * 1000)
    fingerprint = snapshot.fingerprint
    metadata = {
        "id": str(uuid.UUID(digest([table.name, fingerprint, text])[:32])),
        "name": table.name,
        "format": {"provider": "parquet", "options": {}},
        "schemaString": text,
        "partitionColumns": [],
        "configuration": {"tokenmill.fingerprint": fingerprint},
        "createdTime": created,
    }
    if table.version >= 0 and table.metadata.get("id") != metadata["id"]:
        raise JobError(
            f"{target.storage.uri}/{table.name} is a table of other tokens or columns; "
            "choose a new folder",
            path="to",
        )
    facts: dict[str, Any] = {
        "timestamp": created,
        "engineInfo": "tokenmill",
        "operationParameters": {
            "number": str(snapshot.number),
            "branch": snapshot.branch,
            "content_id": snapshot.content_id,
            "where": samples.where.text if samples.where else "",
        },
    }
    commit(target, table, files, metadata=metadata, facts=facts)


@dataclass(frozen=True, slots=True)
class _Shards:
    """The manifest's segments, which are Parquet files that a table can have as they are."""

    samples: Samples
    target: Target
    table: Table

    def files(self) -> Iterator[DataFile]:
        """Yield the files of the version, writing those that the table lacks."""
        storage = self.samples.version.store.storage
        for ref in self.samples.version.snapshot.segments:
            path = f"{ref.sha256[:32]}.parquet"
            if path not in self.table.files:
                self.target.put(f"{self.table.name}/{path}", storage.read(ref.path))
            stats = canonical_json({"numRecords": ref.rows}).decode()
            yield DataFile(path, ref.bytes, stats)


class _Rows:
    """The samples' companion columns, a file a shard."""

    def __init__(self, samples: Samples, target: Target, table: Table) -> None:
        self._samples, self._target, self._table = samples, target, table
        stored = samples.layout.schema
        shapes = [s.name for s in samples.layout.spec.streams if not s.is_fixed]
        self._names = [*samples.companions, *(f"{name}.shape" for name in shapes)]
        self.schema = nested([*(stored.field(name) for name in self._names), *PLACE])
        self.count = 0

    def files(self) -> Iterator[DataFile]:
        """Yield the files of the version, writing those that the table lacks."""
        fresh: dict[str, str] = {}
        for path, name in self._named():
            if name in self._table.files:
                self.count += self._table.files[name]
                yield DataFile(name)
            elif path:
                fresh[path] = name
        placed = self._samples.places(fresh.keys())
        for path, batches in groupby(placed, key=lambda place: place[0]):
            rows = [self._placed(batch, path, where) for _, where, batch in batches]
            yield self._write(fresh[path], pa.Table.from_batches(rows, self.schema))

    def _named(self) -> Iterator[tuple[str, str]]:
        """Yield every shard, and how the file is called that shows what is to be seen of it."""
        samples, version = self._samples, self._samples.version
        hidden, where = version.hidden(), samples.where.text if samples.where else ""
        groups = [find_group(version.snapshot, name).to_json() for name in samples.groups]
        common = digest([where, groups, schema_json(self.schema)])
        segments = version.segments(["path", "sha256"])
        for path, sha256 in zip(*(c.to_pylist() for c in segments.columns), strict=True):
            shown = digest([path, sha256, hidden.rows(path).tolist(), common])
            yield path, f"{shown[:32]}.parquet"

    def _write(self, name: str, table: pa.Table) -> DataFile:
        self.count += table.num_rows
        with self._target.folder() as folder:
            local = folder / name
            pq.write_table(table, local, compression="zstd")
            size = local.stat().st_size
            self._target.put_file(f"{self._table.name}/{name}", local)
        return DataFile(name, size, canonical_json(statistics(table)).decode())

    def _placed(self, batch: pa.RecordBatch, path: str, rows: Rows) -> pa.RecordBatch:
        columns = {name: batch.column(name) for name in self._names}
        columns["shard.path"] = pa.array([path] * len(rows), pa.string())
        columns["shard.row"] = pa.array(rows)
        return pa.RecordBatch.from_arrays(nest(columns, self.schema), schema=self.schema)
