from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenmill.feed.rows.plan import Plan
from tokenmill.feed.sequence.order import SHUFFLES, Order, Shuffle
from tokenmill.feed.sequence.permutation import derive_key, permute, unpermute

#: No deadline per example: the machine may be busy.
LAWS = settings(max_examples=60, deadline=None)
KEYS = st.integers(0, 2**64 - 1)
FROZEN_10 = [8, 4, 6, 2, 1, 5, 9, 0, 7, 3]
FROZEN_BIG = [846048667484, 202900503355, 888718804379]


@LAWS
@given(st.integers(1, 3000), KEYS)
def test_a_permutation_is_a_bijection_for_any_n(n: int, key: int) -> None:
    """Every entry of range(n) comes out once."""
    assert np.array_equal(np.sort(permute(np.arange(n), n, key)), np.arange(n))


@LAWS
@given(st.integers(1, 2**62), KEYS, st.data())
def test_unpermute_is_the_inverse_up_to_the_largest_n(
    n: int, key: int, data: st.DataObject
) -> None:
    """Whatever the size, images are in range and lead back."""
    indices = np.array(data.draw(st.lists(st.integers(0, n - 1), min_size=1, max_size=20)))
    images = permute(indices, n, key)
    assert images.min() >= 0
    assert images.max() < n
    assert np.array_equal(unpermute(images, n, key), indices)


@pytest.mark.parametrize("n", [2**32 - 1, 2**32, 2**32 + 1, 65_535**2, 65_536 * 65_535, 2**62])
def test_the_edges_of_the_word_sizes_are_bijective(n: int) -> None:
    """Nothing overflows where the narrow arithmetic gives way to the wide one."""
    indices = np.concatenate([np.arange(2000), n - 1 - np.arange(2000)])
    images = permute(indices, n, 11)
    assert len(np.unique(images)) == len(indices)
    assert np.array_equal(unpermute(images, n, 11), indices)


@pytest.mark.parametrize("bad", [-1, 10])
def test_an_index_outside_is_refused(bad: int) -> None:
    """An index that is no entry has no image."""
    with pytest.raises(ValueError, match=r"in \[0, 10\)"):
        permute([bad], 10, 0)


def test_the_permutation_never_changes() -> None:
    """A saved state must mean the same order in every release: these values are frozen."""
    assert permute(np.arange(10), 10, 5).tolist() == FROZEN_10
    assert permute([0, 1, 10**12 - 1], 10**12, 5).tolist() == FROZEN_BIG


def test_all_orders_of_a_few_entries_come_up() -> None:
    """Over many keys the 24 orders of four entries are about equally likely."""
    keys = 4800
    orders = [tuple(permute(np.arange(4), 4, derive_key(k)).tolist()) for k in range(keys)]
    _, counts = np.unique(orders, axis=0, return_counts=True)
    assert len(counts) == 24
    assert counts.min() > 0.6 * keys / 24


def test_neighbours_part_and_distances_are_uniform() -> None:
    """Unlike an affine map: distances between the images of neighbours fill the range evenly."""
    n = 100_003
    distances = np.diff(permute(np.arange(n), n, 3)) % n
    counts, _ = np.histogram(distances, bins=64, range=(0, n))
    assert np.abs(counts / (n / 64) - 1).max() < 0.15
    assert len(np.unique(distances)) > 0.6 * n


def test_keys_are_independent() -> None:
    """Two keys agree about as seldom as chance does, and one bit of the key changes everything."""
    n = 10_000
    for other in (1, 2, 2**40):
        same = permute(np.arange(n), n, 0) == permute(np.arange(n), n, other)
        assert same.sum() < 12


@LAWS
@given(
    st.integers(1, 3000),
    st.sampled_from(SHUFFLES),
    st.integers(4, 64),
    st.integers(2, 12),
    st.integers(0, 3),
)
def test_every_epoch_shows_every_row_once(
    rows: int, shuffle: Shuffle, block_rows: int, window_blocks: int, epoch: int
) -> None:
    """Any number of rows, short last blocks and uneven windows included."""
    order = Order(rows, 7, shuffle, block_rows, window_blocks)
    shown = order.at(epoch, np.arange(rows))
    assert np.array_equal(np.sort(shown), np.arange(rows))


@LAWS
@given(st.integers(1, 2000), st.sampled_from(SHUFFLES), st.data())
def test_any_position_can_be_asked_for_alone(
    rows: int, shuffle: Shuffle, data: st.DataObject
) -> None:
    """A row depends on its position only, not on what is asked for with it."""
    order = Order(rows, 1, shuffle, 16, 4)
    whole = order.at(2, np.arange(rows))
    chosen = np.array(data.draw(st.lists(st.integers(0, rows - 1), max_size=30)), np.int64)
    assert np.array_equal(order.at(2, chosen), whole[chosen])


@pytest.mark.parametrize("shuffle", ["block", "full"])
def test_epochs_and_seeds_differ(shuffle: Shuffle) -> None:
    """Another epoch or another seed is another order."""
    positions = np.arange(5000)
    orders = [Order(5000, s, shuffle).at(e, positions) for s in (0, 1) for e in (0, 1)]
    for one, other in pairwise([*orders, orders[0]]):
        assert (one == other).mean() < 0.01


def test_block_shuffle_reads_few_blocks_and_mixes_many() -> None:
    """A window's rows come from its own blocks only, and a batch from about 200 of them."""
    order = Order(1_000_000)
    window = order.at(0, np.arange(100_000))
    assert len(np.unique(window // 256)) <= 600
    batch = order.at(0, np.arange(4096, 4096 + 256))
    assert 180 <= len(np.unique(batch // 256)) <= 225
    assert np.unique(batch // 256).max() > 3000


def test_no_window_is_left_with_a_few_blocks() -> None:
    """One block over a full window does not become a window of its own."""
    order = Order(513 * 256)
    last = order.at(0, np.arange(512 * 256, 513 * 256))
    assert len(np.unique(last // 256)) > 180


@LAWS
@given(st.lists(st.integers(0, 40), min_size=1, max_size=60).filter(sum))
def test_a_plan_finds_the_shard_of_every_row(samples: list[int]) -> None:
    """Shards without samples and of very mixed sizes included."""
    plan = Plan.of(samples)
    shards, rows = plan.locate(np.arange(plan.rows))
    want = [(shard, row) for shard, count in enumerate(samples) for row in range(count)]
    assert list(zip(shards.tolist(), rows.tolist(), strict=True)) == want
