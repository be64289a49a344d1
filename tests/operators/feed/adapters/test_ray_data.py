import pickle
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

pytest.importorskip("pandas", reason="Ray Data wants pandas")
pytest.importorskip("ray.data", reason="needs ray")


from tokenmill.feed import Feed, Part
from tokenmill.feed.adapters import ray_data
from tokenmill.feed.adapters.ray_data import StoreRows, ray_dataset
from tokenmill.store import Store
from tokenmill.store.takedown import takedown
from tokenmill.testing.feed import build_store
from tokenmill_infra.cluster.ray_data import RowDatasource
from tokenmill_schemas.arrow import ShardLayout
from tokenmill_schemas.errors import JobError
from tokenmill_schemas.job import ShardsConfig
from tokenmill_schemas.tokens import Axis, Stream, TokenSpec

SPEC = TokenSpec(
    (
        Stream("image", "index", (Axis("h", 4), Axis("w", 2)), (1000,)),
        Stream("binary", "bits", (Axis("n", 3),), width_bits=8),
        Stream("mesh", "index", (Axis("n"),), (200,)),
    )
)
LAYOUT = ShardLayout(SPEC, "bits", pa.schema([pa.field("label", pa.int32())]))
SAMPLES = [40, 0, 25, 1, 60]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Five small shards, bit-packed, some samples of which are taken down."""
    folder = tmp_path_factory.mktemp("ray") / "store"
    made = build_store(folder, SAMPLES, layout=LAYOUT, shards=ShardsConfig(packing="bits"))
    takedown(made, keys=["a0", "a41", "a66"], reason="asked for")
    return made


@pytest.fixture(scope="module")
def truth(store: Store) -> dict[str, Any]:
    """All samples in manifest order, by the feed."""
    rows = sum(SAMPLES) - 3
    return next(iter(Feed(store, batch_size=rows, shuffle="none", columns=("sample_id", "label"))))


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_a_store_is_read_by_tasks_over_whole_shards(store: Store, truth: dict[str, Any]) -> None:
    """Hidden rows are left out, tokens are tensors in the stored type, numbers keep theirs."""
    dataset = ray_dataset(store, columns=("sample_id", "label"), parallelism=3)
    fields = dict(zip(dataset.schema().names, dataset.schema().types, strict=True))
    assert fields["label"] == pa.int32()
    assert fields["image"].shape == (4, 2)
    assert dataset.count() == sum(SAMPLES) - 3
    rows = dataset.take_all()
    assert [row["sample_id"] for row in rows] == truth["sample_id"].tolist()
    assert [row["label"] for row in rows] == truth["label"].tolist()
    for name in ("image", "binary", "mesh"):
        for row, want in zip(rows, truth[name], strict=True):
            assert row[name].dtype == want.dtype
            assert np.array_equal(row[name], want)


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_tensors_go_through_map_batches(store: Store, truth: dict[str, Any]) -> None:
    """A stage over batches sees whole arrays; only what is asked for is read."""
    dataset = ray_dataset(Part(store.uri, ref=1), streams=["image"], columns=[])
    sums = dataset.map_batches(lambda batch: {"sum": batch["image"].sum(axis=(1, 2))})
    assert dataset.schema().names == ["image"]
    found = [row["sum"] for row in sums.take_all()]
    assert sorted(found) == sorted(truth["image"].sum(axis=(1, 2)).tolist())


def rows_of(store: Store) -> StoreRows:
    """Return what the read tasks of a dataset carry."""
    got: list[StoreRows] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ray_data, "read_rows", lambda reader, parallelism: got.append(reader))
        ray_dataset(store)
    return got[0]


def test_tasks_are_small_and_cut_at_shards(store: Store) -> None:
    """Never more than asked for, each of whole shards, together all rows once."""
    reader = rows_of(store)
    starts = [0, 39, 63, 64, 123]  # behind the samples that are hidden
    assert reader.cuts(100) == starts
    assert reader.cuts(1) == [0, 123]
    for count in range(1, 9):
        cuts = reader.cuts(count)
        assert len(cuts) - 1 <= count
        assert set(cuts) <= set(starts)
        assert cuts == sorted(set(cuts))
        assert (cuts[0], cuts[-1]) == (0, 123)
    source = RowDatasource(reader)
    tasks = source.get_read_tasks(3)
    assert [task.metadata.num_rows for task in tasks] == np.diff(reader.cuts(3)).tolist()
    assert source.estimate_inmemory_data_size() == sum(t.metadata.size_bytes or 0 for t in tasks)
    blocks: list[Any] = [block for task in tasks for block in task()]
    assert sum(block.num_rows for block in blocks) == 123
    assert len(pickle.dumps(reader)) < 4000


def test_blocks_are_bounded(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A task over many rows yields several stretches, without a gap."""
    reader = rows_of(store)
    monkeypatch.setattr(ray_data, "BLOCK_BYTES", 10 * reader.row_bytes)
    found = list(reader.read(5, 38))
    assert [len(stretch.columns["sample_id"]) for stretch in found] == [10, 10, 10, 3]
    ids = [name for stretch in found for name in stretch.columns["sample_id"].to_pylist()]
    assert ids == [f"s{i}" for i in range(6, 39)]


def test_an_unknown_stream_is_named(store: Store) -> None:
    """Before any task is made."""
    with pytest.raises(JobError, match="image"):
        ray_dataset(store, streams=["imag"])
