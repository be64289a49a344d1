"""Every form that a store's tokens can have comes out of the feed as it went in."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

import tokenmill.feed.shards.mapped as mapped
from tokenmill.feed import Feed
from tokenmill.feed.columns import to_numpy
from tokenmill.shards.columns import decode_stream
from tokenmill.store import Store
from tokenmill.testing.feed import assert_restores_at_every_step, build_store
from tokenmill_schemas.arrow import ShardLayout
from tokenmill_schemas.job import ShardsConfig
from tokenmill_schemas.tokens import Axis, Stream, TokenSpec

GRID = (Axis("h", 4), Axis("w", 5))
STREAMS = (
    Stream("image", "index", GRID, (1000,)),
    Stream("wide", "index", (Axis("n", 7),), (2**20,)),
    Stream("narrow", "index", (Axis("n", 3),), (100,)),
    Stream("binary", "bits", (Axis("n", 9),), width_bits=18),
    Stream("latent", "float", GRID, channels=4, dtype="float16"),
    Stream("brain", "float", GRID, channels=2, dtype="bfloat16"),
    Stream("varied", "index", (Axis("h"), Axis("w")), (300,)),
    Stream("after", "index", GRID, (500,)),
)
EXTRAS = pa.schema([pa.field("caption", pa.string()), pa.field("label", pa.int64())])
SAMPLES = [70, 33, 5]


def expected(store: Store, layout: ShardLayout, name: str) -> list[np.ndarray[Any, Any]]:
    """Return a stream of all samples in manifest order, decoded batch by batch."""
    found: list[np.ndarray[Any, Any]] = []
    for path in store.segments(store.snapshot(), ["path"]).column("path").to_pylist():
        with store.shard(path) as shard:
            for batch in shard.batches():
                decoded = decode_stream(batch, layout.spec[name], layout.packing)
                found.extend(np.array(array) for array in decoded)
    return found


@pytest.mark.parametrize("shards", ["arrow", "webdataset"])
@pytest.mark.parametrize("packing", ["raw", "bits"])
def test_every_kind_of_stream_comes_out_as_it_went_in(
    tmp_path: Path, shards: Any, packing: Any
) -> None:
    """Fixed and varied shapes, packed and raw, too narrow to gather, in both shard forms."""
    layout = ShardLayout(TokenSpec(STREAMS), packing, EXTRAS)
    config = ShardsConfig(format=shards, packing=packing, batch_rows=16)
    store = build_store(tmp_path / "store", SAMPLES, layout=layout, shards=config)
    feed = Feed(store, batch_size=36, epochs=1, columns=("caption", "sample_id", "label"))
    want = {stream.name: expected(store, layout, stream.name) for stream in STREAMS}
    for step, batch in enumerate(feed):
        rows = feed.samples_of(step)[1].tolist()
        assert batch["caption"].tolist() == [f"caption {i}" for i in rows]  # type: ignore[union-attr]
        assert batch["label"].tolist() == rows  # type: ignore[union-attr]
        for stream in STREAMS:
            values = batch[stream.name]
            assert isinstance(values, list) == (not stream.is_fixed)
            for row, value in zip(rows, values, strict=True):
                assert value.dtype == stream.storage_dtype
                assert np.array_equal(value, want[stream.name][row])


@pytest.mark.parametrize("shards", ["arrow", "webdataset"])
def test_mixed_streams_restore_at_every_step(tmp_path: Path, shards: Any) -> None:
    """The law of restoring holds for lists and columns too."""
    layout = ShardLayout(TokenSpec(STREAMS), "bits", EXTRAS)
    config = ShardsConfig(format=shards, packing="bits", batch_rows=16)
    store = build_store(tmp_path / "store", SAMPLES, layout=layout, shards=config)

    def make() -> Feed:
        return Feed(store, batch_size=9, columns=("sample_id", "label"), threads=1)

    assert_restores_at_every_step(make, steps=14)


def test_only_what_is_asked_for_is_read(tmp_path: Path) -> None:
    """Streams and columns can be left out, down to tokens alone."""
    layout = ShardLayout(TokenSpec(STREAMS), "raw", EXTRAS)
    store = build_store(tmp_path / "store", [20], layout=layout)
    batch = next(iter(Feed(store, batch_size=4, streams=["latent", "image"], columns=())))
    assert list(batch) == ["latent", "image"]
    batch = next(iter(Feed(store, batch_size=4, streams=[], columns=["label"])))
    assert list(batch) == ["label"]


@pytest.mark.parametrize("limit", [1, 2, 3])
def test_few_shards_stay_open_and_the_batches_are_the_same(
    tmp_path: Path, limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Shards are let go of and mapped again without a trace in the data."""
    store = build_store(tmp_path / "store", [40, 50, 60, 70, 80])
    options: dict[str, Any] = {"batch_size": 20, "epochs": 1, "shuffle": "full"}
    monkeypatch.setattr(mapped.MappedShards.__init__, "__kwdefaults__", {"limit": limit})
    few = Feed(store, **options)
    monkeypatch.undo()
    for mine, want in zip(few, Feed(store, **options), strict=True):
        assert np.array_equal(mine["image"], want["image"])
        assert np.array_equal(mine["sample_id"], want["sample_id"])
    serial = Feed(store, **{**options, "shuffle": "none", "threads": 0})
    monkeypatch.setattr(serial.parts[0].opened.shards, "_limit", limit)
    monkeypatch.setattr(serial._stepper, "chunk_steps", 1)
    list(serial)
    # The rows of one gather may lie in two shards here; those must be open at once.
    assert len(serial.parts[0].opened.shards._shards) <= max(limit, 2)  # type: ignore[attr-defined]


