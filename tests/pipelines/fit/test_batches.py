"""Batches: functions of seed and step; shares, cuts and turns keep what they promise."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.pipelines.fit.conftest import ball, part, picture

from tokenmill_pipelines.fit.batches import (
    Batches,
    Kind,
    clip_cut,
    moved_cut,
    picture_cut,
    recoloured,
    resized,
    scale_of,
    turned,
    volume_cut,
)
from tokenmill_pipelines.fit.config import BatchConfig

SMALL = BatchConfig(size=4, side=16, frames=5, short_side=(16, 40))
CLIP = np.stack([picture(number, 24)[:, :24] for number in range(7)])
MEDIA: dict[str, list[Any]] = {
    "image": [picture(number) for number in range(3)],
    "clip": [CLIP, picture(1)],
    "voxels": [ball(number) for number in range(3)],
}
SHAPES = {"image": (16, 16, 3), "clip": (5, 16, 16, 3), "voxels": (16, 16, 16)}
seeds = st.integers(0, 2**32 - 1)


def rng_of(seed: int) -> np.random.Generator:
    """Random numbers of a seed."""
    return np.random.Generator(np.random.Philox(key=seed))


@pytest.mark.parametrize("kind", ["image", "clip", "voxels"])
def test_a_step_is_a_function_of_seed_and_step(kind: Kind) -> None:
    """Made anew and in any order it is the same; other steps and seeds are others."""
    batches = Batches(kind, (part("p", MEDIA[kind]),), (1.0,), SMALL, seed=3)
    later, first = batches.at(7), batches.at(0)
    again = Batches(kind, (part("p", MEDIA[kind]),), (1.0,), SMALL, seed=3)
    assert np.array_equal(again.at(0), first)
    assert np.array_equal(again.at(7), later)
    assert first.shape == (4, *SHAPES[kind])
    assert not np.array_equal(first, later)
    assert not np.array_equal(replace(batches, seed=4).at(0), first)


@given(st.lists(st.integers(1, 9), min_size=1, max_size=4), st.integers(1, 12), seeds)
@settings(max_examples=40, deadline=None)
def test_parts_have_their_share_of_every_batch(shares: list[int], size: int, seed: int) -> None:
    """To within one sample, in every step and not on the average only."""
    parts = tuple(part(str(n), [np.full((8,) * 3, n, bool)]) for n in range(len(shares)))
    marked = [replace(p, views=(np.full((2, 2, 2), n, np.uint8),)) for n, p in enumerate(parts)]
    portions = tuple(share / sum(shares) for share in shares)
    config = replace(SMALL, size=size)
    batch = Batches("voxels", tuple(marked), portions, config, seed=seed).at(seed % 5)
    counts = np.bincount(batch[:, 0, 0, 0].astype(int), minlength=len(shares))
    assert counts.sum() == size
    assert all(abs(c - size * p) < 1 + 1e-9 for c, p in zip(counts, portions, strict=True))


def test_some_clips_are_of_two_scenes() -> None:
    """Of a tenth of them, half show another film after one of their frames; none goes back."""
    films = [np.full((9, 24, 24, 3), value, np.uint8) for value in (0, 200)]
    batches = Batches("clip", (part("p", films),), (1.0,), replace(SMALL, recoloured=0.0), seed=0)
    clips = np.concatenate([batches.at(step)[:, :, 0, 0, 0] for step in range(200)])
    changes = (np.diff(clips.astype(int), axis=1) != 0).sum(1)
    assert set(changes.tolist()) == {0, 1}
    assert 0.02 < changes.mean() < 0.09


@given(seeds, st.integers(4, 24))
@settings(max_examples=30, deadline=None)
def test_a_turned_volume_has_as_many_cells(seed: int, side: int) -> None:
    """In the same number of rows, planes and cells; turns are of one cube."""
    volume = ball(seed % 7, side)
    found = turned(volume, rng_of(seed))
    assert found.shape == volume.shape
    assert found.sum() == volume.sum()
    profile = sorted(sorted(volume.sum(axis=axes).tolist()) for axes in ((0, 1), (0, 2), (1, 2)))
    turned_profile = (sorted(found.sum(axis=axes).tolist()) for axes in ((0, 1), (0, 2), (1, 2)))
    assert sorted(turned_profile) == profile


@given(st.integers(1, 12), st.integers(1, 12), seeds)
@settings(max_examples=60, deadline=None)
def test_a_cut_of_a_volume_shows_something_of_it(length: int, side: int, seed: int) -> None:
    """A place inside it, with an occupied cell if there is one; small volumes stay whole."""
    rng = rng_of(seed)
    numbered = np.arange(1, length**3 + 1).reshape(length, length, length)
    volume = numbered * (rng.random(numbered.shape) < rng.choice([0, 0.01, 0.5]))
    found = volume_cut(volume, side, rng)
    assert found.shape == (min(length, side),) * 3
    assert found.any() == volume.any()
    inside = found[found > 0]
    if len(inside):  # all numbers lie as they do in the whole
        cell = np.array(np.unravel_index(inside[0] - 1, volume.shape))
        corner = cell - np.argwhere(found == inside[0])[0]
        place = tuple(slice(low, low + len(found)) for low in corner)
        assert np.array_equal(volume[place], found)


def test_all_positions_of_a_cube_occur() -> None:
    """48 of them, each about as often as the next."""
    volume = np.zeros((3, 3, 3), bool)
    volume[0, 0, 0] = volume[1, 0, 0] = volume[1, 1, 0] = True
    rng = rng_of(0)
    found = {turned(volume, rng).tobytes() for _ in range(1000)}
    assert len(found) == 48


@given(st.integers(8, 200), st.integers(8, 200), seeds)
@settings(deadline=None)
def test_a_cut_is_no_larger_than_its_picture_and_enlarges_small_ones_only(
    height: int, width: int, seed: int
) -> None:
    """As much is shown as of a picture whose shorter side is in the job's range."""
    scale = scale_of((height, width), SMALL, rng_of(seed))
    short = min(height, width)
    assert SMALL.side * scale <= short + 1e-9
    assert scale >= 1 or short < SMALL.side
    if short >= SMALL.short_side[1]:
        low, high = SMALL.short_side
        assert low - 1e-6 <= short / scale <= high + 1e-6


