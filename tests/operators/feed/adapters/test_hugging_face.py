import pickle
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

datasets = pytest.importorskip("datasets", reason="needs Hugging Face datasets")

from tokenmill.feed import Feed, Part  # noqa: E402
from tokenmill.feed.adapters import hugging_face  # noqa: E402
from tokenmill.feed.adapters.hugging_face import (  # noqa: E402
    MappedShards,
    read_huggingface,
    to_huggingface,
)
from tokenmill.feed.columns import Batch  # noqa: E402
from tokenmill.feed.sequence.draw import Draw  # noqa: E402
from tokenmill.store import Store  # noqa: E402
from tokenmill.store.takedown import takedown  # noqa: E402
from tokenmill.testing.feed import build_store  # noqa: E402
from tokenmill_schemas.arrow import ShardLayout  # noqa: E402
from tokenmill_schemas.errors import JobError  # noqa: E402
from tokenmill_schemas.job import ShardsConfig  # noqa: E402
from tokenmill_schemas.tokens import Axis, Stream, TokenSpec  # noqa: E402

GRID = Stream("image", "index", (Axis("h", 4), Axis("w", 2)), (1000,))
LINE = Stream("z", "float", (Axis("n", 3),), channels=2, dtype="float32")
MESH = Stream("mesh", "index", (Axis("n"),), (200,))
EXTRAS = pa.schema([pa.field("label", pa.int32()), pa.field("caption", pa.string())])
SAMPLES = [40, 0, 25, 1, 60]
COLUMNS = ("sample_id", "label", "caption")


