"""Mixtures of stores: exact shares, one order for any ranks, vocabularies that are kept apart."""

import json
import pickle
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tokenmill.feed import Feed, Mixture, Part
from tokenmill.feed.columns import Batch
from tokenmill.feed.sequence.draw import Draw
from tokenmill.store import Store
from tokenmill.testing.feed import assert_restores_at_every_step, build_store, same_batch
from tokenmill_schemas.arrow import ShardLayout
from tokenmill_schemas.errors import FingerprintError, JobError
from tokenmill_schemas.tokens import Axis, Stream, TokenSpec


def layout(vocab: int, length: int = 16) -> ShardLayout:
    """Ids of a codebook of ``vocab`` entries."""
    axes = (Axis("n", length),)
    return ShardLayout(TokenSpec((Stream("image", "index", axes, (vocab,)),)))


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> list[Store]:
    """Three stores of one tokenizer, of 90, 40 and 25 samples."""
    folder = tmp_path_factory.mktemp("mixture")
    sizes = [[50, 40], [40], [10, 15]]
    return [build_store(folder / str(i), samples) for i, samples in enumerate(sizes)]


def mix(stores: list[Store], *weights: float, **options: Any) -> Mixture:
    """A mixture of some stores."""
    parts = [Part(store, weight=w) for store, w in zip(stores, weights, strict=True)]
    return Mixture(parts, **options)


def test_every_store_has_its_share_of_every_stretch(stores: list[Store]) -> None:
    """Of any n samples a store has its weight's part, but for two at the most."""
    feed = Feed(mix(stores, 0.6, 0.3, 0.1), batch_size=10, seed=3)
    parts = np.concatenate([feed.samples_of(step).parts for step in range(50)])
    for part, weight in enumerate((0.6, 0.3, 0.1)):
        ahead = np.cumsum(parts == part) - weight * np.arange(1, len(parts) + 1)
        assert np.abs(ahead).max() <= 2