def test_shards_of_several_batch_sizes_in_one_store(tmp_path: Path) -> None:
    """Another commit may have written other record batches."""
    first = ShardsConfig(batch_rows=16)
    store = build_store(tmp_path / "store", [100, 30], shards=first)
    build_store(tmp_path / "store", [100, 30], shards=ShardsConfig(batch_rows=7))
    half = expected(store, store.layout(store.snapshot()), "image")
    feed = Feed(store, batch_size=26, epochs=1, columns=())
    for step, batch in enumerate(feed):
        want = np.stack([half[row] for row in feed.samples_of(step)[1]])
        assert np.array_equal(batch["image"], want)


@pytest.mark.parametrize(
    ("values", "dtype", "want"),
    [
        (pa.array([1, 2], pa.uint8()), "uint8", [1, 2]),
        (pa.array([1, None], pa.int64()), "object", [1, None]),
        (pa.array([True, False]), "bool", [True, False]),
        (pa.array([0.5, 1.5], pa.float32()), "float32", [0.5, 1.5]),
        (pa.array(["a", None]), "object", ["a", None]),
        (pa.array([[1], [2, 3]]), "object", [[1], [2, 3]]),
        (pa.array([[1, 2], [3, 4]], pa.list_(pa.int32(), 2)), "int32", [[1, 2], [3, 4]]),
    ],
)
def test_columns_become_numpy(values: pa.Array, dtype: str, want: list[object]) -> None:
    """Numbers keep their type, what numpy has no type for comes as objects; slices too."""
    assert to_numpy(values).dtype == dtype
    assert to_numpy(values).tolist() == want
    assert to_numpy(values.slice(1)).tolist() == want[1:]


def test_torch_batches(tmp_path: Path) -> None:
    """Ids as int64 or as stored, bfloat16 as such, text as lists, numbers of columns as tensors."""
    layout = ShardLayout(TokenSpec(STREAMS), "raw", EXTRAS)
    store = build_store(tmp_path / "store", [20], layout=layout)
    feed = Feed(store, batch_size=4, columns=("sample_id", "label"), threads=0)
    plain = next(iter(feed))
    feed.load_state_dict({**feed.state_dict(), "position": 0})
    batch = next(iter(feed.as_torch(pin_memory=True)))
    assert len(feed.as_torch()) == len(feed)
    kinds = {name: v.dtype for name, v in batch.items() if isinstance(v, torch.Tensor)}
    assert kinds == {
        "image": torch.int64, "wide": torch.int64, "narrow": torch.int64, "after": torch.int64,
        "binary": torch.uint8, "latent": torch.float16, "brain": torch.bfloat16,
        "label": torch.int64,
    }  # fmt: skip
    assert np.array_equal(batch["image"].numpy(), plain["image"])
    assert batch["sample_id"] == plain["sample_id"].tolist()  # type: ignore[union-attr]
    assert [t.shape for t in batch["varied"]] == [v.shape for v in plain["varied"]]
    widened = np.asarray(plain["brain"]).astype(np.uint32) << 16
    assert np.array_equal(batch["brain"].float().numpy(), widened.view(np.float32))
    assert next(iter(feed.as_torch(ids="stored")))["image"].dtype == torch.uint16
