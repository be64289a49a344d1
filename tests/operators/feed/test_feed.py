import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tokenmill.feed import Feed
from tokenmill.feed.sequence.order import SHUFFLES, Shuffle
from tokenmill.store import Store
from tokenmill.testing.feed import assert_restores_at_every_step, build_store
from tokenmill_schemas.errors import (
    CorruptShardError,
    FingerprintError,
    JobError,
    SnapshotNotFoundError,
    StoreError,
)

SAMPLES = [130, 0, 257, 1, 300]
ROWS = sum(SAMPLES)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Five shards of very mixed sizes, one of them without samples."""
    return build_store(tmp_path_factory.mktemp("feed") / "store", SAMPLES)


@pytest.fixture(scope="module")
def truth(store: Store) -> dict[str, np.ndarray[Any, Any]]:
    """The tokens of every sample, read shard by shard."""
    return read_all(store)


def read_all(store: Store) -> dict[str, np.ndarray[Any, Any]]:
    """Return the image tokens of each sample id, through no code of the feed."""
    found: dict[str, np.ndarray[Any, Any]] = {}
    for path in store.segments(store.snapshot(), ["path"]).column("path").to_pylist():
        if path:
            with store.shard(path) as shard:
                tokens = shard.take("image", np.arange(shard.rows))
                ids = shard.columns(["sample_id"], np.arange(shard.rows)).column(0).to_pylist()
                found |= dict(zip(ids, tokens, strict=True))
    return found


def test_batches_hold_the_tokens_of_their_samples(
    store: Store, truth: dict[str, np.ndarray[Any, Any]]
) -> None:
    """Every sample once an epoch, with its own tokens, in the stored type and the whole shape."""
    seen: list[str] = []
    for batch in Feed(store, batch_size=16, epochs=1):
        assert isinstance(batch["image"], np.ndarray)
        assert batch["image"].dtype == np.uint16
        assert batch["image"].shape == (16, 16)
        for name, tokens in zip(batch["sample_id"], batch["image"], strict=True):
            assert np.array_equal(truth[name], tokens)
            seen.append(name)
    assert len(seen) == len(set(seen)) == ROWS // 16 * 16


def test_without_shuffle_the_order_is_that_of_the_manifest(store: Store) -> None:
    """``shuffle="none"`` shows sample after sample, in every epoch the same."""
    ids = [n for b in Feed(store, batch_size=43, shuffle="none", epochs=2) for n in b["sample_id"]]
    once = [f"s{i}" for i in range(ROWS // 43 * 43)]
    assert ids == once + once


@pytest.mark.parametrize("shuffle", SHUFFLES)
@pytest.mark.parametrize("world_size", [1, 2, 3, 4, 8])
def test_any_world_size_gives_the_same_global_batches(
    store: Store, shuffle: Shuffle, world_size: int
) -> None:
    """The ranks' batches, joined in order, are the rows that `samples_of` names."""
    options: dict[str, Any] = {"batch_size": 24, "shuffle": shuffle, "epochs": 2, "threads": 1}
    ranks = [Feed(store, rank=rank, world_size=world_size, **options) for rank in range(world_size)]
    steps = 0
    for step, batches in enumerate(zip(*ranks, strict=True)):
        epoch, rows, _, _ = ranks[0].samples_of(step)
        assert epoch == step // len(ranks[0])
        assert [n for b in batches for n in b["sample_id"]] == [f"s{i}" for i in rows]
        assert {len(b["image"]) for b in batches} == {24 // world_size}
        steps += 1
    assert steps == 2 * len(ranks[0])


@pytest.mark.parametrize("shuffle", SHUFFLES)
@pytest.mark.parametrize("drop_last", [True, False])
def test_restored_at_every_step_it_is_as_if_it_had_never_stopped(
    store: Store, shuffle: Shuffle, drop_last: bool
) -> None:
    """Over two ends of epochs, from states of feeds that were themselves restored and left."""

    def make() -> Feed:
        return Feed(store, batch_size=100, shuffle=shuffle, drop_last=drop_last, threads=1)

    assert_restores_at_every_step(make, steps=2 * len(make()) + 3)


def test_a_state_moves_to_another_number_of_ranks(store: Store) -> None:
    """Saved by one of two ranks, restored by three."""
    one = Feed(store, batch_size=24, rank=1, world_size=2)
    assert len(list(islice(one, 30))) == 30
    others = [Feed(store, batch_size=24, rank=r, world_size=3) for r in range(3)]
    for other in others:
        other.load_state_dict(one.state_dict())
    ids = [n for feed in others for n in next(iter(feed))["sample_id"]]
    assert ids == [f"s{i}" for i in one.samples_of(30)[1]]


def test_a_state_is_small_json_and_restores_far_along(store: Store) -> None:
    """Under 300 bytes at any length of training, and a step of epoch 10**9 starts at once."""
    feed = Feed(store, batch_size=8, epochs=None)
    state = {**feed.state_dict(), "epoch": 10**9, "position": 8 * 50}
    feed.load_state_dict(json.loads(json.dumps(state)))
    assert feed.epoch == 10**9
    assert feed.step == 10**9 * len(feed) + 50
    assert len(json.dumps(feed.state_dict())) < 300
    names = [f"s{i}" for i in feed.samples_of(feed.step)[1]]
    assert next(iter(feed))["sample_id"].tolist() == names  # type: ignore[union-attr]


def test_drop_last_leaves_out_other_samples_each_epoch(store: Store) -> None:
    """What fills no batch is dropped, and epochs drop differently."""
    feed = Feed(store, batch_size=300, shuffle="full")
    assert len(feed) == ROWS // 300
    shown = [set(np.concatenate([feed.samples_of(e * 2 + s)[1] for s in (0, 1)])) for e in (0, 1)]
    assert all(len(rows) == 600 for rows in shown)
    assert shown[0] != shown[1]


@pytest.mark.parametrize("batch_size", [300, 1000])
def test_without_drop_last_the_epoch_is_completed_from_its_own_start(
    store: Store, batch_size: int
) -> None:
    """Every batch is whole and every sample seen, also where one batch holds them all twice."""
    feed = Feed(store, batch_size=batch_size, drop_last=False)
    rows = np.concatenate([feed.samples_of(step)[1] for step in range(len(feed))])
    assert len(rows) == len(feed) * batch_size
    assert np.array_equal(np.unique(rows), np.arange(ROWS))
    assert np.array_equal(rows[ROWS:], rows[: len(rows) - ROWS])


def test_an_iterator_goes_on_where_the_last_was_left(store: Store) -> None:
    """An early break loses nothing: read-ahead is no part of the state."""
    feed = Feed(store, batch_size=32, epochs=1, shuffle="none")
    first = [n for batch in islice(feed, 3) for n in batch["sample_id"]]
    assert feed.step == 3
    rest = [n for batch in feed for n in batch["sample_id"]]
    assert first + rest == [f"s{i}" for i in range(len(feed) * 32)]
    assert list(feed) == []


def test_only_the_newest_iterator_is_good(store: Store) -> None:
    """Two loops over one feed, or a restore under a loop, end with an error, not in silence."""
    feed = Feed(store, batch_size=32)
    old = iter(feed)
    next(old)
    next(iter(feed))
    with pytest.raises(JobError, match="anew"):
        next(old)
    newer = iter(feed)
    next(newer)
    feed.load_state_dict(feed.state_dict())
    with pytest.raises(JobError, match="anew"):
        next(newer)


def test_a_state_of_another_snapshot_is_refused(tmp_path: Path) -> None:
    """After an append the newest snapshot is another dataset; the old one is still there."""
    store = build_store(tmp_path / "store", [50])
    old = Feed(store, batch_size=10).state_dict()
    build_store(tmp_path / "store", [50])
    with pytest.raises(StoreError, match="open the feed with ref=1"):
        Feed(store, batch_size=10).load_state_dict(old)
    Feed(store, batch_size=10, ref=1).load_state_dict(old)


@pytest.mark.parametrize(
    ("option", "value"),
    [("seed", 1), ("shuffle", "full"), ("batch_size", 20), ("drop_last", False)],
)
def test_a_state_of_other_settings_is_refused(store: Store, option: str, value: object) -> None:
    """Each setting that changes the order is named."""
    settings: dict[str, Any] = {"batch_size": 10, option: value}
    state = Feed(store, batch_size=10).state_dict()
    with pytest.raises(JobError, match=f"feed.{option}"):
        Feed(store, **settings).load_state_dict(state)


@pytest.mark.parametrize(
    "change", [{"position": 5}, {"epoch": -1}, {"format": 3}, {"extra": 1}, {"position": "0"}]
)
def test_what_is_no_state_is_refused(store: Store, change: dict[str, object]) -> None:
    """A position between steps, a newer format, unknown keys."""
    feed = Feed(store, batch_size=10)
    with pytest.raises(JobError, match="state"):
        feed.load_state_dict({**feed.state_dict(), **change})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 10, "world_size": 3}, "feed.batch_size.*3 ranks"),
        ({"batch_size": 0}, "feed.batch_size"),
        ({"batch_size": 8, "world_size": 2, "rank": 2}, "feed.rank"),
        ({"batch_size": ROWS + 1}, "smaller batch"),
        ({"batch_size": 8, "shuffle": "blok"}, "did you mean 'block'"),
        ({"batch_size": 8, "streams": ["imag"]}, "did you mean 'image'"),
        ({"batch_size": 8, "columns": ["sample"]}, "did you mean 'sample_id'"),
        ({"batch_size": 8, "columns": ["image"]}, "feed.columns"),
        ({"batch_size": 8, "threads": -1}, "negative"),
    ],
)
def test_impossible_settings_are_named(store: Store, options: dict[str, Any], message: str) -> None:
    """A wrong setting says which, and what would do."""
    with pytest.raises(JobError, match=message):
        Feed(store, **options)


