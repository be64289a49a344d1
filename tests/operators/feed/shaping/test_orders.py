"""Orders: permutations of grids, their inverses, and RAR's annealing."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenmill.feed.sequence.draw import Draw
from tokenmill.feed.shaping import RandomOrder, Reorder, Restore, order_of
from tokenmill.feed.shaping.orders import Kind, distances, hilbert, inverse, near_to_far
from tokenmill_schemas.errors import JobError

FLAT: tuple[Kind, ...] = (
    "raster",
    "reversed",
    "alternate",
    "z_curve",
    "near_to_far",
    "near_to_far_centre",
)
SQUARE: tuple[Kind, ...] = ("hilbert", "spiral_in", "spiral_out")


@given(st.lists(st.integers(1, 7), min_size=1, max_size=3), st.sampled_from(FLAT))
def test_every_order_is_a_permutation(grid: list[int], kind: Kind) -> None:
    """Of any grid; its inverse undoes it."""
    order = order_of(kind, tuple(grid))
    n = int(np.prod(grid))
    assert sorted(order.tolist()) == list(range(n))
    np.testing.assert_array_equal(order[inverse(order)], np.arange(n))


@given(st.integers(1, 9), st.integers(1, 9), st.sampled_from(SQUARE))
def test_every_order_of_two_axes_is_a_permutation(h: int, w: int, kind: Kind) -> None:
    """Of any picture."""
    assert sorted(order_of(kind, (h, w)).tolist()) == list(range(h * w))


@pytest.mark.parametrize("side", [2, 4, 8, 16])
def test_hilbert_steps_to_a_neighbour(side: int) -> None:
    """Which is its point, and Morton's order does not."""
    y, x = np.unravel_index(hilbert((side, side)), (side, side))
    assert set((np.abs(np.diff(y)) + np.abs(np.diff(x))).tolist()) == {1}
    assert (y[0], x[0]) == (0, 0)


def test_known_orders() -> None:
    """Written out by hand, on 3 x 3 and 4 x 4."""
    assert order_of("alternate", (3, 3)).tolist() == [0, 1, 2, 5, 4, 3, 6, 7, 8]
    assert order_of("spiral_in", (3, 3)).tolist() == [0, 1, 2, 5, 8, 7, 6, 3, 4]
    assert order_of("spiral_out", (3, 3)).tolist() == [4, 3, 6, 7, 8, 5, 2, 1, 0]
    assert order_of("z_curve", (4, 4)).tolist()[:8] == [0, 1, 4, 5, 2, 3, 6, 7]
    assert order_of("near_to_far", (3, 3)).tolist() == [0, 1, 3, 2, 4, 6, 5, 7, 8]
    assert order_of("near_to_far_centre", (3, 3)).tolist() == [4, 1, 3, 5, 7, 0, 2, 6, 8]


@given(st.lists(st.integers(1, 6), min_size=1, max_size=3), st.booleans())
def test_near_comes_before_far(grid: list[int], centre: bool) -> None:
    """Distances never fall along the order."""
    order = near_to_far(tuple(grid), centre=centre)
    assert (np.diff(distances(tuple(grid), centre=centre)[order]) >= 0).all()


def test_reorder_and_restore() -> None:
    """Grids become rows in the order; the order says how, and takes it back."""
    ids = np.arange(2 * 12).reshape(2, 3, 4)
    batch = Reorder("x", "spiral_in")({"x": ids}, Draw(0, 0, 0, 2))
    order = batch["x.order"]
    assert isinstance(order, np.ndarray)
    assert (order.shape, order.dtype) == ((2, 12), np.dtype(np.int64))
    np.testing.assert_array_equal(batch["x"], ids.reshape(2, 12)[:, order[0]])
    back = Restore("x")(batch, Draw(0, 0, 0, 2))["x"]
    np.testing.assert_array_equal(back, ids.reshape(2, 12))


def test_payloads_move_with_their_positions() -> None:
    """Depth, bits and channels are no positions."""
    values = np.arange(2 * 4 * 3).reshape(2, 2, 2, 3)
    shown = Reorder("x", "reversed", tail=1)({"x": values}, Draw(0, 0, 0, 2))["x"]
    np.testing.assert_array_equal(shown, values.reshape(2, 4, 3)[:, ::-1])


def test_varying_grids_are_reordered_each() -> None:
    """A list of samples has a list of orders."""
    grids = [np.arange(6).reshape(2, 3), np.arange(4).reshape(2, 2)]
    batch = Reorder("x", "reversed")({"x": grids}, Draw(0, 0, 0, 2))
    assert [row.tolist() for row in batch["x"]] == [[5, 4, 3, 2, 1, 0], [3, 2, 1, 0]]
    assert [len(order) for order in batch["x.order"]] == [6, 4]


def test_random_orders_anneal_into_raster() -> None:
    """All are permuted before the start, half of them half way, none at the end."""
    ids = np.tile(np.arange(64), (400, 1))
    shaped = RandomOrder("x", start=100, end=200)
    shares = []
    for step in (0, 99, 150, 200, 1000):
        batch = shaped({"x": ids}, Draw(0, step, 0, 400))
        order = batch["x.order"]
        assert isinstance(order, np.ndarray)
        np.testing.assert_array_equal(batch["x"], order)
        assert (np.sort(order, axis=1) == np.arange(64)).all()
        shares.append(float((order != np.arange(64)).any(axis=1).mean()))
    assert shares[:2] == [1.0, 1.0]
    assert 0.4 < shares[2] < 0.6
    assert shares[3:] == [0.0, 0.0]
    assert [shaped.probability(step) for step in (100, 125, 175)] == [1.0, 0.75, 0.25]


def test_random_positions_are_uniform() -> None:
    """Every position comes first about equally often."""
    batch = RandomOrder("x")({"x": np.zeros((4000, 8), int)}, Draw(0, 0, 0, 4000))
    order = batch["x.order"]
    assert isinstance(order, np.ndarray)
    counts = np.bincount(order[:, 0], minlength=8)
    assert np.abs(counts - 500).max() < 5 * np.sqrt(500)


def test_impossible_orders_are_refused() -> None:
    """Names, grids and steps."""
    with pytest.raises(JobError, match="there is no order 'sideways'"):
        Reorder("x", "sideways")  # type: ignore[arg-type]
    with pytest.raises(JobError, match="grid of two axes"):
        Reorder("x", "hilbert")({"x": np.zeros((2, 2, 2, 2))}, Draw(0, 0, 0, 2))
    with pytest.raises(JobError, match="two axes"):
        order_of("spiral_in", (4,))
    with pytest.raises(JobError, match="anneals from step 5 to 3"):
        RandomOrder("x", start=5, end=3)
    with pytest.raises(JobError, match="are no positions"):
        Reorder("x", "raster", tail=2)({"x": np.zeros((2, 4))}, Draw(0, 0, 0, 2))
