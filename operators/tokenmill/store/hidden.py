"""What a version does not show: rows of shards, by its own tombstones and by takedowns since."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from tokenmill.store import paths
from tokenmill.store.segments import shard_places
from tokenmill.store.tables import append_rows, read_tables
from tokenmill.store.takedowns import Takedowns
from tokenmill_infra.storage.storage import Storage
from tokenmill_schemas.canonical import digest
from tokenmill_schemas.snapshot import (
    TOMBSTONE_SCHEMA,
    FileRef,
    Snapshot,
    TombstoneReason,
)

Rows = npt.NDArray[np.int64]
NO_ROWS: Rows = np.empty(0, np.int64)


@dataclass(frozen=True, slots=True)
class Hidden:
    """The rows of each shard that must not be shown, sorted and without repeats.

    ``later`` tells what takedowns hide beyond the version's own tombstones: "" nothing, else a
    digest of it, for a feed of the version is then another one than before. ``taken`` is the
    number of the newest takedown that was looked at where they hide anything, else 0.
    """

    by_path: dict[str, Rows] = field(default_factory=dict)
    later: str = ""
    taken: int = 0

    @property
    def count(self) -> int:
        """Number of hidden rows."""
        return sum(len(rows) for rows in self.by_path.values())

    @property
    def paths(self) -> list[str]:
        """The shards that have hidden rows."""
        return list(self.by_path)

    def rows(self, path: str) -> Rows:
        """Return the hidden rows of a shard, ascending."""
        return self.by_path.get(path, NO_ROWS)

    def visible(self, path: str, rows: int) -> Rows:
        """Return the rows of a shard of ``rows`` rows that may be shown, ascending."""
        shown = np.ones(rows, bool)
        shown[self.rows(path)] = False
        return np.flatnonzero(shown)


def hidden_of(storage: Storage, snapshot: Snapshot, until: int | None = None) -> Hidden:
    """Return what a version must not show now, or by the first ``until`` takedowns."""
    own = read_tables(storage, snapshot.tombstones, TOMBSTONE_SCHEMA, ["path", "row"])
    taken = Takedowns(storage).newest() if until is None else until
    since = Takedowns(storage).positions(["path", "row"], until=taken)
    if since.num_rows:
        # Looked for in the manifest, and not the reverse: a set of a million paths takes a second.
        named = since.column("path").unique()
        there = named.filter(pa.array(shard_places(storage, snapshot.segments, named) >= 0))
        since = since.filter(pc.is_in(since.column("path"), value_set=there))
    return _hidden(own, since, taken)


def _hidden(own: pa.Table, since: pa.Table, taken: int) -> Hidden:
    before = rows_by_path(own)
    both = rows_by_path(pa.concat_tables([own, since])) if since.num_rows else before
    if sum(map(len, both.values())) == sum(map(len, before.values())):
        return Hidden(before)
    return Hidden(both, digest({path: rows.tolist() for path, rows in both.items()}), taken)


def rows_by_path(table: pa.Table) -> dict[str, Rows]:
    """Return the rows of each shard in a table of places, ascending and without repeats."""
    if not table.num_rows:
        return {}
    grouped = table.group_by("path").aggregate([("row", "distinct")]).sort_by("path")
    lists = grouped.column("row_distinct").combine_chunks()
    return {
        path: np.sort(lists[i].values.to_numpy())
        for i, path in enumerate(grouped.column("path").to_pylist())
    }


def hide(
    storage: Storage, refs: Iterable[FileRef], found: pa.Table, reason: TombstoneReason
) -> tuple[FileRef, ...]:
    """Return tombstones with the samples of ``found`` (as `locate` gives them) added.

    Samples that are hidden already, for whatever reason, stay so for that one, unless they are
    taken down: an asset that vanished may return, one that was taken down may not.
    """
    before = tuple(refs)
    if reason == "taken_down":
        before = _lifted_among(storage, before, found)
    there = read_tables(storage, before, TOMBSTONE_SCHEMA, ["path", "row"])
    fresh = found.filter(pc.invert(among(found, there)))
    reasons = pa.array([reason] * fresh.num_rows, pa.string())
    added = fresh.append_column(TOMBSTONE_SCHEMA.field("reason"), reasons).cast(TOMBSTONE_SCHEMA)
    return append_rows(storage, paths.TOMBSTONES, before, added)


def unhide(
    storage: Storage, refs: Iterable[FileRef], keys: Iterable[str], reason: TombstoneReason
) -> tuple[FileRef, ...]:
    """Return tombstones without those of some assets that were hidden for ``reason``."""
    before = tuple(refs)
    table = read_tables(storage, before, TOMBSTONE_SCHEMA)
    shown = pa.array(sorted(keys), pa.string())
    lifted = pc.and_(
        pc.is_in(table.column("asset_key"), value_set=shown),
        pc.equal(table.column("reason"), reason),
    )
    if not pc.any(lifted).as_py():
        return before
    return append_rows(storage, paths.TOMBSTONES, (), table.filter(pc.invert(lifted)))


def _lifted_among(
    storage: Storage, refs: tuple[FileRef, ...], found: pa.Table
) -> tuple[FileRef, ...]:
    """Return tombstones without those among ``found`` that are there for passing reasons."""
    table = read_tables(storage, refs, TOMBSTONE_SCHEMA)
    passing = pc.not_equal(table.column("reason"), "taken_down")
    lifted = pc.and_(passing, among(table, found))
    if not pc.any(lifted, min_count=0).as_py():
        return refs
    return append_rows(storage, paths.TOMBSTONES, (), table.filter(pc.invert(lifted)))


def among(found: pa.Table, there: pa.Table) -> pa.ChunkedArray:
    """Whether each row's place, in ``path`` and ``row``, is one of those in ``there``."""
    return pc.is_in(_places(found), value_set=_places(there))


def _places(table: pa.Table) -> pa.Array:
    rows = pc.cast(table.column("row"), pa.string())
    places = pc.binary_join_element_wise(table.column("path"), rows, ":")
    return pa.array(places.combine_chunks(), pa.string())
