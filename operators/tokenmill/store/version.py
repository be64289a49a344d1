"""One version of a store, to read from: its shards, its samples, and what it does not show."""

from __future__ import annotations

from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from tokenmill.store.groups import absent_rows, group_table, joined_rows
from tokenmill.store.groups.names import PRESENT, find_group
from tokenmill.store.hidden import Hidden, Rows
from tokenmill.store.locate import KEYS
from tokenmill.store.tables import read_tables
from tokenmill_schemas.arrow import ShardLayout
from tokenmill_schemas.snapshot import MISSING_SCHEMA, TOMBSTONE_SCHEMA, Snapshot

if TYPE_CHECKING:
    from tokenmill.store.store import Store


@dataclass(frozen=True, slots=True)
class Version:
    """A store as of one snapshot."""

    store: Store
    snapshot: Snapshot

    @property
    def number(self) -> int:
        """Number of the version on its branch."""
        return self.snapshot.number

    def segments(self, columns: list[str] | None = None) -> pa.Table:
        """Return one row per shard, in order (`SEGMENT_SCHEMA`)."""
        return self.store.segments(self.snapshot, columns)

    def rejects(self) -> pa.Table:
        """Return the assets without samples, and why (`REJECT_SCHEMA`)."""
        return self.store.rejects(self.snapshot)

    def tombstones(self) -> pa.Table:
        """Return the samples that the version itself hides (`TOMBSTONE_SCHEMA`)."""
        return read_tables(self.store.storage, self.snapshot.tombstones, TOMBSTONE_SCHEMA)

    def missing(self) -> pa.Table:
        """Return the assets that their jobs list no longer (`MISSING_SCHEMA`)."""
        return read_tables(self.store.storage, self.snapshot.missing, MISSING_SCHEMA)

    def hidden(self) -> Hidden:
        """Return all rows that must not be shown now: by tombstones and by takedowns since."""
        return self.store.hidden(self.snapshot)

    def layout(self) -> ShardLayout:
        """Return the columns that the shards have.

        Raises:
            StoreError: the version has no shard to tell.
        """
        return self.store.layout(self.snapshot)

    def scan(
        self, columns: Sequence[str] | None = None, groups: Sequence[str] = ()
    ) -> Iterator[pa.RecordBatch]:
        """Yield the samples that may be shown, in order, in the batches that shards have.

        Args:
            columns: Columns to give, as they are stored (see FORMAT.md); None is all of them.
            groups: Column groups whose columns are wanted too; samples without values in one of
                them are left out.

        Raises:
            CorruptShardError: a shard is missing or damaged.
            JobError: there is no such column group.
        """
        for _, _, batch in self.places(columns, groups):
            yield batch

    def places(
        self,
        columns: Sequence[str] | None = None,
        groups: Sequence[str] = (),
        *,
        shards: Container[str] | None = None,
    ) -> Iterator[tuple[str, Rows, pa.RecordBatch]]:
        """Yield what `scan` does, each batch with the path of its shard and its rows there.

        Args:
            columns: As for `scan`.
            groups: As for `scan`.
            shards: Paths of the shards to read; None is all of them.

        Raises:
            CorruptShardError: a shard is missing or damaged.
            JobError: there is no such column group.
        """
        hidden, sides = self.hidden(), [self._side(name) for name in groups]
        for path in self.segments(["path"]).column("path").to_pylist():
            wanted = path and (shards is None or path in shards)
            if wanted and all(path in side for side in sides):
                files = [side[path] for side in sides]
                gone = np.concatenate([hidden.rows(path), *(absent for _, absent in files)])
                for rows, batch in self._scan(path, gone, [file for file, _ in files], columns):
                    yield path, rows, batch

    def _side(self, name: str) -> dict[str, tuple[str, Rows]]:
        """Return by shard the file of a column group, and its rows without values."""
        table = group_table(self.store.storage, find_group(self.snapshot, name))
        return {
            row["shard"]: (row["path"], absent_rows(row["absent"], row["samples"]))
            for row in table.to_pylist()
        }

    def _scan(
        self, path: str, hidden: Rows, files: Sequence[str], columns: Sequence[str] | None
    ) -> Iterator[tuple[Rows, pa.RecordBatch]]:
        gone, start = np.sort(hidden), 0
        for batches in joined_rows(self.store.storage, path, files):
            stop = start + batches[0].num_rows
            first, last = np.searchsorted(gone, [start, stop])
            chosen = _beside(batches) if files else batches[0]
            chosen = chosen if columns is None else chosen.select(list(columns))
            rows = np.arange(start, stop)
            if last > first:
                shown = np.ones(stop - start, bool)
                shown[gone[first:last] - start] = False
                chosen, rows = chosen.filter(pa.array(shown)), rows[shown]
            start = stop
            if chosen.num_rows:
                yield rows, chosen


def _beside(batches: Sequence[pa.RecordBatch]) -> pa.RecordBatch:
    """Return rows of a shard with the columns that groups add to them."""
    first, *others = batches
    added = [
        (field, batch.column(field.name))
        for batch in others
        for field in batch.schema
        if field.name not in KEYS and not field.name.endswith(PRESENT)
    ]
    fields = [*first.schema, *(field for field, _ in added)]
    arrays = [*first.columns, *(array for _, array in added)]
    return pa.RecordBatch.from_arrays(arrays, schema=pa.schema(fields))
