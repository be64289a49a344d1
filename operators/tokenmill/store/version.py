"""One version of a store, to read from: its shards, its samples, and what it does not show."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pyarrow as pa

from tokenmill.store.hidden import Hidden
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

    def scan(self, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
        """Yield the samples that may be shown, in order, in the batches that shards have.

        Args:
            columns: Columns to give, as they are stored (see FORMAT.md); None is all of them.

        Raises:
            CorruptShardError: a shard is missing or damaged.
        """
        hidden = self.hidden()
        for path in self.segments(["path"]).column("path").to_pylist():
            if path:
                yield from self._scan(path, hidden, columns)

    def _scan(
        self, path: str, hidden: Hidden, columns: Sequence[str] | None
    ) -> Iterator[pa.RecordBatch]:
        gone, start = set(hidden.rows(path).tolist()), 0
        with self.store.shard(path) as shard:
            for batch in shard.batches():
                rows = range(start, start + batch.num_rows)
                start += batch.num_rows
                chosen = batch if columns is None else batch.select(list(columns))
                if not gone.isdisjoint(rows):
                    chosen = chosen.filter(pa.array([row not in gone for row in rows]))
                if chosen.num_rows:
                    yield chosen
