"""PSNR, overlap, distances of points and of texts: their laws."""

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tokenmill.measures import (
    PSNR_CAP_DB,
    chamfer,
    common_length,
    edit_distance,
    frames_of,
    iou,
    mean_squared_error,
    psnr_db,
    shared_faces,
)

Array = npt.NDArray[Any]
PICTURES = hnp.arrays(np.uint8, (4, 5, 3))
VOLUMES = hnp.arrays(np.bool_, (3, 4, 2))
CLOUDS = hnp.arrays(np.float64, (6, 3), elements=st.integers(-9, 9).map(float))
WORDS = st.text("abc", max_size=8)


@given(PICTURES, PICTURES)
def test_psnr_does_not_tell_the_two_apart(one: Array, other: Array) -> None:
    """It is symmetric, infinite for equal pictures alone, and capped where that is asked."""
    value = psnr_db(one, other)
    assert value == psnr_db(other, one)
    assert math.isinf(value) == np.array_equal(one, other)
    assert psnr_db(one, other, cap_db=PSNR_CAP_DB) == min(value, PSNR_CAP_DB)


@given(st.integers(1, 255), st.integers(0, 255))
def test_psnr_of_a_constant_difference(apart: int, base: int) -> None:
    """All pixels off by d have 20 log10(255 / d)."""
    base = min(base, 255 - apart)
    one = np.full((3, 2, 3), base, np.uint8)
    other = np.full((3, 2, 3), base + apart, np.uint8)
    assert psnr_db(one, other) == pytest.approx(20 * math.log10(255 / apart))


def test_one_value_of_a_large_picture_reaches_the_cap() -> None:
    """What the cap stands for: one value of 256 x 256 x 3 is off by one."""
    one = np.zeros((256, 256, 3), np.uint8)
    other = one.copy()
    other[7, 9, 1] = 1
    assert psnr_db(one, other) > PSNR_CAP_DB > psnr_db(one, other) - 2


def test_shapes_that_differ_are_refused() -> None:
    """Broadcasting would compare what nobody meant."""
    with pytest.raises(ValueError, match="shapes differ"):
        mean_squared_error(np.zeros((2, 3)), np.zeros((1, 3)))
    with pytest.raises(ValueError, match="uint8"):
        frames_of(np.zeros((2, 3), np.uint8))
    assert frames_of(np.zeros((2, 3, 3), np.uint8)).shape == (1, 2, 3, 3)


@given(VOLUMES, VOLUMES)
def test_iou_is_a_share_of_the_union(one: Array, other: Array) -> None:
    """It is symmetric, 1 for equal ones alone, 0 where nothing is shared."""
    value = iou(one, other)
    assert value == iou(other, one)
    assert (value == 1) == np.array_equal(one, other)
    assert (value == 0) == (not (one & other).any() and (one | other).any())


@given(CLOUDS, CLOUDS)
def test_chamfer_is_symmetric_and_zero_for_equal_sets(one: Array, other: Array) -> None:
    """The order of points does not matter; a shift by d of one point is d away."""
    assert chamfer(one, other) == pytest.approx(chamfer(other, one))
    assert chamfer(one, one[::-1]) == 0
    assert chamfer(one[:1], one[:1] + np.array([3.0, 4.0, 0.0])) == pytest.approx(5)


def test_chamfer_in_chunks_and_of_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory is bounded without a change of the value; an empty set has none."""
    rng = np.random.default_rng(0)
    one, other = rng.normal(size=(50, 6)), rng.normal(size=(70, 6))
    whole = chamfer(one, other)
    monkeypatch.setattr("tokenmill.measures.geometry.CHUNK_VALUES", 100)
    assert chamfer(one, other) == pytest.approx(whole, rel=1e-12)
    assert math.isnan(chamfer(one, other[:0]))


def test_faces_are_shared_however_they_are_turned() -> None:
    """The order of corners does not matter, that of faces neither."""
    faces = np.arange(18).reshape(2, 3, 3)
    assert shared_faces(faces, faces[::-1, [1, 2, 0]]) == 1
    assert shared_faces(faces, faces[:1]) == 0.5


@given(WORDS, WORDS, WORDS)
def test_edit_distance_is_a_metric(one: str, other: str, third: str) -> None:
    """Zero for equal texts alone, symmetric, and no way round is shorter."""
    value = edit_distance(one, other)
    assert (value == 0) == (one == other)
    assert value == edit_distance(other, one)
    assert value <= edit_distance(one, third) + edit_distance(third, other)
    assert abs(len(one) - len(other)) <= value <= max(len(one), len(other))


@given(WORDS, WORDS)
def test_common_length_bounds_the_edit_distance(one: str, other: str) -> None:
    """What is common stays; deleting and inserting the rest is one way."""
    common = common_length(one, other)
    assert common == common_length(other, one) <= min(len(one), len(other))
    assert max(len(one), len(other)) - common <= edit_distance(one, other)
    assert edit_distance(one, other) <= len(one) + len(other) - 2 * common


def test_distances_of_words_that_are_in_every_textbook() -> None:
    """Three edits from kitten to sitting, which share i, t, t, n."""
    assert edit_distance("kitten", "sitting") == 3
    assert common_length("kitten", "sitting") == 4
