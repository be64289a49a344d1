"""Stores of videos, shapes and mixtures: the same rows in both shard formats, out of the feed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from tokenmill.feed import Feed
from tokenmill.shards.columns import decode_stream
from tokenmill.store import Store
from tokenmill.store.verify import verify_store
from tokenmill.testing.feed import assert_restores_at_every_step
from tokenmill_infra.observe import SilentObserver
from tokenmill_pipelines.jobs import run_job
from tokenmill_schemas.job import read_job

JOBS = Path(__file__).parents[2] / "pipelines" / "jobs"
MIXED = {
    "images": "{kind = 'center_crop', size = 64, rule = 'bicubic'}",
    "videos": "{kind = 'clips', size = 64, rule = 'bicubic', fps = 3, frames = 0, "
    "frames_rule = '4k', max_frames = 16}",
}
#: Example jobs with small views; each makes more than one shard.
SMALL = {
    "tiny_videos": ("view.size=64", "view.fps=4", "view.frames=8"),
    "tiny_shapes": ("view.resolution=32",),
    "pictures_and_clips": tuple(f"view.{name}={table}" for name, table in MIXED.items()),
}
formats = pytest.mark.parametrize("shards", ["arrow", "webdataset"])
jobs = pytest.mark.parametrize("name", SMALL)


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Store]:
    """The stores of all jobs in both formats, each verified."""
    made: dict[tuple[str, str], Store] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tokenmill_pipelines.stages.publish_report", lambda _run: "")
        for name, small in SMALL.items():
            for shards in ("arrow", "webdataset"):
                uri = tmp_path_factory.mktemp("media") / f"{name}-{shards}"
                fixed = (f"store.uri={uri}", "cluster.backend=local", "cluster.actors=1")
                sets = (*small, *fixed, f"shards.format={shards}", "shards.batch_rows=4")
                result = run_job(
                    read_job(JOBS / f"{name}.toml", overrides=sets), observer=SilentObserver()
                )
                store = Store.open(result.store_uri)
                assert verify_store(store, store.snapshot()).problems == ()
                made[name, shards] = store
    return made


def batches(store: Store) -> Iterator[pa.RecordBatch]:
    """All rows in the order of the manifest."""
    paths = store.segments(store.snapshot(), ["path"]).column("path").to_pylist()
    for path in filter(None, paths):  # a unit without samples has no shard
        with store.shard(path) as shard:
            yield from shard.batches()


def rows(store: Store) -> list[dict[str, Any]]:
    """All rows but their tokens."""
    spec = store.snapshot().spec
    own = {name for s in spec.streams for name in (s.name, f"{s.name}.shape")}
    return [
        {name: value for name, value in row.items() if name not in own}
        for batch in batches(store)
        for row in batch.to_pylist()
    ]


def tokens(store: Store) -> dict[str, np.ndarray[Any, Any]]:
    """The tokens of every sample, by its id."""
    (stream,) = store.snapshot().spec.streams
    found: dict[str, np.ndarray[Any, Any]] = {}
    for batch in batches(store):
        values = decode_stream(batch, stream, "raw")
        ids = batch.column("sample_id").to_pylist()
        found.update(zip(ids, (np.array(value) for value in values), strict=True))
    return found


@jobs
def test_both_formats_hold_the_same_rows(name: str, stores: dict[tuple[str, str], Store]) -> None:
    """Every column, nulls as nulls, and every token."""
    arrow, tars = stores[name, "arrow"], stores[name, "webdataset"]
    assert rows(arrow) == rows(tars)
    ours, theirs = tokens(arrow), tokens(tars)
    assert list(ours) == list(theirs)
    for key, value in ours.items():
        assert value.dtype == theirs[key].dtype
        assert np.array_equal(value, theirs[key])


@formats
def test_what_only_clips_have_is_null_beside_pictures(
    shards: str, stores: dict[tuple[str, str], Store]
) -> None:
    """And the other way round."""
    found = rows(stores["pictures_and_clips", shards])
    pictures = [row for row in found if row["asset_key"].startswith("images/")]
    clips = [row for row in found if row["asset_key"].startswith("videos/")]
    assert len(pictures) + len(clips) == len(found)
    assert len(pictures) == 36
    for name in ("view.pts", "view.start_s", "view.shot", "asset.codec", "asset.time_base"):
        assert {row[name] is None for row in pictures} == {True}
        assert {row[name] is None for row in clips} == {False}
    for name in ("asset.mode", "asset.orientation", "asset.icc_sha256"):
        assert {row[name] is None for row in pictures} == {False}
        assert {row[name] is None for row in clips} == {True}
    for row in clips:
        assert row["view.pts"] == sorted(row["view.pts"])
        assert row["view.start_s"] <= row["view.end_s"]
        assert 0 < len(row["view.pts"]) <= 16


@formats
@jobs
def test_the_feed_gives_what_the_store_holds(
    name: str, shards: str, stores: dict[tuple[str, str], Store]
) -> None:
    """Arrays where shapes are fixed, lists where they vary; each sample once an epoch."""
    store = stores[name, shards]
    (stream,) = store.snapshot().spec.streams
    want, seen = tokens(store), set[str]()
    columns = ("sample_id", "asset_key")
    for batch in Feed(store, batch_size=2, epochs=1, columns=columns, drop_last=False, threads=0):
        values, ids = batch[stream.name], list(batch["sample_id"])
        assert isinstance(values, list) == (name == "pictures_and_clips")
        for key, value in zip(ids, values, strict=True):
            assert np.array_equal(value, want[key])
        seen.update(ids)
    assert seen == set(want)


@jobs
def test_a_feed_of_media_restores_at_every_step(
    name: str, stores: dict[tuple[str, str], Store]
) -> None:
    """As one of pictures does."""
    store = stores[name, "arrow"]
    assert_restores_at_every_step(lambda: Feed(store, batch_size=3, threads=1), steps=6)


def test_a_clip_has_as_many_timestamps_as_its_tokens_say(
    stores: dict[tuple[str, str], Store],
) -> None:
    """Four frames a token in time; a picture is one of one frame, and its token one in time."""
    store = stores["pictures_and_clips", "arrow"]
    shapes = {key: value.shape for key, value in tokens(store).items()}
    for row in rows(store):
        frames = len(row["view.pts"]) if row["view.pts"] is not None else 1
        assert shapes[row["sample_id"]][0] == max(1, frames // 4)
