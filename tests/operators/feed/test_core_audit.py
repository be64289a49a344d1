"""What a bad day does to a feed: mixed types, tiny stores, odd numbers, stale iterators, faults."""

import gc as collector
import json
import threading
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from tokenmill.feed import Feed, Mixture, Packing, Part
from tokenmill.feed.columns import Batch
from tokenmill.feed.sequence.draw import Draw
from tokenmill.feed.state import FeedState, state_from_json
from tokenmill.store import Store
from tokenmill.testing.feed import assert_restores_at_every_step, build_store, same_batch
from tokenmill_schemas.arrow import ShardLayout
from tokenmill_schemas.errors import CorruptShardError, JobError
from tokenmill_schemas.tokens import Axis, Stream, TokenSpec


def layout(kind: pa.DataType, length: int = 16) -> ShardLayout:
    """Ids of ``length`` and a label of a type."""
    spec = TokenSpec((Stream("image", "index", (Axis("n", length),), (1000,)),))
    return ShardLayout(spec, extras=pa.schema([pa.field("label", kind)]))


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> list[Store]:
    """Labels of two types, some of them null in the second; 90, 40 and 3 samples."""
    folder = tmp_path_factory.mktemp("audit")
    nulls = [None if i % 13 == 0 else i for i in range(40)]
    return [
        build_store(folder / "0", [50, 40], layout=layout(pa.int32())),
        build_store(folder / "1", [40], layout=layout(pa.int64()), values={"label": nulls}),
        build_store(folder / "2", [3], layout=layout(pa.int32(), 25)),
    ]


def both(stores: list[Store], **options: Any) -> Feed:
    """The first two stores, one to one."""
    options = {"batch_size": 4, "columns": ("label",), "threads": 0, **options}
    return Feed(Mixture([Part(stores[0]), Part(stores[1])]), **options)


def small(stores: list[Store], **options: Any) -> Feed:
    """The first and the last, whose ids are of other lengths, and of which a step shows 3 of 4."""
    parts = [Part(stores[0], 1, offsets={"image": 0}), Part(stores[2], 3, offsets={"image": 1000})]
    return Feed(Mixture(parts), **{"batch_size": 4, "threads": 0, **options})


def kinds(batch: Batch) -> dict[str, Any]:
    """What the values of a batch are."""
    return {n: v.dtype if isinstance(v, np.ndarray) else list for n, v in batch.items()}


def test_what_a_batch_is_does_not_depend_on_what_was_read_with_it(stores: list[Store]) -> None:
    """Types of columns, nulls and lists are the same whichever steps a chunk has."""
    for make in (both, small):
        whole = list(islice(make(stores), 30))
        for step, batch in enumerate(whole):
            alone = next(iter(make(stores).iterate(step)))
            assert kinds(alone) == kinds(batch), step
            assert same_batch(alone, batch)
    seen = {kinds(batch)["label"] for batch in islice(both(stores), 30)}
    assert seen == {np.dtype(np.int64), np.dtype(object)}


def test_ids_of_two_lengths_are_a_list_in_every_batch(stores: list[Store]) -> None:
    """Also in one whose samples are all of one store."""
    mixture = Mixture(small(stores).source.mixture.parts, [(3, (1, 0)), (6, (0, 1))])
    for batch in islice(Feed(mixture, batch_size=4), 9):
        assert isinstance(batch["image"], list)


def test_columns_of_no_common_type_are_refused(stores: list[Store], tmp_path: Path) -> None:
    """Text and numbers under one name."""
    other = build_store(tmp_path / "text", [20], layout=layout(pa.string()))
    with pytest.raises(JobError, match=r"'label' is int32 in .* string in .* no common batch"):
        Feed(Mixture([Part(stores[0]), Part(other)]), batch_size=4, columns=("label",))