def test_a_feed_keeps_its_snapshot_while_the_store_grows(tmp_path: Path) -> None:
    """An append changes nothing for a feed that is open, nor for one of a tag."""
    store = build_store(tmp_path / "store", [64])
    store.tag("train")
    feed = Feed(str(tmp_path / "store"), batch_size=32)
    build_store(tmp_path / "store", [64])
    assert feed.rows == 64
    assert Feed(store, ref="train", batch_size=32).rows == 64
    assert Feed(store, batch_size=32).rows == 128
    with pytest.raises(SnapshotNotFoundError):
        Feed(store, ref="eval", batch_size=32)


def test_another_fingerprint_is_refused(store: Store) -> None:
    """A job that was made for one kind of tokens never reads another."""
    mine = store.snapshot().fingerprint
    assert Feed(store, batch_size=8, fingerprint=mine).rows == ROWS
    with pytest.raises(FingerprintError, match="another kind"):
        Feed(store, batch_size=8, fingerprint="0" * 64)


def test_a_missing_or_foreign_shard_is_an_error(tmp_path: Path) -> None:
    """No batch is made of what is not there, and the error names the file."""
    store = build_store(tmp_path / "store", [64, 32])
    paths = store.segments(store.snapshot(), ["path"]).column("path").to_pylist()
    first, second = (tmp_path / "store" / path for path in paths)
    data = first.read_bytes()
    feeds = [Feed(store, batch_size=96, threads=n) for n in (0, 1, 2)]
    first.write_bytes(second.read_bytes())
    with pytest.raises(CorruptShardError, match="has 32 rows, committed were 64"):
        next(iter(feeds[0]))
    first.write_bytes(data[:-20])
    with pytest.raises(CorruptShardError, match=paths[0]):
        next(iter(feeds[1]))
    first.unlink()
    with pytest.raises(CorruptShardError, match="missing"):
        next(iter(feeds[2]))


def test_a_batch_stays_as_it_was_given(store: Store) -> None:
    """Batches own their place in memory: later ones do not write over earlier ones."""

    def copies(feed: Feed) -> Iterator[bytes]:
        for batch in feed:
            yield np.asarray(batch["image"]).tobytes()

    kept = list(Feed(store, batch_size=16, epochs=1))
    again = list(copies(Feed(store, batch_size=16, epochs=1)))
    assert [np.asarray(batch["image"]).tobytes() for batch in kept] == again
