"""Sequences and sets of varying size."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenmill.feed.sequence.draw import Draw
from tokenmill.feed.shaping import (
    Begin,
    JoinPoints,
    Pad,
    ScaleCoords,
    SeparateBlocks,
    ShuffleSet,
    SortSet,
)
from tokenmill.feed.shaping.ragged import cut_length
from tokenmill.feed.shaping.sets import coord_order, scale_coords
from tokenmill_schemas.errors import JobError

DRAW = Draw(0, 0, 0, 2)


def test_padding_frames_and_masks() -> None:
    """Begin, tokens, end, padding; the facts about it beside."""
    rows = [np.array([5, 6, 7], np.uint8), np.array([8], np.uint8)]
    batch = Pad("x", 6, pad=9, begin=1, end=2)({"x": rows}, DRAW)
    assert np.asarray(batch["x"]).tolist() == [[1, 5, 6, 7, 2, 9], [1, 8, 2, 9, 9, 9]]
    assert np.asarray(batch["x"]).dtype == np.int64
    assert np.asarray(batch["x.length"]).tolist() == [5, 3]
    assert np.asarray(batch["x.mask"]).sum(axis=1).tolist() == [5, 3]
    assert np.asarray(batch["x.cut"]).tolist() == [False, False]


def test_faces_are_never_cut() -> None:
    """Nine ids a face; a mesh that was cut has no end."""
    rows = [np.arange(27), np.arange(18)]
    batch = Pad("x", 22, pad=-1, begin=100, end=101, unit=9)({"x": rows}, DRAW)
    ids, lengths = np.asarray(batch["x"]), np.asarray(batch["x.length"])
    assert lengths.tolist() == [19, 20]
    assert ids[0, :19].tolist() == [100, *range(18)]
    assert ids[1, :20].tolist() == [100, *range(18), 101]
    assert np.asarray(batch["x.cut"]).tolist() == [True, False]


def test_strips_are_cut_before_a_restart() -> None:
    """The last one that is in reach."""
    row = np.array([1, 2, 3, 99, 4, 5, 6, 99, 7, 8])
    assert cut_length(row, 10, restart=99) == 10
    assert cut_length(row, 9, restart=99) == 7
    assert cut_length(row, 7, restart=99) == 7
    assert cut_length(row, 6, restart=99) == 3
    assert cut_length(row, 2, restart=99) == 0
    with pytest.raises(JobError, match="cut in units of 1 at 99"):
        Pad("x", 2, restart=99)({"x": [row]}, DRAW)


@given(st.integers(0, 60), st.integers(1, 50), st.integers(1, 9))
def test_what_is_kept_fits_and_is_whole(n: int, limit: int, unit: int) -> None:
    """All of it, or the most whole units."""
    kept = cut_length(np.zeros(n), limit, unit=unit)
    assert kept <= min(n, limit)
    assert kept == n or (kept % unit == 0 and kept + unit > limit)


def test_payloads_are_padded_too() -> None:
    """Of floats as float32."""
    rows = [np.ones((2, 3), np.float16), np.ones((1, 3), np.float16)]
    ids = np.asarray(Pad("x", 4)({"x": rows}, DRAW)["x"])
    assert (ids.shape, ids.dtype) == ((2, 4, 3), np.dtype(np.float32))
    with pytest.raises(JobError, match="tokens of shapes"):
        Pad("x", 4)({"x": [np.ones((2, 3)), np.ones((2, 4))]}, DRAW)


def test_too_long_can_be_an_error() -> None:
    """For who would rather filter."""
    with pytest.raises(JobError, match="has 5 tokens and 4 fit"):
        Pad("x", 4, too_long="error")({"x": [np.arange(5)]}, DRAW)
    with pytest.raises(JobError, match="hold no unit of 9"):
        Pad("x", 10, begin=0, end=1, unit=9)
    with pytest.raises(JobError, match="'cut' or 'error'"):
        Pad("x", 10, too_long="drop")


def test_blocks_end_in_separators() -> None:
    """Also blocks of nothing."""
    rows = [np.arange(5, dtype=np.uint16), np.arange(2, dtype=np.uint16)]
    lengths = [np.array([2, 0, 3]), np.array([2])]
    found = SeparateBlocks("x", "n", 99)({"x": rows, "n": lengths}, DRAW)["x"]
    assert [row.tolist() for row in found] == [[0, 1, 99, 99, 2, 3, 4, 99], [0, 1, 99]]
    with pytest.raises(JobError, match="are not its 5 ids"):
        SeparateBlocks("x", "n", 99)({"x": rows, "n": lengths[::-1]}, DRAW)


def test_a_class_comes_first() -> None:
    """As an id behind the codes; of grids and of lists; or a plain id."""
    batch = {"x": np.zeros((2, 2, 2), np.uint8), "label": np.array([3, 5])}
    found = Begin("x", "label", offset=16)(dict(batch), DRAW)["x"]
    assert np.asarray(found).tolist() == [[19, 0, 0, 0, 0], [21, 0, 0, 0, 0]]
    rows = Begin("x", offset=7)({"x": [np.array([1]), np.array([2, 3])]}, DRAW)["x"]
    assert [row.tolist() for row in rows] == [[7, 1], [7, 2, 3]]


def test_sets_are_shuffled_together() -> None:
    """Coordinates and payload keep company; all orders of three come up."""
    coords = np.tile(np.arange(3)[None, :, None], (300, 1, 3))
    payload = coords[..., :1] * 10
    batch = ShuffleSet(("c", "p"))({"c": coords, "p": payload}, Draw(0, 0, 0, 300))
    shown, other = np.asarray(batch["c"]), np.asarray(batch["p"])
    np.testing.assert_array_equal(shown[..., :1] * 10, other)
    np.testing.assert_array_equal(shown[..., 0], batch["c.order"])
    assert len(np.unique(np.asarray(batch["c.order"]), axis=0)) == 6


def test_a_random_part_of_a_set_stacks() -> None:
    """Of sets of other sizes too; too few are refused."""
    rows = [np.arange(5), np.arange(9)]
    batch = ShuffleSet(("x",), keep=4)({"x": rows}, DRAW)
    found = np.asarray(batch["x"])
    assert found.shape == (2, 4)
    assert all(len(set(row)) == 4 for row in found.tolist())
    with pytest.raises(JobError, match="has 5 elements, keep is 6"):
        ShuffleSet(("x",), keep=6)({"x": rows}, DRAW)
    with pytest.raises(JobError, match="different numbers of elements"):
        ShuffleSet(("x", "y"))({"x": rows, "y": rows[::-1]}, DRAW)
    with pytest.raises(JobError, match="cannot shuffle"):
        ShuffleSet(())


def test_points_are_sorted_with_their_payload() -> None:
    """By the first axis, then the others; or along Morton's curve."""
    coords = np.array([[1, 0, 0], [0, 1, 1], [0, 1, 0], [0, 0, 3]], np.uint8)
    ids = np.array([10, 11, 12, 13])
    batch = SortSet("c", ("x",))({"c": [coords], "x": [ids]}, Draw(0, 0, 0, 1))
    assert np.asarray(batch["x"][0]).tolist() == [13, 12, 11, 10]
    cube = np.indices((4, 4, 4)).reshape(3, -1).T
    curve = cube[coord_order(cube, "z_curve")]
    assert curve[:8].max() == 1, "the first octant first"
    assert sorted(map(tuple, curve.tolist())) == sorted(map(tuple, cube.tolist()))