def test_a_store_smaller_than_its_part_of_a_batch_is_shown_again(stores: list[Store]) -> None:
    """Three samples, twelve of a batch of sixteen: four epochs of it a step, each one whole."""
    feed = small(stores, batch_size=16)
    rows = np.concatenate([s.rows[s.parts == 1] for s in map(feed.samples_of, range(10))])
    assert np.array_equal(np.sort(rows.reshape(-1, 3), axis=1), np.tile(np.arange(3), (40, 1)))
    assert [feed.samples_of(step).epoch for step in range(4)] == [3, 7, 11, 15]
    assert_restores_at_every_step(lambda: small(stores, batch_size=16), steps=8)
    assert len(feed) == 0
    with pytest.raises(JobError, match="more often"):
        small(stores, batch_size=16, epochs=3)
    assert len(list(small(stores, batch_size=16, epochs=4))) == 1


@pytest.mark.parametrize("stages", [(), ((5, (5, 1)), (11, (1, 4)))])
def test_epochs_of_a_mixture_end_where_iteration_ends(stores: list[Store], stages: Any) -> None:
    """The epoch of a step is below ``epochs`` for all steps of so many, and of no other."""
    parts = [Part(stores[0], 2), Part(stores[1], 1)]
    for epochs in range(5):
        feed = Feed(Mixture(parts, stages), batch_size=7, epochs=epochs)
        assert feed.total_steps is not None
        found = [feed.samples_of(step).epoch for step in range(feed.total_steps + 3)]
        assert found == sorted(found)
        assert [epoch < epochs for epoch in found] == [True] * (len(found) - 3) + [False] * 3
        assert len(list(feed)) == feed.total_steps


