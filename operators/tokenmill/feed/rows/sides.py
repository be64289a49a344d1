"""Column groups as a feed reads them: files beside the shards, row for row."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from tokenmill.feed.rows.manifest import FACTS, TableManifest
from tokenmill.shards.select import stored_layout
from tokenmill.store import Store
from tokenmill.store.groups import absent_rows, group_table
from tokenmill.store.groups.names import find_group, owners
from tokenmill.store.segments import shard_places
from tokenmill_schemas.arrow import ShardLayout
from tokenmill_schemas.errors import StoreError
from tokenmill_schemas.snapshot import Snapshot

Rows = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Side:
    """A column group's files, in the order of the shards that they lie beside.

    ``covered`` (bool[shards]) says which shards have one, ``absent`` which rows of a shard that
    has one are without values there.
    """

    layout: ShardLayout
    manifest: TableManifest
    covered: npt.NDArray[np.bool_]
    absent: dict[int, Rows]


def open_side(store: Store, snapshot: Snapshot, name: str, samples: Rows) -> Side:
    """Open a column group of a version whose shards have so many ``samples`` each.

    Raises:
        StoreError: the group has no values left, or a file of it is damaged.
    """
    table = group_table(store.storage, find_group(snapshot, name)).combine_chunks()
    if not table.num_rows:
        raise StoreError(f"the column group {name!r} has no values left", uri=store.uri)
    names = pa.array(table.column("shard").combine_chunks(), pa.string())
    places = shard_places(store.storage, snapshot.segments, names)
    table, places = table.filter(pa.array(places >= 0)), places[places >= 0]
    index = np.full(len(samples), -1, np.int64)
    index[places] = np.arange(len(places))
    covered = index >= 0
    beside = table.select(FACTS).take(pa.array(index, mask=~covered))
    kind = str(table.column("format")[0]) if table.num_rows else ""
    manifest = TableManifest(beside, np.where(covered, samples, 0), kind)
    layout = stored_layout(store.storage, str(table.column("path")[0]))
    return Side(layout, manifest, covered, _absent(table, places))


def _absent(table: pa.Table, places: Rows) -> dict[int, Rows]:
    """Return the rows without values of each shard that has some, by its place."""
    partly = np.flatnonzero(pc.not_equal(table.column("absent"), b"").to_numpy())
    bits, samples = table.column("absent"), table.column("samples")
    return {
        int(places[i]): absent_rows(bits[int(i)].as_py(), int(samples[int(i)].as_py()))
        for i in partly
    }


class Sides:
    """The column groups of a version; each is opened when it is asked for, once."""

    def __init__(self, store: Store, snapshot: Snapshot, samples: Rows) -> None:
        self.snapshot, self._store, self._samples = snapshot, store, samples
        self._sides: dict[str, Side] = {}

    @property
    def owners(self) -> dict[str, str]:
        """By each stream and column that groups add, the name of its group."""
        return owners(self.snapshot)

    def open(self, name: str) -> Side:
        """Return a column group's files.

        Raises:
            StoreError: the group has no values left, or a file of it is damaged.
        """
        if name not in self._sides:
            self._sides[name] = open_side(self._store, self.snapshot, name, self._samples)
        return self._sides[name]