def test_cells_become_coordinates() -> None:
    """Centres inside of the cube, or its ends."""
    cells = np.array([[[0, 63, 32]]], np.uint8)
    found = np.asarray(ScaleCoords("c", 64)({"c": cells}, Draw(0, 0, 0, 1))["c"])
    np.testing.assert_allclose(found, [[[-1 + 1 / 64, 1 - 1 / 64, 1 / 64]]])
    np.testing.assert_allclose(scale_coords(cells, 64, centres=False)[0, 0, :2], [-1, 1])
    with pytest.raises(JobError, match="at least two cells"):
        scale_coords(cells, 1)


def test_points_and_payload_join() -> None:
    """In one vector each; lists stay lists; other numbers are refused."""
    points = [np.zeros((2, 3), np.uint8), np.zeros((4, 3), np.uint8)]
    values = [np.ones((2, 8), np.float16), np.ones((4, 8), np.float16)]
    found: Any = JoinPoints("c", "f", "x")({"c": points, "f": values}, DRAW)["x"]
    assert [row.shape for row in found] == [(2, 11), (4, 11)]
    assert all(row.dtype == np.float32 for row in found)
    assert found[0][0].tolist() == [0, 0, 0, *[1] * 8]
    with pytest.raises(JobError, match="different numbers of points"):
        JoinPoints("c", "f", "x")({"c": points, "f": values[::-1]}, DRAW)
