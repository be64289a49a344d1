"""Shapes of rows: from the manifest, or from the shards, the same."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenmill.feed.rows import sizes as module
from tokenmill.feed.rows.plan import Plan
from tokenmill.feed.rows.sizes import Sizes, open_sizes
from tokenmill.shards.select import read_columns
from tokenmill.store import Store
from tokenmill.store.compact import compact
from tokenmill.store.groups import add_group, from_store
from tokenmill.store.rewrite import rewrite_shard
from tokenmill.store.segments import read_segments, receipt_of
from tokenmill.store.tables import put_rows
from tokenmill.store.takedown import takedown
from tokenmill.store.verify import verify_store
from tokenmill.testing.feed import build_store
from tokenmill_infra.observe import SilentObserver
from tokenmill_pipelines.jobs import run_job
from tokenmill_schemas.arrow import ShardLayout
from tokenmill_schemas.errors import CorruptShardError
from tokenmill_schemas.job import Job
from tokenmill_schemas.shapes import decode_shapes
from tokenmill_schemas.snapshot import SEGMENT_SCHEMA, Snapshot
from tokenmill_schemas.tokens import Axis, Stream, TokenSpec

GRID = Stream("grid", "index", (Axis("h"), Axis("w"), Axis("depth", 2)), (1000,))
LATENT = Stream("latent", "float", (Axis("n"),), channels=3, dtype="float16")
FIXED = Stream("image", "index", (Axis("n", 4),), (1000,))
LAYOUT = ShardLayout(TokenSpec((FIXED, GRID, LATENT)))
SAMPLES = [40, 0, 7, 100]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Four shards, one of them without rows, of two streams that vary and one that does not."""
    return build_store(tmp_path_factory.mktemp("sizes") / "store", SAMPLES, layout=LAYOUT)


def stored(store: Store, snapshot: Snapshot, stream: Stream) -> list[tuple[int, ...]]:
    """The shapes in the shards, one after the other, as pyarrow reads them."""
    paths = store.segments(snapshot, ["path"]).column("path").to_pylist()
    columns = [
        read_columns(store.storage, path, [f"{stream.name}.shape"]).column(0)
        for path in paths
        if path
    ]
    return [tuple(row) for column in columns for row in column.to_pylist()]


def without_shapes(store: Store, snapshot: Snapshot) -> Snapshot:
    """The version as a writer made it that did not note shapes."""
    table = read_segments(store.storage, snapshot.segments)
    table = table.drop_columns(["shapes"])
    refs = put_rows(store.storage, "manifest", table)
    return replace(snapshot, segments=refs)


def shapes_of(sizes: Sizes) -> list[tuple[int, ...]]:
    """The shape of every row."""
    return [sizes.shapes[code] for code in sizes.codes(np.arange(sizes.rows)).tolist()]