@pytest.mark.parametrize("boundary", range(1, 8))
def test_a_stage_may_begin_at_any_step(stores: list[Store], boundary: int) -> None:
    """Every store goes on where it stood, also one that rested; every sample once an epoch."""
    parts = [Part(stores[0], 3), Part(stores[1], 0)]
    mixture = Mixture(parts, [(boundary, (1, 7)), (boundary + 1, (0, 1)), (boundary + 2, (5, 1))])
    samples = [Feed(mixture, batch_size=9).samples_of(step) for step in range(40)]
    for part, rows in enumerate((90, 40)):
        shown = np.concatenate([s.rows[s.parts == part] for s in samples])
        for epoch in range(len(shown) // rows):
            once = shown[epoch * rows : (epoch + 1) * rows]
            assert np.array_equal(np.sort(once), np.arange(rows))


@pytest.mark.parametrize("step", [10**9, 10**12, 2**50])
@pytest.mark.parametrize("options", [{}, {"shuffle": "full"}, {"drop_last": False}])
def test_steps_far_away_are_like_any_other(
    stores: list[Store], step: int, options: dict[str, Any]
) -> None:
    """No product overflows; a restore goes there at once, and a sample knows its steps."""
    mixture = Mixture([Part(stores[0], 0.37), Part(stores[1], 0.63)])
    for source in (stores[0], mixture):
        feed = Feed(source, batch_size=24, threads=0, **options)
        feed.seek(step)
        state = feed.state_dict()
        batch = next(iter(feed))
        found = feed.samples_of(step)
        assert batch["sample_id"].tolist() == [f"s{row}" for row in found.rows]  # type: ignore[union-attr]
        again = Feed(source, batch_size=24, threads=0, **options)
        again.load_state_dict(state)
        assert (again.step, again.epoch) == (step, found.epoch)
        assert same_batch(next(iter(again)), batch)
    row, part = int(found.rows[0]), int(found.parts[0])
    epoch = int(feed.source.schedule.blend.counts(step * 24)[part]) // (90, 40)[part]  # type: ignore[union-attr]
    assert step in feed.source.schedule.steps_of(part, row, range(epoch - 1, epoch + 2))


@pytest.mark.parametrize("seed", [-1, -(2**70), 2**63, 2**64 + 5, np.int64(7)])
def test_any_whole_number_is_a_seed(stores: list[Store], seed: int) -> None:
    """Also a negative one, one of more than 64 bits, and one of numpy's."""
    feed = both(stores, seed=seed, packing=Packing("image", 20))
    state = json.loads(json.dumps(feed.state_at(3)))
    copy = both(stores, seed=int(seed), packing=Packing("image", 20))
    copy.load_state_dict(state)
    assert same_batch(next(iter(copy)), next(iter(feed.iterate(3))))


def test_numbers_that_are_not_whole_are_refused(stores: list[Store]) -> None:
    """A batch of 4.0 would be another order, and no JSON."""
    with pytest.raises(JobError, match=r"feed\.batch_size.*4\.5"):
        Feed(stores[0], batch_size=4.5)  # type: ignore[arg-type]
    with pytest.raises(JobError, match=r"feed\.seed"):
        Feed(stores[0], batch_size=4, seed="1")  # type: ignore[arg-type]
    assert json.dumps(Feed(stores[0], batch_size=np.int32(4)).state_dict())  # type: ignore[arg-type]


def test_there_are_no_steps_before_the_first(stores: list[Store]) -> None:
    """A loop that counts backwards is told so, and gets no epoch of number -1."""
    for feed in (Feed(stores[0], batch_size=4), both(stores)):
        asked: list[Callable[[int], Any]] = [feed.seek, feed.samples_of, feed.state_at]
        for ask in asked:
            with pytest.raises(ValueError, match="steps are numbered"):
                ask(-1)
        with pytest.raises(ValueError, match="steps are numbered"):
            next(iter(feed.iterate(-1)))
        with pytest.raises(ValueError, match="steps are numbered"):
            feed.samples_of(2**61)
        with pytest.raises(ValueError, match="stride"):
            next(iter(feed.iterate(0, 0)))


def test_only_the_newest_iterator_is_good(stores: list[Store]) -> None:
    """The newest is the one made last, also if it was not used yet."""
    feed = Feed(stores[0], batch_size=4, threads=0)
    old, new = iter(feed), iter(feed)
    next(new)
    with pytest.raises(JobError, match="take that iterator"):
        next(old)
    assert feed.step == 1
    next(new)
    waiting = iter(feed)
    feed.load_state_dict(feed.state_at(5))
    with pytest.raises(JobError, match="take that iterator"):
        next(waiting)
    assert feed.step == 5


@pytest.mark.parametrize("threads", [0, 1, 8])
def test_a_fault_moves_nothing_and_ends_nothing(stores: list[Store], threads: int) -> None:
    """The step that failed is the next one; the feed goes on, and no thread stays."""
    broken = [True]

    def transform(batch: Batch, draw: Draw) -> Batch:
        if draw.step == 3 and broken[0]:
            raise CorruptShardError("a disk is gone", uri="here")
        return batch

    feed = both(stores, threads=threads, transforms=(transform,))
    want = list(islice(both(stores, threads=threads), 6))
    before = set(threading.enumerate())
    with pytest.raises(CorruptShardError):
        list(feed)
    assert feed.step == 3
    broken[0] = False
    assert same_batch(next(iter(feed)), want[3])
    for made in (iter(feed), feed.iterate(0)):
        next(made)
        del made
    collector.collect()
    left = set(threading.enumerate()) - before
    assert [thread.name for thread in left if thread.name.startswith("tokenmill-")] == []


def test_a_state_does_not_depend_on_how_a_setting_was_written(stores: list[Store]) -> None:
    """Shares are compared, not digits; nothing is left out of a mixture anyway."""
    stages = [(5, (0.5, 1.5))]
    one = Feed(Mixture([Part(stores[0], 1), Part(stores[1], 2)], stages), batch_size=4)
    parts = (
        Part(stores[0], 0.2, offsets={"image": 0}, name="pictures"),
        Part(stores[1].uri, np.float64(0.4), offsets={"image": 0}),
    )
    same = Feed(Mixture(parts, ((5, (1, 3)),)), batch_size=4, drop_last=False)
    assert same.state_at(9) == one.state_at(9)
    for weights in ((1, 4), (1, 3, 0), (float("nan"), 1), (float("inf"), 1)):
        with pytest.raises(JobError):
            Feed(Mixture(parts, [(5, weights)]), batch_size=4).load_state_dict(one.state_at(9))


def test_a_state_says_which_part_a_filter_is_of(stores: list[Store]) -> None:
    """The same store twice, filtered here or there."""
    options: dict[str, Any] = {"batch_size": 4}
    here = Mixture([Part(stores[0], where="label > 40"), Part(stores[0])])
    there = Mixture([Part(stores[0]), Part(stores[0], where="label > 40")])
    with pytest.raises(JobError, match="filter"):
        Feed(there, **options).load_state_dict(Feed(here, **options).state_at(2))


def test_a_state_behind_the_end_of_its_epoch_is_refused(stores: list[Store]) -> None:
    """No feed writes it."""
    feed = both(stores)
    state = feed.state_at(2)
    with pytest.raises(JobError, match="no position"):
        feed.load_state_dict({**state, "position": 4 * 10**6})


def test_the_longest_names_and_numbers_stay_below_300_bytes(tmp_path: Path) -> None:
    """A filtered mixture of long names, packed or bucketed, at step 10**12."""
    name = "a_stream_with_a_name_that_tells_all_that_it_is_made_of"
    spec = TokenSpec((Stream(name, "index", (Axis("n"),), (1000,)),))
    made = [build_store(tmp_path / str(i), [60], layout=ShardLayout(spec)) for i in range(2)]
    mixture = Mixture([Part(store, where="sample_id != 's1'") for store in made])
    for option in ({"packing": Packing(name, 30)}, {"buckets": name}):
        feed = Feed(mixture, batch_size=8, seed=2**63, **option)
        state = feed.state_at(10**12)
        assert len(json.dumps(state)) < 300
        feed.load_state_dict(json.loads(json.dumps(state)))
        assert feed.step == 10**12


def test_states_of_the_first_format_restore(stores: list[Store]) -> None:
    """They have whole content ids, and nothing of what came later."""
    feed = Feed(stores[0], batch_size=8, seed=4, columns=("label",))
    old: dict[str, Any] = {
        "snapshot": stores[0].snapshot().content_id,
        "number": 1,
        "seed": 4,
        "shuffle": "block",
        "batch_size": 8,
        "drop_last": True,
        "epoch": 2,
        "position": 40,
        "format": 1,
    }
    feed.load_state_dict(old)
    assert (feed.step, feed.epoch) == (27, 2)
    assert feed.state_dict() == {**old, "snapshot": old["snapshot"][:32], "format": 2}
    groups = ["a_group_of_a_long_name", "another_group_of_a_long_name"]
    now = state_from_json(feed.state_dict() | {"groups": groups})
    assert state_from_json(now.to_json()) == now
    assert isinstance(now, FeedState)
    assert len(now.groups) == 1


def test_draws_are_uniform_and_unrelated() -> None:
    """Chi-square over 16 bins, and correlations of neighbouring places, steps, columns, names."""
    draws = [Draw(3, step, 0, 512) for step in (7, 8)]
    here, there = (draw.uniform("a", 8) for draw in draws)
    other = draws[0].uniform("b", 8)
    counts = np.bincount((here.ravel() * 16).astype(int), minlength=16)
    assert ((counts - 256) ** 2 / 256).sum() < 37.7  # 0.999 of 15 degrees of freedom
    pairs = [(here, there), (here, other), (here[1:], here[:-1]), (here[:, 1:], here[:, :-1])]
    for one, two in pairs:
        assert abs(np.corrcoef(one.ravel(), two.ravel())[0, 1]) < 0.05
    normal = draws[0].normal("n", 8)
    assert abs(normal.mean()) < 0.05
    assert abs(normal.std() - 1) < 0.05


def test_what_a_step_shares_is_no_sample_of_another() -> None:
    """Also when it is asked for twice over."""
    draws = [Draw(3, step, first, 8) for step in range(4) for first in (0, 8)]
    shared = [draw.shared().shared().words("x") for draw in draws]
    assert all((draw.shared().words("x") == s).all() for draw, s in zip(draws, shared, strict=True))
    own = {int(word) for draw in draws for word in draw.words("x").ravel()}
    assert len(own) == 64
    assert not own & {int(s[0, 0]) for s in shared}
    assert len({int(s[0, 0]) for s in shared}) == 4
