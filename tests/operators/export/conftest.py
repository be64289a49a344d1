"""A store with every kind of stream and companion column, made without a run."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from tokenmill.shards import read_format
from tokenmill.shards.columns import make_batch
from tokenmill.store import Commit, Store, paths
from tokenmill.store.identity import Identity
from tokenmill.store.tables import append_rows
from tokenmill.store.version import Version
from tokenmill.testing.shards import EXTRAS, sample_batch, sample_layout
from tokenmill_infra.storage import scratch
from tokenmill_schemas.arrow import Packing, ShardLayout
from tokenmill_schemas.snapshot import TOMBSTONE_SCHEMA, Receipt


class Made:
    """A store to which shards can be added; remembers their rows as they were stored."""

    def __init__(self, uri: str, packing: Packing = "bits", layout: ShardLayout | None = None):
        self.store = Store.of(uri)
        self.layout = layout or sample_layout(packing)
        self.identity = Identity(self.layout.spec, {"made": "here"}, self.layout, "arrow")
        self.batches: list[pa.RecordBatch] = []

    def add(self, *sizes: int) -> Version:
        """Commit a shard of so many random rows for each of ``sizes``."""
        receipts = tuple(self._shard(size) for size in sizes)
        head = self.store.log.head_number()
        self.store.commit(Commit(receipts, (), self.identity, base=head))
        return self.store.at()

    def take_down(self, *rows: tuple[int, int]) -> None:
        """Hide rows of shards, by their numbers, from every version."""
        shards = [p for p in self.store.segments(self.store.snapshot())["path"].to_pylist() if p]
        table = pa.Table.from_pylist(
            [
                {
                    "path": shards[shard],
                    "row": row,
                    "asset_key": self.batches[shard]["asset_key"][row].as_py(),
                    "sample_id": self.batches[shard]["sample_id"][row].as_py(),
                    "reason": "taken_down",
                }
                for shard, row in rows
            ],
            schema=TOMBSTONE_SCHEMA,
        )
        positions = append_rows(self.store.storage, paths.TOMBSTONES, (), table)
        self.store.takedowns.append("takedown", {"by": "a test"}, positions=positions)

    def table(self) -> pa.Table:
        """All rows that were added."""
        return pa.Table.from_batches(self.batches)

    def _rows(self, size: int, seed: int) -> pa.RecordBatch:
        if self.layout.extras == EXTRAS:
            whole = sample_batch(sample_layout(self.layout.packing), size, seed=seed)
            return whole.select(self.layout.schema.names).cast(self.layout.schema)
        streams = self.layout.spec.streams
        tokens = {s.name: np.zeros((size, *(n or 0 for n in s.shape)), np.uint8) for s in streams}
        names = ["sample_id", "asset_key"]
        ids = {name: [""] * size for name in names}
        return make_batch(
            self.layout, tokens, ids | {name: [None] * size for name in self.layout.extras.names}
        )

    def _shard(self, size: int) -> Receipt:
        number = len(self.batches)
        batch = self._rows(size, number)
        for name in ("sample_id", "asset_key"):
            ids = pa.array([f"{name[0]}{number}/{row}.png" for row in range(size)])
            batch = batch.set_column(batch.schema.names.index(name), batch.schema.field(name), ids)
        self.batches.append(batch)
        unit = f"{number:032x}"
        with scratch(self.store.storage) as folder:
            local = folder / "shard.arrow"
            writer = read_format("arrow").writer(local, self.layout, batch_rows=8)
            writer.write(batch)
            writer.close()
            data = local.read_bytes()
            sha256 = hashlib.sha256(data).hexdigest()
            path = paths.shard_file(unit, sha256, "arrow")
            self.store.storage.create_from(path, local)
        return Receipt(
            unit, "", 0, path, "arrow", size, size, len(data), sha256, size, 8,
            min_key=f"a{number}/", max_key=f"a{number}/~",
        )  # fmt: skip


@pytest.fixture
def made(tmp_path: Path) -> Made:
    """A store of two packed shards of 21 and 8 rows."""
    found = Made(str(tmp_path / "store"))
    found.add(21, 8)
    return found