@given(st.integers(12, 60), st.integers(12, 60), seeds)
@settings(max_examples=40, deadline=None)
def test_cuts_show_nothing_from_outside_the_picture(height: int, width: int, seed: int) -> None:
    """A picture of one colour gives cuts of that colour, to the border; so do clips and cameras."""
    colour = np.array([200, 10, 90], np.uint8)
    flat = np.broadcast_to(colour, (height, width, 3)).copy()
    film = np.broadcast_to(colour, (3, height, width, 3)).copy()
    for found in (
        picture_cut(flat, SMALL, rng_of(seed)),
        moved_cut(flat, SMALL, rng_of(seed)),
        clip_cut(film, SMALL, rng_of(seed)),
    ):
        assert found.shape[-3:] == (16, 16, 3)
        assert (found == colour).all()


@given(seeds)
@settings(max_examples=20, deadline=None)
def test_a_resized_box_is_the_same_as_that_of_the_whole_picture(seed: int) -> None:
    """Only pixels about the box are looked at, and it does not show."""
    from PIL import Image

    rng = rng_of(seed)
    whole = picture(seed % 11, 90)
    reach = float(rng.uniform(20, 80))
    left, top = rng.uniform(0, 90 - reach, 2)
    box = (left, top, left + reach, top + reach)
    wanted = np.asarray(
        Image.fromarray(whole).resize((16, 16), Image.Resampling.BICUBIC, box=box), np.int16
    )
    assert np.abs(resized(whole, box, 16).astype(np.int16) - wanted).max() <= 1


def test_a_short_film_ends_with_its_last_frame_and_paces_leave_frames_out() -> None:
    """Frames go forward evenly."""
    film = np.stack([np.full((20, 20, 3), 10 * n, np.uint8) for n in range(6)])
    even = replace(SMALL, paces=(1,))
    firsts = {int(clip_cut(film, even, rng_of(seed))[0, 0, 0, 0]) for seed in range(30)}
    assert firsts == {0, 10}
    long = clip_cut(film, replace(SMALL, paces=(2,)), rng_of(1))
    assert long[:, 0, 0, 0].tolist() == [0, 20, 40, 50, 50]


def test_a_camera_stands_still_or_moves() -> None:
    """Both occur."""
    stills = 0
    for seed in range(40):
        clip = moved_cut(picture(2, 90), SMALL, rng_of(seed))
        stills += bool((clip == clip[:1]).all())
    assert 2 < stills < 30


@given(seeds)
@settings(max_examples=20, deadline=None)
def test_recolouring_keeps_shapes_and_the_order_of_light(seed: int) -> None:
    """Within a channel what was lighter stays so."""
    ramp = np.repeat(np.arange(0, 256, 5, dtype=np.uint8)[None, :, None], 3, 2)
    found = recoloured(ramp, rng_of(seed))
    assert found.shape == ramp.shape
    assert found.dtype == np.uint8
    assert (np.diff(found.astype(int), axis=1) >= 0).all()
