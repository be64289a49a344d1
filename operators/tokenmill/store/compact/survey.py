"""What of a version there is to compact: its units, the rows that go, the files beside shards."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from tokenmill.store.compact.grouping import Target, Units, merges, scope_runs
from tokenmill.store.compact.writing import Merge
from tokenmill.store.groups.files import group_table
from tokenmill.store.hidden import rows_by_path
from tokenmill.store.rewrite import Rows
from tokenmill.store.tables import read_tables
from tokenmill_schemas.snapshot import TOMBSTONE_SCHEMA, Snapshot

if TYPE_CHECKING:
    from tokenmill.store.store import Store


@dataclass
class Survey:
    """A version as compaction sees it."""

    store: Store
    head: Snapshot

    @cached_property
    def table(self) -> pa.Table:
        """The manifest (`SEGMENT_SCHEMA`)."""
        return self.store.segments(self.head).combine_chunks()

    @cached_property
    def sides(self) -> dict[str, dict[str, dict[str, Any]]]:
        """The rows of `GROUP_SCHEMA`, by group, by shard."""
        storage = self.store.storage
        return {
            group.name: {row["shard"]: row for row in group_table(storage, group).to_pylist()}
            for group in self.head.groups
        }

    @cached_property
    def replaced(self) -> Mapping[str, Rows]:
        """The rows of each shard of which there is a newer version."""
        own = read_tables(self.store.storage, self.head.tombstones, TOMBSTONE_SCHEMA, _PLACE)
        return rows_by_path(own.filter(pc.equal(own.column("reason"), "replaced")))

    @cached_property
    def dropped(self) -> Mapping[str, Rows]:
        """The rows of each shard that go: what was replaced or taken down.

        Those of assets that vanished stay hidden, for those may return.
        """
        storage, names = self.store.storage, _PLACE[:2]
        own = read_tables(storage, self.head.tombstones, TOMBSTONE_SCHEMA, _PLACE)
        own = own.filter(pc.not_equal(own.column("reason"), "vanished")).select(names)
        since = self.store.takedowns.positions(names)
        shards = self.table.column("path").combine_chunks()
        since = since.filter(pc.is_in(since.column("path"), value_set=shards))
        return rows_by_path(pa.concat_tables([own, since]))

    def merges(self, target: Target) -> dict[tuple[int, ...], Merge]:
        """Return what is to be made one, by the places of its units in the manifest."""
        found = {}
        for places in merges(self._units(), target):
            members = self.table.take(pa.array(places)).to_pylist()
            gone = {
                row["path"]: self.dropped[row["path"]]
                for row in members
                if row["path"] in self.dropped
            }
            found[places] = Merge(tuple(members), gone)
        return found

    def _units(self) -> Units:
        table, paths = self.table, self.table.column("path").combine_chunks()
        dropped = np.zeros(table.num_rows, np.int64)
        places = pc.index_in(pa.array(list(self.dropped), pa.string()), value_set=paths)
        for i, rows in zip(places.to_pylist(), self.dropped.values(), strict=True):
            dropped[i] = len(rows)
        samples = table.column("samples").to_numpy()
        rows_left = samples - dropped
        parts = pa.array([part.path for part in self.head.plans], pa.string())
        part = pc.fill_null(pc.index_in(table.column("plan"), value_set=parts), -1).to_numpy()
        runs = np.array([*scope_runs(self.head.plans), -1], np.int64)
        return Units(
            bytes=table.column("bytes").to_numpy() * rows_left // np.maximum(samples, 1),
            rows=rows_left,
            dropped=dropped,
            assets=table.column("assets").to_numpy(),
            parts=part.astype(np.int64),
            runs=runs[part],
            covers=self._covers(paths),
        )

    def _covers(self, paths: pa.Array) -> npt.NDArray[np.int64]:
        """Return for each unit which groups cover its shard, as bits."""
        covers = np.zeros(len(paths), np.int64)
        for files in self.sides.values():
            held = pc.is_in(paths, value_set=pa.array(list(files), pa.string()))
            covers = 2 * covers + held.to_numpy(zero_copy_only=False)
        return covers


_PLACE = ["path", "row", "reason"]