@pytest.mark.parametrize("stream", [GRID, LATENT], ids=["grid", "latent"])
@pytest.mark.parametrize("chunk", [13, 2**20])
def test_rows_have_the_shapes_that_their_shards_say(
    store: Store, stream: Stream, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether the manifest has them or the shards are read, with hidden rows left out."""
    monkeypatch.setattr(module, "CHUNK_ROWS", chunk)
    snapshot = store.snapshot()
    truth = stored(store, snapshot, stream)
    assert len(set(truth)) > 5
    gone = {0: np.array([0, 5, 39]), 3: np.arange(10, 90)}
    for hidden, rows in (
        ({}, list(range(147))),
        (gone, [r for r in range(147) if r not in (0, 5, 39) and not 57 <= r < 137]),
    ):
        plan = Plan.of(SAMPLES, hidden)
        noted = open_sizes(store, snapshot, plan, stream)
        read = open_sizes(store, without_shapes(store, snapshot), plan, stream)
        assert shapes_of(noted) == [truth[r] for r in rows] == shapes_of(read)
        assert noted.shapes == read.shapes == tuple(dict.fromkeys(truth[r] for r in rows))
        axes = len(stream.axes)
        lengths = [math.prod(truth[r][:axes]) for r in rows]
        assert noted.lengths(slice(None)).tolist() == lengths
        assert noted.lengths(np.arange(5, 9)).tolist() == lengths[5:9]
        assert noted.counts.tolist() == np.bincount(noted.codes(slice(None))).tolist()


def test_shards_are_not_opened_for_what_the_manifest_says(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No shard is read; nor is one that shows no row."""
    read: list[str] = []

    def noting(storage: Any, path: str, names: list[str]) -> Any:
        read.append(path)
        return read_columns(storage, path, names)

    monkeypatch.setattr(module, "read_columns", noting)
    snapshot = store.snapshot()
    open_sizes(store, snapshot, Plan.of(SAMPLES), GRID)
    assert read == []
    open_sizes(store, without_shapes(store, snapshot), Plan.of([40, 0, 0, 0]), GRID)
    assert read == store.segments(snapshot, ["path"]).column("path").to_pylist()[:1]


def test_a_fixed_stream_has_one_shape_and_no_array(store: Store) -> None:
    """No entry a row where there is nothing to tell."""
    sizes = open_sizes(store, store.snapshot(), Plan.of(SAMPLES), FIXED)
    assert (sizes.shapes, sizes.counts.tolist(), sizes.array) == (((4,),), [147], None)
    assert sizes.lengths(slice(3, 6)).tolist() == [4, 4, 4]
    assert sizes.codes(np.arange(7)).tolist() == [0] * 7


def test_streams_of_column_groups_are_read_beside_the_shards(tmp_path: Path) -> None:
    """The manifest does not have their shapes; rows without values are not shown."""
    store = build_store(tmp_path / "store", [20, 30])
    other = ShardLayout(TokenSpec((GRID,)))
    build_store(tmp_path / "other", [50], layout=other)
    add_group(store, "more", from_store(Store.open(str(tmp_path / "other")).at(), {"grid": "grid"}))
    truth = stored(
        Store.open(str(tmp_path / "other")), Store.open(str(tmp_path / "other")).snapshot(), GRID
    )
    sizes = open_sizes(store, store.snapshot(), Plan.of([20, 30]), GRID)
    assert shapes_of(sizes) == truth


def of_shard(store: Store, row: dict[str, Any]) -> list[list[int]]:
    """The variable sizes of the grids in a shard, as its rows say them."""
    column = read_columns(store.storage, row["path"], ["grid.shape"]).column(0)
    return [shape[:2] for shape in column.to_pylist()]


def test_compacted_shards_have_the_shapes_of_their_rows(tmp_path: Path) -> None:
    """Those of the rows that stay, of all shards that became one."""
    store = build_store(tmp_path / "store", [30, 20, 25], layout=LAYOUT)
    takedown(store, keys=["s3", "s31", "s74"], by="sample_id")
    compact(store)
    snapshot = store.snapshot()
    (row,) = read_segments(store.storage, snapshot.segments).to_pylist()
    found = decode_shapes(snapshot.spec, row["shapes"], row["samples"])
    assert row["samples"] == 72
    assert found["grid"].tolist() == of_shard(store, row)


def test_purged_shards_have_the_shapes_of_the_rows_that_stay(store: Store) -> None:
    """Also where the version is of a writer that did not note any."""
    row = without_shapes(store, store.snapshot())
    (_, _, _, old) = read_segments(store.storage, row.segments).to_pylist()
    assert old["shapes"] is None
    keep = np.array([0, 3, 50, 99])
    new = rewrite_shard(store.storage, old, keep, unit_id="0" * 32)
    found = decode_shapes(LAYOUT.spec, new["shapes"], 4)
    assert found["grid"].tolist() == [of_shard(store, old)[i] for i in keep]
    assert rewrite_shard(store.storage, old, keep[:0], unit_id="0" * 32)["shapes"] is None


@pytest.mark.parametrize("kind", ["arrow", "webdataset"])
def test_a_job_notes_the_shapes_of_what_it_makes(kind: str, noise_job: Callable[..., Job]) -> None:
    """In receipts and in the manifest, of pictures at their own size; `verify` compares them."""
    job = noise_job(
        source={"count": 12, "sides": [24, 32, 40]},
        view={"kind": "native", "multiple": 8},
        shards={"unit_assets": 5, "format": kind},
    )
    store = Store.open(run_job(job, observer=SilentObserver()).store_uri)
    snapshot = store.snapshot()
    assert verify_store(store, snapshot).problems == ()
    table = read_segments(store.storage, snapshot.segments)
    for row in table.to_pylist():
        receipt = store.receipt(row["unit_id"])
        assert receipt is not None
        assert base64.b64decode(receipt.shapes) == row["shapes"]
        assert receipt_of(row).shapes == receipt.shapes
        assert json.loads(json.dumps(receipt.to_json()))["shapes"] == receipt.shapes
    for stream in snapshot.spec.streams:
        sizes = open_sizes(store, snapshot, Plan.of(table["samples"].to_numpy()), stream)
        assert shapes_of(sizes) == stored(store, snapshot, stream)
        if stream.name == "image":
            assert set(sizes.shapes) == {(3, 3), (4, 4), (5, 5)}


def test_shapes_that_are_not_those_of_the_samples_are_found(store: Store) -> None:
    """By reading the shards: one size of one row is another."""
    snapshot = store.snapshot()
    rows = read_segments(store.storage, snapshot.segments).to_pylist()
    shapes = bytearray(rows[2]["shapes"])
    shapes[5] ^= 1
    rows[2]["shapes"] = bytes(shapes)
    refs = put_rows(store.storage, "manifest", pa.Table.from_pylist(rows, SEGMENT_SCHEMA))
    problems = verify_store(store, replace(snapshot, segments=refs)).problems
    wanted = f"{rows[2]['path']}: the shapes of its samples are not those in its manifest row"
    assert wanted in problems


def test_manifests_without_shapes_are_the_bytes_that_they_were(tmp_path: Path) -> None:
    """Stores of streams that do not vary have no such column, and receipts no such key."""
    store = build_store(tmp_path / "store", [5, 6])
    table = read_segments(store.storage, store.snapshot().segments)
    assert table.schema == SEGMENT_SCHEMA
    assert table.column("shapes").null_count == 2
    (ref,) = store.snapshot().segments
    data = (tmp_path / "store" / ref.path).read_bytes()
    assert b"shapes" not in data


def test_shapes_that_cannot_be_those_of_the_rows_are_told(store: Store) -> None:
    """A manifest that does not fit its shards is damaged, not misread."""
    snapshot = store.snapshot()
    rows = read_segments(store.storage, snapshot.segments).to_pylist()
    rows[3]["shapes"] = rows[3]["shapes"][:-2]
    refs = put_rows(store.storage, "manifest", pa.Table.from_pylist(rows, SEGMENT_SCHEMA))
    with pytest.raises(CorruptShardError, match="manifest's shapes of data/"):
        open_sizes(store, replace(snapshot, segments=refs), Plan.of(SAMPLES), GRID)
    with pytest.raises(CorruptShardError, match="has 40 rows, row 40 was asked for"):
        open_sizes(store, snapshot, Plan.of([41, 0, 7, 100]), GRID)


@given(
    st.lists(st.tuples(st.integers(0, 3000), st.integers(0, 3000)), max_size=60),
    st.lists(st.integers(1, 20), max_size=5),
)
@settings(max_examples=60, deadline=None)
def test_codes_do_not_depend_on_chunks(rows: list[tuple[int, int]], cuts: list[int]) -> None:
    """Shapes are numbered by their first row, however many are looked at together."""
    table = np.array(rows, np.int64).reshape(-1, 2)
    places = np.minimum(np.cumsum(cuts), len(rows)).astype(int)
    chunks = [part for part in np.split(table, places) if len(part)]
    sizes = Sizes.of(GRID, len(rows), chunks)
    assert shapes_of(sizes) == [(h, w, 2) for h, w in rows]
    assert sizes.shapes == tuple(dict.fromkeys((h, w, 2) for h, w in rows))


def test_codes_widen_and_move_to_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    """A byte, two, then four a row; in a mapped file where that is more than memory is for."""
    lengths = np.concatenate([np.arange(250), np.arange(70_000), [3, 69_999]])[:, None]
    for limit in (2**20, 100_000, 10):
        monkeypatch.setattr(module, "MEMORY_BYTES", limit)
        sizes = Sizes.of(LATENT, len(lengths), np.array_split(lengths, 7))
        assert sizes.array is not None
        assert sizes.array.dtype == np.uint32
        assert isinstance(sizes.array, np.memmap) == (limit < 2**20)
        assert np.array_equal(sizes.lengths(slice(None)), lengths[:, 0])
        with pytest.raises(ValueError, match="read-only"):
            sizes.array[0] = 1
    small = Sizes.of(LATENT, 250, [lengths[:250]])
    assert small.array is not None
    assert small.array.dtype == np.uint8


def test_shapes_beyond_a_table_are_sorted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ways of telling shapes apart give the same numbers."""
    table = np.random.default_rng(1).integers(0, 50, (500, 2))
    wanted = Sizes.of(GRID, 500, [table])
    monkeypatch.setattr(module, "TABLE_ENTRIES", 0)
    found = Sizes.of(GRID, 500, [table])
    assert found.shapes == wanted.shapes
    assert np.array_equal(found.codes(slice(None)), wanted.codes(slice(None)))