@pytest.fixture(autouse=True)
def _quiet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep what datasets writes in the test's folder."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf")
    datasets.disable_progress_bars()


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Five small raw shards of fixed shapes."""
    layout = ShardLayout(TokenSpec((GRID, LINE)), extras=EXTRAS)
    return build_store(tmp_path_factory.mktemp("hf") / "store", SAMPLES, layout=layout)


def whole(source: Any, **options: Any) -> dict[str, Any]:
    """Return all that is shown, in manifest order, as lists."""
    options = {"columns": COLUMNS, "shuffle": "none", **options}
    rows = Feed(source, batch_size=1, **options).rows
    batch = next(iter(Feed(source, batch_size=rows, **options)))
    return {
        name: values.tolist() if isinstance(values, np.ndarray) else [v.tolist() for v in values]
        for name, values in batch.items()
    }


def test_raw_shards_are_mapped_and_not_copied(store: Store) -> None:
    """All rows in manifest order, in whole shapes; pickled, the dataset is a few names."""
    dataset = read_huggingface(store, columns=COLUMNS)
    assert isinstance(dataset._data, MappedShards)
    allocated = pa.total_allocated_bytes()
    again = read_huggingface(store, columns=COLUMNS)
    assert pa.total_allocated_bytes() - allocated < 20_000
    assert dataset.to_dict() == again.to_dict() == whole(store)
    image = dataset.with_format("numpy")[3:9]["image"]
    assert image.shape == (6, 4, 2)
    assert dataset.with_format("arrow")[:].field("image").type == pa.list_(
        pa.list_(pa.uint16(), 2), 4
    )
    text = pickle.dumps(dataset)
    assert len(text) < 20_000
    assert pickle.loads(text)[:5] == dataset[:5]
    assert pickle.loads(pickle.dumps(dataset.select([7, 3])))["sample_id"][:] == ["s7", "s3"]


def test_hidden_and_filtered_rows_are_left_out_of_the_mapping(tmp_path: Path) -> None:
    """By an index over the mapped shards."""
    layout = ShardLayout(TokenSpec((GRID,)), extras=EXTRAS)
    made = build_store(tmp_path / "store", SAMPLES, layout=layout)
    takedown(made, keys=["a0", "a41"], reason="asked for")
    part = Part(made, where="label < 70 and label != 5")
    dataset = read_huggingface(part, columns=COLUMNS)
    assert isinstance(dataset._data, MappedShards)
    assert dataset["sample_id"][:] == [f"s{i}" for i in range(70) if i not in (0, 5, 41)]
    assert dataset.to_dict() == whole(made, where=part.where)


@pytest.mark.parametrize("shards", [{"packing": "bits"}, {"format": "webdataset"}])
def test_what_is_not_stored_as_it_is_read_is_written_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shards: dict[str, Any]
) -> None:
    """Bit-packed ids, varying shapes and tars, a block at a time, into one file."""
    config = ShardsConfig(**shards)
    layout = ShardLayout(TokenSpec((GRID, MESH)), config.packing, EXTRAS)
    made = build_store(tmp_path / "store", SAMPLES, layout=layout, shards=config)
    monkeypatch.setattr(hugging_face, "COPY_BYTES", 200_000)
    folder = tmp_path / "cache"
    dataset = read_huggingface(made, columns=COLUMNS, cache_dir=folder)
    assert dataset.to_dict() == whole(made)
    assert dataset.features["mesh"].feature.dtype == "uint8"
    assert [p.suffix for p in folder.iterdir()] == [".arrow"]
    stamp = next(folder.iterdir()).stat()
    assert read_huggingface(made, columns=COLUMNS, cache_dir=folder)[5] == dataset[5]
    assert next(folder.iterdir()).stat().st_ino == stamp.st_ino
    read_huggingface(made, columns=["label"], cache_dir=folder)
    assert len(list(folder.iterdir())) == 2
    assert len(pickle.dumps(dataset)) < 20_000


def test_a_feed_is_streamed_in_its_order(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """From where it stands, for an epoch's steps; restored by the state of ``datasets``."""
    monkeypatch.setattr(hugging_face, "BLOCK_STEPS", 3)
    feed = Feed(store, batch_size=8, seed=5, columns=COLUMNS)
    feed.seek(4)
    dataset = to_huggingface(feed)
    shown = islice(feed.iterate(), len(feed))
    names = [label for batch in shown for label in batch["label"]]
    rows = list(dataset)
    assert [row["label"] for row in rows] == names
    first = next(feed.iterate(4))
    assert rows[3]["image"] == np.asarray(first["image"][3]).tolist()
    assert dataset.features["image"].length == 4
    assert dataset.features["image"].feature.length == 2
    assert dataset.features["caption"].dtype == "string"
    assert feed.step == 4
    batch = next(iter(dataset.with_format("numpy").batch(8)))
    assert np.array_equal(batch["image"], first["image"])
    some = to_huggingface(feed, steps=7)
    ahead = iter(some)
    for _ in range(30):
        next(ahead)
    state = some.state_dict()
    other = to_huggingface(feed, steps=7)
    other.load_state_dict(state)
    assert [row["label"] for row in other] == names[30:56]


def test_workers_share_the_blocks_out(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each row comes once, whatever the order."""
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(hugging_face, "BLOCK_STEPS", 3)
    dataset = to_huggingface(Feed(store, batch_size=8, seed=5, streams=["image"]))
    loader = torch.utils.data.DataLoader(
        dataset, batch_size=None, num_workers=2, multiprocessing_context="fork"
    )
    assert sorted(row["sample_id"] for row in loader) == sorted(r["sample_id"] for r in dataset)


@dataclass(frozen=True, slots=True)
class Scalar:
    """A transform that says one thing of a whole batch."""

    def __call__(self, batch: Batch, draw: Draw) -> Batch:
        """Return the batch and a number."""
        return {**batch, "share": np.ones(1)}


def test_what_has_no_rows_is_refused(store: Store) -> None:
    """An array of a batch's own cannot become rows."""
    with pytest.raises(JobError, match="'share' has 1 entries for 8 rows"):
        to_huggingface(Feed(store, batch_size=8, transforms=(Scalar(),)))
