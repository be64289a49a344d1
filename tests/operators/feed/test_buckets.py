"""Batches of one shape: every row once an epoch, in an exact mix, and any batch by its number."""

from __future__ import annotations

import pickle
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenmill.feed.rows.sizes import Sizes
from tokenmill.feed.sequence import buckets as module
from tokenmill.feed.sequence.buckets import BucketLane, Mixing, Selection
from tokenmill.feed.sequence.order import SHUFFLES, Shuffle
from tokenmill_schemas.errors import JobError
from tokenmill_schemas.tokens import Axis, Stream

GRID = Stream("image", "index", (Axis("h"), Axis("w")), (1000,))
KINDS = st.lists(st.integers(0, 4), min_size=1, max_size=40)


def sizes_of(kinds: list[int] | np.ndarray) -> Sizes:
    """Rows of pictures of as many shapes as there are kinds."""
    table = np.asarray(kinds, np.int64)[:, None] + np.array([[4, 8]])
    return Sizes.of(GRID, len(table), [table])


def batches(lane: BucketLane, epoch: int, size: int) -> list[list[int]]:
    """The rows of all batches of an epoch."""
    drawn = lane.draw(np.arange(epoch * lane.items, (epoch + 1) * lane.items))
    assert drawn.counts is not None
    assert drawn.counts.tolist() == [size] * lane.items
    return drawn.rows.reshape(-1, size).tolist()


@given(KINDS, st.integers(1, 30), st.sampled_from(SHUFFLES), st.booleans(), st.integers(0, 2))
@settings(max_examples=80, deadline=None)
def test_an_epoch_is_every_row_in_batches_of_its_shape(
    kinds: list[int], repeats: int, shuffle: Shuffle, drop_last: bool, epoch: int
) -> None:
    """As many batches of each shape as its rows fill; without drop_last, the rest completed."""
    every, size = np.tile(kinds, repeats), 8
    counts = np.bincount(every)
    whole = counts // size if drop_last else -(-counts // size)
    if not whole.any():
        with pytest.raises(JobError, match="no shape of 'image' has so many samples"):
            BucketLane(sizes_of(every), size, shuffle=shuffle, drop_last=drop_last)
        return
    lane = BucketLane(sizes_of(every), size, shuffle=shuffle, drop_last=drop_last)
    found = batches(lane, epoch, size)
    assert lane.items == len(found) == whole.sum()
    assert Counter(int(every[rows[0]]) for rows in found) == {
        kind: n for kind, n in enumerate(whole.tolist()) if n
    }
    seen = np.bincount([row for rows in found for row in rows], minlength=len(every))
    for rows in found:
        assert len(set(every[rows].tolist())) == 1
    for kind, count in enumerate(counts.tolist()):
        shown = seen[every == kind]
        assert shown.sum() == whole[kind] * size
        if drop_last:
            assert set(shown.tolist()) <= {0, 1}
        elif count:
            assert shown.max() - shown.min() <= 1
            assert shown.min() >= 1
    assert lane.left_out == (counts[whole == 0].sum() if drop_last else 0)
    assert [lane.shape_of(epoch * lane.items + i) for i in range(len(found))] == [
        (4 + every[rows[0]], 8 + every[rows[0]]) for rows in found
    ]


@pytest.mark.parametrize("shuffle", SHUFFLES)
@pytest.mark.parametrize("kinds", [1, 5, 90])
def test_any_batch_is_a_function_of_its_number(shuffle: Shuffle, kinds: int) -> None:
    """One by one, in any order, over the ends of epochs: the batches of a sequential reader."""
    every = np.random.default_rng(0).integers(0, kinds, 7000)
    lane = BucketLane(sizes_of(every), 16, shuffle=shuffle)
    sequential = [rows for epoch in range(3) for rows in batches(lane, epoch, 16)]
    numbers = np.random.default_rng(1).permutation(len(sequential))[:150]
    fresh = pickle.loads(pickle.dumps(BucketLane(sizes_of(every), 16, shuffle=shuffle)))
    assert fresh.draw(numbers).rows.reshape(-1, 16).tolist() == [sequential[i] for i in numbers]
    for number in numbers[:9].tolist():
        assert fresh.draw(np.array([number])).rows.tolist() == sequential[number]
    assert len(fresh.draw(numbers[:0]).rows) == 0