def test_every_store_goes_through_its_own_epochs(stores: list[Store]) -> None:
    """However they are mixed, each store shows every sample once before any comes again."""
    feed = Feed(mix(stores, 1, 2, 1), batch_size=8)
    samples = [feed.samples_of(step) for step in range(60)]
    for part, rows in enumerate((90, 40, 25)):
        shown = np.concatenate([s.rows[s.parts == part] for s in samples])
        for epoch in range(len(shown) // rows):
            once = shown[epoch * rows : (epoch + 1) * rows]
            assert np.array_equal(np.sort(once), np.arange(rows))


def test_weights_change_where_the_stages_say(stores: list[Store]) -> None:
    """A store of weight 0 rests, and goes on where it stood."""
    feed = Feed(
        mix(stores, 1, 0, 0, stages=[(5, (0, 1, 0)), (9, (1, 0, 1))]), batch_size=4, shuffle="none"
    )
    shares = [np.bincount(feed.samples_of(s).parts, minlength=3).tolist() for s in range(12)]
    assert shares == [[4, 0, 0]] * 5 + [[0, 4, 0]] * 4 + [[2, 0, 2]] * 3
    rested = feed.samples_of(9)
    assert rested.rows[rested.parts == 0].tolist() == [20, 21]


@pytest.mark.parametrize("world_size", [1, 2, 3, 4, 8])
def test_any_world_size_gives_the_same_global_batches(stores: list[Store], world_size: int) -> None:
    """The ranks' batches, joined in order, hold the samples that `samples_of` names."""
    ranks = [
        Feed(mix(stores, 3, 2, 1), batch_size=24, rank=r, world_size=world_size, epochs=2)
        for r in range(world_size)
    ]
    steps = 0
    for step, batches in enumerate(zip(*ranks, strict=True)):
        found = ranks[0].samples_of(step)
        ids = [name for batch in batches for name in batch["sample_id"]]
        assert ids == [f"s{row}" for row in found.rows]
        tokens = np.concatenate([batch["image"] for batch in batches])
        for row, part, ids_of in zip(found.rows, found.parts, tokens, strict=True):
            assert np.array_equal(ids_of, truth(stores[part])[row])
        steps += 1
    assert steps == ranks[0].total_steps


@cache
def truth(store: Store) -> np.ndarray[Any, Any]:
    """All tokens of a store, in manifest order."""
    parts = []
    for path in store.segments(store.snapshot(), ["path"]).column("path").to_pylist():
        with store.shard(path) as shard:
            parts.append(shard.take("image", np.arange(shard.rows)))
    return np.concatenate(parts)


def test_restored_at_every_step_it_is_as_if_it_had_never_stopped(stores: list[Store]) -> None:
    """Over ends of epochs of all stores, and over a change of weights."""

    def make() -> Feed:
        stages = [(7, (1, 1, 4))]
        return Feed(mix(stores, 3, 2, 1, stages=stages), batch_size=12, threads=1)

    assert_restores_at_every_step(make, steps=30)


def test_a_state_names_its_mixture(stores: list[Store]) -> None:
    """Other weights, other stores or one store alone refuse it; it stays under 300 bytes."""
    state = Feed(mix(stores, 3, 2, 1), batch_size=12).state_at(1234)
    assert len(json.dumps(state)) < 300
    Feed(mix(stores, 6, 4, 2), batch_size=12)  # the same shares, but another declaration
    with pytest.raises(JobError, match="mixture"):
        Feed(mix(stores, 3, 2, 2), batch_size=12).load_state_dict(state)
    with pytest.raises(JobError, match="mixture"):
        Feed(stores[0], batch_size=12).load_state_dict(state)
    other = [stores[1], stores[0], stores[2]]
    with pytest.raises(Exception, match="content"):
        Feed(mix(other, 3, 2, 1), batch_size=12).load_state_dict(state)


def test_an_epoch_ends_with_the_store_that_is_through_first(stores: list[Store]) -> None:
    """With ``epochs`` no store begins its next one."""
    feed = Feed(mix(stores, 1, 1, 1), batch_size=6, epochs=2)
    rows = [feed.samples_of(step) for step in range(len(list(feed)))]
    shown = np.concatenate([s.rows[s.parts == 2] for s in rows])
    assert len(shown) == 50
    assert np.bincount(shown).tolist() == [2] * 25


def test_vocabularies_of_two_tokenizers_are_not_mixed_by_accident(tmp_path: Path) -> None:
    """Offsets must be declared, and must leave room; then every id says where it is from."""
    one = build_store(tmp_path / "one", [30], layout=layout(1000))
    other = build_store(tmp_path / "other", [30], layout=layout(70_000))
    with pytest.raises(FingerprintError, match=r"offsets=\{'image': n\}"):
        Feed(Mixture([Part(one), Part(other)]), batch_size=4)
    close = [Part(one, offsets={"image": 0}), Part(other, offsets={"image": 999})]
    with pytest.raises(FingerprintError, match="no room"):
        Feed(Mixture(close), batch_size=4)
    with pytest.raises(JobError, match="did you mean 'image'"):
        Feed(Mixture([Part(one, offsets={"imag": 1})]), batch_size=4)
    apart = [Part(one, offsets={"image": 70_000}), Part(other, offsets={"image": 0})]
    feed = Feed(Mixture(apart), batch_size=4)
    assert feed.streams[0].vocab_sizes == (71_000,)
    for step, batch in enumerate(islice(feed, 10)):
        assert batch["image"].dtype == np.uint32  # type: ignore[union-attr]
        found = feed.samples_of(step)
        for part, row, ids in zip(found.parts, found.rows, batch["image"], strict=True):
            want = truth((one, other)[part])[row].astype(np.int64) + (70_000, 0)[part]
            assert np.array_equal(ids, want)


def test_streams_that_have_no_common_batch_are_refused(tmp_path: Path) -> None:
    """Other names or other kinds; grids of two sizes come as a list."""
    one = build_store(tmp_path / "one", [30])
    long = build_store(tmp_path / "long", [30], layout=layout(1000, 25))
    bits = build_store(
        tmp_path / "bits",
        [30],
        layout=ShardLayout(
            TokenSpec((Stream("image", "bits", (Axis("n", 16),), width_bits=4),)),
        ),
    )
    offsets = {"image": 0}
    with pytest.raises((JobError, FingerprintError), match=r"no common batch|no offsets"):
        Feed(Mixture([Part(one), Part(bits)]), batch_size=4)
    parts = [Part(one, offsets=offsets), Part(long, offsets={"image": 1000})]
    batch = next(iter(Feed(Mixture(parts), batch_size=4)))
    assert sorted(len(ids) for ids in batch["image"]) == [16, 16, 25, 25]


@pytest.mark.parametrize(
    ("mixture", "message"),
    [
        (lambda s: Mixture([]), "no parts"),
        (lambda s: mix(s, 1, -1, 0), "negative"),
        (lambda s: mix(s, 0, 0, 0), "positive"),
        (lambda s: mix(s, 1, 1, 1, stages=[(0, (1, 1, 1))]), "rise"),
        (lambda s: mix(s, 1, 1, 1, stages=[(3, (1, 1))]), "3 weights"),
    ],
)
def test_impossible_mixtures_are_named(stores: list[Store], mixture: Any, message: str) -> None:
    """A wrong mixture says what is wrong with it."""
    with pytest.raises(JobError, match=message):
        Feed(mixture(stores), batch_size=4)


def test_what_belongs_to_a_part_is_not_given_to_the_feed(stores: list[Store]) -> None:
    """Which version of which store would be meant?"""
    with pytest.raises(JobError, match=r"feed\.ref"):
        Feed(mix(stores, 1, 1, 1), batch_size=4, ref=1)


def test_a_pickled_feed_goes_on_where_it_stood(stores: list[Store]) -> None:
    """A copy opens the same snapshots, also after the store grew."""
    feed = Feed(mix(stores, 3, 2, 1), batch_size=6)
    list(islice(feed, 5))
    copy = pickle.loads(pickle.dumps(feed))
    assert copy.step == feed.step == 5
    for mine, want in zip(islice(copy, 10), islice(feed, 10), strict=True):
        assert same_batch(mine, want)


def test_workers_read_every_nth_step(stores: list[Store]) -> None:
    """`iterate` with a stride gives what a loader's worker reads, and moves nothing."""
    feed = Feed(mix(stores, 3, 2, 1), batch_size=6, epochs=1)
    want = list(Feed(mix(stores, 3, 2, 1), batch_size=6, epochs=1))
    for stride in (1, 2, 3):
        got: dict[int, Batch] = {}
        for first in range(stride):
            steps = range(first, len(want), stride)
            got |= dict(zip(steps, feed.iterate(first, stride), strict=True))
        assert sorted(got) == list(range(len(want)))
        assert all(same_batch(got[i], batch) for i, batch in enumerate(want))
    assert feed.step == 0


def noisy(batch: Batch, draw: Draw) -> Batch:
    """Add a random number of its own to every sample."""
    return {**batch, "noise": draw.integers("noise", 1000)[:, 0]}


def test_transforms_draw_the_same_on_any_number_of_ranks(stores: list[Store]) -> None:
    """What is random in a sample depends on its place in the global batch alone."""
    options: dict[str, Any] = {"batch_size": 12, "epochs": 1, "transforms": (noisy,)}
    want = [batch["noise"] for batch in Feed(mix(stores, 3, 2, 1), **options)]
    assert len({tuple(noise) for noise in want}) == len(want)
    ranks = [Feed(mix(stores, 3, 2, 1), rank=r, world_size=3, **options) for r in range(3)]
    for noise, batches in zip(want, zip(*ranks, strict=True), strict=True):
        assert np.array_equal(np.concatenate([batch["noise"] for batch in batches]), noise)
