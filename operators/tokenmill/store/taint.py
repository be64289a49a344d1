"""Which files of a store hold something of what was taken down, and where in them.

Listings and quarantine name assets that no sample is of, and only digests tell which of them were
taken down; so a plan part's keys are hashed, once, about a second for a million.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from tokenmill.store.denied import Denied
from tokenmill.store.hidden import rows_by_path
from tokenmill.store.plans import listed
from tokenmill.store.segments import read_segments
from tokenmill.store.tables import read_table, read_tables
from tokenmill.store.takedowns import Takedowns
from tokenmill_infra.storage.storage import Storage
from tokenmill_schemas.snapshot import TOMBSTONE_SCHEMA, FileRef, Snapshot

Rows = npt.NDArray[np.int64]
NO_ROWS: Rows = np.empty(0, np.int64)


@dataclass
class Taint:
    """What the first ``covers`` records of a store's takedowns forbid, looked for in its files.

    Files never change, so what was found in one is kept.
    """

    storage: Storage
    covers: int
    _listed: dict[str, Rows] = field(default_factory=dict)
    _tables: dict[str, bool] = field(default_factory=dict)
    _shards: dict[str, frozenset[str]] = field(default_factory=dict)
    names: set[str] = field(default_factory=set)

    @cached_property
    def denied(self) -> Denied:
        """What may not come back."""
        return Denied.of(self.storage, self.covers)

    @cached_property
    def positions(self) -> dict[str, Rows]:
        """The rows of each shard that the chain of takedowns names."""
        table = Takedowns(self.storage).positions()
        table = table.filter(pa.array(self.denied.rows(table)))
        self._note(table)
        return rows_by_path(table)

    def listed(self, part: FileRef) -> Rows:
        """Return which rows of a plan part are denied assets, ascending; notes their names."""
        if part.path not in self._listed:
            found, start = [NO_ROWS], 0
            for batch in listed(self.storage, part, ["key", "uri", "locator"]):
                rows = np.flatnonzero(self.denied.keys(batch.column("key")))
                self._note_listed(batch.take(pa.array(rows)))
                found.append(rows + start)
                start += batch.num_rows
            self._listed[part.path] = np.concatenate(found)
        return self._listed[part.path]

    def in_table(self, ref: FileRef) -> bool:
        """Whether a table names a denied asset in its ``asset_key``."""
        if ref.path not in self._tables:
            keys = read_table(self.storage, ref, ["asset_key"]).column("asset_key")
            self._tables[ref.path] = bool(self.denied.keys(keys).any())
        return self._tables[ref.path]

    def rows(self, version: Snapshot) -> dict[str, Rows]:
        """Return the denied rows of a version's shards, by path.

        They are those that the chain names, and those that the commit itself has hidden that
        brought them back unknowingly.
        """
        own = read_tables(self.storage, version.tombstones, TOMBSTONE_SCHEMA)
        own = own.filter(pc.equal(own.column("reason"), "taken_down"))
        own = own.filter(pa.array(self.denied.rows(own)))
        self._note(own)
        found = dict(self.positions)
        for path, rows in rows_by_path(own).items():
            found[path] = np.union1d(found.get(path, NO_ROWS), rows)
        there: set[str] = set()
        for ref in version.segments:
            there |= self._among(ref, found)
        return {path: found[path] for path in sorted(there)}

    def has(self, version: Snapshot) -> bool:
        """Whether a version holds or names anything that is denied."""
        tables = (*version.rejects, *version.missing)
        return (
            bool(self.rows(version))
            or any(len(self.listed(part)) for part in version.plans)
            or any(self.in_table(ref) for ref in tables)
        )

    def _among(self, ref: FileRef, found: dict[str, Rows]) -> set[str]:
        """Return which shards of a manifest segment are among ``found``."""
        key = ref.path
        unknown = frozenset(found) - self._shards.get(f"{key}:asked", frozenset())
        if unknown:
            paths = read_segments(self.storage, [ref], ["path"]).column("path")
            wanted = pa.array(sorted(unknown), pa.string())
            held = paths.filter(pc.is_in(paths, value_set=wanted)).to_pylist()
            self._shards[key] = self._shards.get(key, frozenset()) | frozenset(held)
            self._shards[f"{key}:asked"] = self._shards.get(f"{key}:asked", frozenset()) | unknown
        return set(self._shards.get(key, frozenset()).intersection(found))

    def _note(self, table: pa.Table) -> None:
        """Remember the names in a table of samples: assets that are denied whole, and samples."""
        keys = table.column("asset_key")
        self.names.update(keys.filter(pa.array(self.denied.keys(keys))).to_pylist())
        self.names.update(table.column("sample_id").to_pylist())

    def _note_listed(self, batch: pa.RecordBatch) -> None:
        self.names.update(batch.column("key").to_pylist())
        whole = pc.equal(batch.column("locator"), "")
        self.names.update(batch.column("uri").filter(whole).to_pylist())
