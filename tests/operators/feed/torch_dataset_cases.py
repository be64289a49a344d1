import json
import multiprocessing
import os
import pickle
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from tokenmill.feed import Feed
from tokenmill.feed.columns import Batch
from tokenmill.feed.sequence.draw import Draw
from tokenmill.feed.sequence.packing import Packing
from tokenmill.feed.torch_dataset import FeedDataset, FeedLoader, WiredBatch
from tokenmill.store import Store
from tokenmill.testing.feed import build_store
from tokenmill_schemas.arrow import ShardLayout
from tokenmill_schemas.errors import JobError, StoreError
from tokenmill_schemas.tokens import Axis, Stream, TokenSpec

#: torch warns where there are more workers than cores, which is what these tests want, and of what
#: torchdata asks of it.
pytestmark = [
    pytest.mark.filterwarnings("ignore:This DataLoader will create"),
    pytest.mark.filterwarnings("ignore:'set_vital' is deprecated"),
]

STEPS = 2 * (150 // 8)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Three small shards."""
    return build_store(tmp_path_factory.mktemp("torch") / "store", [70, 1, 79])


@dataclass(frozen=True, slots=True)
class Noise:
    """Adds random numbers of the step, as a transform of a trainer's own module does."""

    def __call__(self, batch: Batch, draw: Draw) -> Batch:
        """Return the batch with a stream of numbers and with who made it."""
        numbers = draw.integers("noise", 1000, 3)
        return {**batch, "noise": numbers, "pid": np.full(len(numbers), os.getpid())}


def make_feed(store: Store, **options: Any) -> Feed:
    """Return a feed of two epochs whose batches are told apart by everything in them."""
    return Feed(store, batch_size=8, epochs=2, seed=3, threads=1, **options)


def names(batches: Any) -> list[list[str]]:
    """Return the sample ids of each batch."""
    return [batch["sample_id"] for batch in batches]


@pytest.fixture(scope="module")
def truth(store: Store) -> list[list[str]]:
    """The sample ids of every step, by the feed alone."""
    return [np.asarray(batch["sample_id"]).tolist() for batch in make_feed(store)]


def loader_of(dataset: FeedDataset, workers: int, **options: Any) -> DataLoader[Any]:
    """Return torch's loader over forked workers."""
    start = "fork" if workers else None
    return DataLoader(
        dataset, batch_size=None, num_workers=workers, multiprocessing_context=start, **options
    )


@pytest.mark.parametrize("workers", [0, 1, 2, 3, 8])
def test_forked_workers_give_the_feeds_own_order(
    store: Store, truth: list[list[str]], workers: int
) -> None:
    """For any number of them, in one pass over both epochs, with the same tensors."""
    batches = list(loader_of(FeedDataset(make_feed(store, transforms=(Noise(),))), workers))
    assert names(batches) == truth
    for batch, want in zip(batches, make_feed(store, transforms=(Noise(),)), strict=True):
        assert type(batch) is dict
        image, noise = want["image"], want["noise"]
        assert isinstance(image, np.ndarray)
        assert isinstance(noise, np.ndarray)
        assert torch.equal(batch["image"], torch.from_numpy(image.astype(np.int64)))
        assert torch.equal(batch["noise"], torch.from_numpy(noise))
    pids = [int(batch["pid"][0]) for batch in batches]
    turn = max(1, workers)
    assert len(set(pids[:turn])) == turn
    assert pids == (pids[:turn] * STEPS)[:STEPS]
    assert (os.getpid() in pids) == (workers == 0)


@pytest.mark.parametrize("start", ["spawn", pytest.param("forkserver", marks=pytest.mark.slow)])
def test_spawned_workers_open_the_same_snapshot(
    store: Store, truth: list[list[str]], start: str
) -> None:
    """A copy of the feed begins where the feed stands, under either start method."""
    feed = make_feed(store)
    feed.seek(30)
    dataset = FeedDataset(feed)
    feed.seek(STEPS - 5)
    context = multiprocessing.get_context(start)
    loader = DataLoader(dataset, batch_size=None, num_workers=2, multiprocessing_context=context)
    assert names(loader) == truth[-5:]


@pytest.mark.slow
@pytest.mark.parametrize("persistent", [False, True])
def test_eight_spawned_workers(store: Store, truth: list[list[str]], persistent: bool) -> None:
    """Two passes of eight workers, started anew or kept."""
    dataset = FeedDataset(make_feed(store))
    loader = DataLoader(
        dataset,
        batch_size=None,
        num_workers=8,
        multiprocessing_context="spawn",
        persistent_workers=persistent,
    )
    assert names(islice(loader, 11)) == truth[:11]
    dataset.load_state_dict(dataset.state_at(11))
    assert names(loader) == truth[11:]


def test_a_loader_knows_how_long_a_pass_is(store: Store) -> None:
    """From where the feed stands to its end, if it has one; torch warns where that is wrong."""
    feed = make_feed(store)
    loader = loader_of(feed.as_dataset(), 2)
    assert len(loader) == STEPS
    feed.seek(9)
    assert len(loader) == len(list(loader)) == STEPS - 9
    with pytest.raises(TypeError, match="no end"):
        len(loader_of(Feed(store, batch_size=8).as_dataset(), 0))


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_every_pass_begins_where_the_feed_stands(
    store: Store, truth: list[list[str]], workers: int
) -> None:
    """A pass moves nothing, in whichever process it reads; a state does, in kept workers too."""
    dataset = FeedDataset(make_feed(store))
    loader = loader_of(dataset, workers, persistent_workers=workers > 0)
    for _ in range(2):
        assert names(islice(loader, 3)) == truth[:3]
    dataset.load_state_dict(json.loads(json.dumps(dataset.state_at(7))))
    for _ in range(2):
        assert names(islice(loader, 2)) == truth[7:9]
    assert dataset.feed.step == 7
    assert names(loader) == truth[7:]


def test_ranks_and_workers_share_one_global_batch(store: Store, truth: list[list[str]]) -> None:
    """Two ranks of two workers each: joined in the order of ranks, the batches of the feed."""
    ranks = [
        names(loader_of(FeedDataset(make_feed(store, rank=r, world_size=2)), 2)) for r in range(2)
    ]
    assert [one + other for one, other in zip(*ranks, strict=True)] == truth


def stateful(store: Store, workers: int, every: int) -> Any:
    """Return torchdata's loader over a new feed."""
    module = pytest.importorskip("torchdata.stateful_dataloader")
    return module.StatefulDataLoader(
        FeedDataset(make_feed(store)),
        batch_size=None,
        num_workers=workers,
        multiprocessing_context="fork" if workers else None,
        snapshot_every_n_steps=every,
    )


@pytest.mark.parametrize(("workers", "every"), [(0, 1), (1, 1), (2, 1), (2, 3), (4, 5)])
def test_a_stateful_loader_restores(
    store: Store, truth: list[list[str]], workers: int, every: int
) -> None:
    """After an early break, over the end of an epoch, twice in a row, and at the very end."""
    state, step = stateful(store, workers, every).state_dict(), 0
    for count in (2, 5, 13, 12):
        loader = stateful(store, workers, every)
        loader.load_state_dict(pickle.loads(pickle.dumps(state)))
        batches: Iterator[Any] = iter(loader)
        assert names(islice(batches, count)) == truth[step : step + count]
        state, step = loader.state_dict(), step + count
        del batches
    last = stateful(store, workers, every)
    last.load_state_dict(state)
    assert names(last) == truth[step:]
    assert 18 < step < STEPS


def test_a_stateful_loader_changes_its_workers_by_the_step(
    store: Store, truth: list[list[str]]
) -> None:
    """Two workers, none, three: the feed's state of a step knows nothing of them."""
    step = 0
    for workers, count in ((2, 5), (0, 16), (3, 6)):
        loader = stateful(store, workers, 1)
        loader.dataset.load_state_dict(make_feed(store).state_at(step))
        assert names(islice(loader, count)) == truth[step : step + count]
        step += count


def test_a_stateful_loader_refuses_other_numbers_of_workers(store: Store) -> None:
    """The iterator says what to do; so does one of another store."""
    dataset = FeedDataset(make_feed(store))
    steps: Any = iter(dataset)
    next(steps)
    state = steps.state_dict()
    assert state["workers"] == 1
    with pytest.raises(JobError, match="of 2 workers, this loader has 1"):
        steps.load_state_dict({**state, "workers": 2})
    with pytest.raises(StoreError, match="snapshot"):
        steps.load_state_dict({**state, "feed": {**state["feed"], "snapshot": "f" * 32}})
    dataset.feed.seek(9)
    steps.load_state_dict(state)
    assert steps.state_dict() == state
    assert dataset.feed.step == 9


def test_a_loader_moves_the_feed_and_changes_its_workers(
    store: Store, truth: list[list[str]]
) -> None:
    """Two workers, none, three: each goes on where the state of the last one was taken."""
    state, step = make_feed(store).state_dict(), 0
    for workers, count in ((2, 4), (0, 16), (3, 3), (1, 5)):
        loader = FeedLoader(make_feed(store), num_workers=workers, multiprocessing_context="fork")
        loader.load_state_dict(json.loads(json.dumps(state)))
        assert names(islice(loader, count)) == truth[step : step + count]
        state, step = loader.state_dict(), step + count
        assert loader.feed.step == step
        assert state == loader.feed.state_at(step)
    assert len(loader) == 150 // 8


def test_a_loader_goes_on_from_pass_to_pass(store: Store, truth: list[list[str]]) -> None:
    """Kept workers begin each pass where the last one was left, however far they had read."""
    loader = FeedLoader(
        make_feed(store), num_workers=2, persistent_workers=True, multiprocessing_context="fork"
    )
    assert names(islice(loader, 5)) == truth[:5]
    assert names(islice(loader, 1)) == truth[5:6]
    assert names(loader) == truth[6:]
    assert names(loader) == []
    assert loader.feed.epoch == 2


def test_only_the_newest_pass_of_a_loader_is_good(store: Store) -> None:
    """One that is overtaken says so."""
    loader = FeedLoader(make_feed(store))
    old = iter(loader)
    next(old)
    assert len(names(islice(loader, 2))) == 2
    with pytest.raises(JobError, match="take that iterator"):
        next(old)


def test_a_collate_function_is_given_a_batch(store: Store) -> None:
    """In a worker as here; and torch's own default leaves the batch as it is."""
    for workers in (0, 1):
        dataset = FeedDataset(make_feed(store))
        found = list(islice(loader_of(dataset, workers, collate_fn=lambda b: sorted(b)), 2))
        assert found == [["image", "sample_id"]] * 2


def test_packed_windows_cross_with_their_boundaries(tmp_path: Path) -> None:
    """Every array of a packed batch is what it is without workers, in value and type."""
    spec = TokenSpec((Stream("mesh", "index", (Axis("n"),), (200,)),))
    made = build_store(tmp_path / "store", [64, 40], layout=ShardLayout(spec))

    def packed() -> Feed:
        return Feed(made, batch_size=4, epochs=1, packing=Packing("mesh", 16))

    wanted = list(packed().as_torch())
    got = list(FeedLoader(packed(), num_workers=2, multiprocessing_context="fork"))
    assert len(got) == len(wanted) > 2
    for one, other in zip(got, wanted, strict=True):
        assert list(one) == list(other)
        assert one["cu_seqlens"].dtype == torch.int32
        assert one["sample_id"] == other["sample_id"]
        for name in ("mesh", "position_ids", "segment_ids", "cu_seqlens", "max_seqlen"):
            assert one[name].dtype == other[name].dtype
            assert torch.equal(one[name], other[name])


def test_a_batch_without_tensors_crosses(store: Store, truth: list[list[str]]) -> None:
    """Columns of text alone, of which no memory is shared."""
    loader = FeedLoader(make_feed(store, streams=()), num_workers=1, multiprocessing_context="fork")
    assert next(iter(loader)) == {"sample_id": truth[0]}


def test_samples_of_many_shapes_cross_as_one_block(tmp_path: Path) -> None:
    """Hundreds of small tensors need one file descriptor, and arrive as they were."""
    axes = (Axis("h"), Axis("w"))
    bits = Stream("z", "bits", axes, width_bits=8)
    spec = TokenSpec((Stream("image", "index", axes, (100,)), bits))
    made = build_store(tmp_path / "store", [64], layout=ShardLayout(spec))
    wanted = next(iter(Feed(made, batch_size=64).as_torch()))
    got = next(iter(loader_of(FeedDataset(Feed(made, batch_size=64)), 1)))
    assert list(got) == list(wanted)
    assert got["sample_id"] == wanted["sample_id"]
    for name in ("image", "z"):
        assert len(got[name]) == 64
        assert all(torch.equal(a, b) for a, b in zip(got[name], wanted[name], strict=True))
    assert len({t.untyped_storage().data_ptr() for n in ("image", "z") for t in got[n]}) == 1


def test_a_wired_batch_keeps_types_shapes_and_order() -> None:
    """Also empty and scalar tensors, transposed ones, and what is no tensor."""
    batch = {
        "text": ["a", "b"],
        "bool": torch.tensor([True, False, True]),
        "bfloat16": torch.randn(3, 2).bfloat16(),
        "empty": torch.empty(0, 4, dtype=torch.int64),
        "scalar": torch.tensor(7.0, dtype=torch.float64),
        "turned": torch.arange(6, dtype=torch.int16).reshape(2, 3).T,
        "list": [torch.arange(3).to(torch.uint16), [torch.ones(1)], "x"],
        "number": 3,
    }
    got = pickle.loads(pickle.dumps(WiredBatch(batch)))
    assert type(got) is dict
    assert list(got) == list(batch)
    for name in ("bool", "bfloat16", "empty", "scalar", "turned"):
        want: Any = batch[name]
        assert got[name].dtype == want.dtype
        assert torch.equal(got[name], want)
    assert torch.equal(got["list"][0].int(), torch.arange(3).int())
    assert torch.equal(got["list"][1][0], torch.ones(1))
    assert (got["text"], got["list"][2], got["number"]) == (["a", "b"], "x", 3)