@pytest.mark.parametrize("shuffle", SHUFFLES)
@pytest.mark.parametrize("drop_last", [True, False])
def test_numbers_of_a_row_are_those_of_the_batches_that_hold_it(
    shuffle: Shuffle, drop_last: bool
) -> None:
    """The inverse of drawing, for rows that are left out or come twice too."""
    every = np.concatenate([np.random.default_rng(2).integers(0, 70, 1500), [90, 90, 90]])
    lane = BucketLane(sizes_of(every), 8, shuffle=shuffle, drop_last=drop_last)
    for epoch in (0, 4):
        found = batches(lane, epoch, 8)
        for row in [*range(0, 1500, 41), 1501]:
            wanted = [epoch * lane.items + i for i, rows in enumerate(found) if row in rows]
            assert lane.numbers_of(row, epoch) == wanted


def test_buckets_are_mixed_evenly_and_epochs_differ() -> None:
    """At every step of an epoch each bucket has had its share, within a batch or two."""
    every = np.random.default_rng(0).choice(3, 12_000, p=[0.6, 0.3, 0.1])
    lane = BucketLane(sizes_of(every), 10)
    kinds = [[int(every[rows[0]]) for rows in batches(lane, epoch, 10)] for epoch in (0, 1)]
    for each in kinds:
        for kind in range(3):
            share = np.cumsum(np.array(each) == kind) / np.arange(1, len(each) + 1)
            exact = lane.batches[list(lane._sizes.shapes).index((4 + kind, 8 + kind))] / lane.items
            assert np.abs(share - exact)[100:].max() < 0.03
    assert kinds[0] != kinds[1]
    assert batches(lane, 0, 10) != batches(BucketLane(sizes_of(every), 10, seed=1), 0, 10)


def test_without_shuffle_rows_of_a_bucket_come_in_manifest_order() -> None:
    """And every epoch is the same one."""
    every = np.random.default_rng(0).integers(0, 3, 500)
    lane = BucketLane(sizes_of(every), 10, shuffle="none")
    found = batches(lane, 0, 10)
    assert found == batches(lane, 7, 10)
    for kind in range(3):
        rows = [row for rows in found for row in rows if every[row] == kind]
        assert rows == np.flatnonzero(every == kind)[: len(rows)].tolist()


def test_too_many_shapes_are_told() -> None:
    """With what to do instead."""
    every = np.arange(module.MAX_SHAPES + 1)
    with pytest.raises(JobError, match=r"has 4097 distinct shapes.*pack them instead") as caught:
        BucketLane(sizes_of(every), 1)
    assert caught.value.path == "feed.buckets"


@given(
    st.lists(st.integers(0, 5), min_size=2, max_size=400),
    st.integers(1, 30),
    st.sampled_from([1, 50, 10_000]),
)
@settings(max_examples=60, deadline=None)
def test_rows_are_selected_by_rank(codes: list[int], repeats: int, entries: int) -> None:
    """Whatever the size of the blocks that are counted, a last short one among them."""
    every = np.tile(codes, repeats)
    sizes = sizes_of(every)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "TABLE_ENTRIES", entries)
        patch.setattr(module, "SCAN_ROWS", 500)
        selection = Selection(sizes)
        for code in range(len(sizes.shapes)):
            rows = np.flatnonzero(sizes.codes(slice(None)) == code)
            ranks = np.random.default_rng(code).permutation(len(rows))
            assert selection.rows(code, ranks).tolist() == rows[ranks].tolist()
            assert selection.rank(code, int(rows[-1])) == len(rows) - 1


@pytest.mark.parametrize("count", [3, 64, 65, 300])
def test_many_sequences_are_mixed_as_few_are(count: int) -> None:
    """Each has its weight in a cycle, counted rightly, and its items are found again."""
    weights = np.random.default_rng(count).integers(0, 9, count).tolist()
    mixing, total = Mixing.of(weights), sum(weights)
    lanes, numbers = mixing.at(np.arange(2 * total))
    assert np.bincount(lanes[:total], minlength=count).tolist() == weights
    for lane in range(count):
        assert numbers[lanes == lane].tolist() == list(range(2 * weights[lane]))
    for item in (0, total // 3, total + 1):
        assert mixing.counts(item) == np.bincount(lanes[:item], minlength=count).tolist()
    for item in range(0, 2 * total, max(1, total // 20)):
        assert mixing.item_of(int(lanes[item]), int(numbers[item])) == item
    if 0 in weights:
        with pytest.raises(ValueError, match="has no item 0"):
            mixing.item_of(weights.index(0), 0)
