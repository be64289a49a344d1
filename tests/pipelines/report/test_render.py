from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from tokenmill.decoders.base import Shape
from tokenmill.testing.views3d import box, sphere, torus
from tokenmill.views import open_view
from tokenmill.views.base import ViewKind
from tokenmill_pipelines.report.render import camera_for, render
from tokenmill_pipelines.report.surfaces import of_voxels

Pixels = npt.NDArray[np.uint8]
SIDE = 48


def view_of(kind: str, shape: Shape, **options: Any) -> npt.NDArray[Any]:
    """The data of the one view."""
    (view,) = open_view(kind, options).views(shape, "key")
    data: npt.NDArray[Any] = view.data
    return data


def splat(colour: tuple[float, float, float], *, logit: float = 4.0) -> npt.NDArray[np.float32]:
    """A ball of Gaussians of one colour."""
    rows = np.zeros((2000, 14), np.float32)
    rows[:, :3] = view_of("points", sphere(), count=2000)
    rows[:, 3:6] = (np.array(colour) - 0.5) / 0.28209479
    rows[:, 6], rows[:, 7:10] = logit, math.log(0.05)
    return rows


def ink(pixels: Pixels) -> npt.NDArray[np.bool_]:
    """Where something was drawn: the background is nearly white and hardly coloured."""
    empty = render("points", np.empty((0, 3), np.float32), side=len(pixels))
    drawn: npt.NDArray[np.bool_] = np.abs(pixels.astype(int) - empty).sum(axis=2) > 12
    return drawn


THINGS: tuple[tuple[ViewKind, npt.NDArray[Any]], ...] = (
    ("mesh", view_of("mesh", sphere())),
    ("voxels", view_of("voxels", sphere(), resolution=24)),
    ("points", view_of("points", sphere(), count=3000)),
    ("gaussians", splat((0.2, 0.6, 0.3))),
)


@pytest.mark.parametrize(("kind", "data"), THINGS)
def test_a_ball_looks_like_a_disc(kind: ViewKind, data: npt.NDArray[Any]) -> None:
    """Every kind fills a disc in the middle, leaves the corners empty, and is deterministic."""
    pixels = render(kind, data, side=SIDE)
    assert pixels.shape == (SIDE, SIDE, 3)
    assert pixels.dtype == np.uint8
    assert np.array_equal(pixels, render(kind, data, side=SIDE))
    drawn = ink(pixels)
    y, x = np.mgrid[:SIDE, :SIDE] + 0.5 - SIDE / 2
    away = np.hypot(x, y)
    assert drawn[away < 0.36 * SIDE].mean() > 0.9
    assert not drawn[away > 0.51 * SIDE].any()
    assert np.abs(np.argwhere(drawn).mean(axis=0) - (SIDE - 1) / 2).max() < 1.5


def test_a_torus_has_a_hole_and_lies_flat() -> None:
    """Seen from a little above it is wider than high, and the background shows in its middle."""
    drawn = ink(render("mesh", view_of("mesh", torus(minor=0.25)), side=96))
    height, width = np.ptp(np.argwhere(drawn), axis=0)
    assert width > 1.5 * height
    assert not drawn[47:50, 47:50].any()
    assert drawn[:, 8:20].any()


def test_up_turns_the_picture() -> None:
    """A y-up torus told so looks as the z-up one does, for meshes, voxels and points."""
    upright = torus(minor=0.25)
    for kind, options in (("mesh", {}), ("voxels", {"resolution": 16}), ("points", {})):
        stored = view_of(kind, upright, **options)
        if kind == "voxels":
            lying = np.flip(stored.transpose(0, 2, 1), axis=2)
        else:
            lying = np.stack([stored[..., 0], stored[..., 2], -stored[..., 1]], axis=-1)
        expected = render(kind, stored, side=SIDE).astype(int)  # type: ignore[arg-type]  # a kind
        got = render(kind, lying, side=SIDE, up="y").astype(int)  # type: ignore[arg-type]  # too
        assert np.abs(got - expected).mean() < 0.5


def test_light_comes_from_above() -> None:
    """A box's top is brightest, and its two visible sides differ."""
    pixels = render("mesh", view_of("mesh", box()), side=96).astype(int).sum(axis=2)
    top, left, right = pixels[20, 48], pixels[62, 28], pixels[62, 70]
    assert top > left > right + 30


def test_nearer_things_hide_farther_ones() -> None:
    """A red splat before a green one is all that is seen, in whichever order they are stored."""
    towards_eye = camera_for(np.eye(3)).frame[2]
    red, green = splat((0.9, 0.1, 0.1)), splat((0.1, 0.9, 0.1))
    red[:, :3] = red[:, :3] * 0.5 + 3 * towards_eye
    green[:, :3] *= 0.2
    for rows in (np.vstack([red, green]), np.vstack([green, red])):
        pixels = render("gaussians", rows, side=SIDE).astype(int)
        assert not (pixels[..., 1] > pixels[..., 0] + 60).any()
        assert (pixels[..., 0] > pixels[..., 1] + 60).sum() > 300


def test_clear_splats_are_left_out() -> None:
    """Gaussians of an opacity of a percent do not hide the others' colour."""
    rows = np.vstack([splat((0.1, 0.1, 0.9)), splat((0.9, 0.1, 0.1), logit=-5.0)])
    pixels = render("gaussians", rows, side=SIDE).astype(int)
    assert not (pixels[..., 0] > pixels[..., 2] + 20).any()


def test_a_reconstruction_is_seen_as_its_original_is() -> None:
    """With ``like``, half of a shape stays where it was instead of filling the picture."""
    whole = view_of("mesh", sphere())
    half = whole[whole[:, :, 2].mean(axis=1) > 64]
    framed = ink(render("mesh", half, side=SIDE, like=whole))
    assert framed[: SIDE // 3].any()
    assert not framed[-SIDE // 4 :].any()
    assert not np.array_equal(ink(render("mesh", half, side=SIDE)), framed)


def test_walls_of_voxels_are_the_outer_ones() -> None:
    """A 2 x 2 x 2 block in the corner has 24 walls, all facing outwards; large grids are pooled."""
    grid = np.zeros((4, 4, 4), bool)
    grid[:2, :2, :2] = True
    triangles = of_voxels(grid).triangles
    assert len(triangles) == 48
    normals = np.cross(triangles[:, 1] - triangles[:, 0], triangles[:, 2] - triangles[:, 0])
    assert (((triangles.mean(axis=1) - 1) * normals).sum(axis=1) > 0).all()
    large = np.zeros((200, 200, 200), bool)
    large[:100, :100, :100] = True
    coarse = of_voxels(large).triangles
    assert len(coarse) == 6 * 50 * 50 * 2
    assert (coarse.min(), coarse.max()) == (0, 100)


@pytest.mark.parametrize(
    ("kind", "data"),
    [
        ("mesh", np.empty((0, 3, 3), np.int32)),
        ("mesh", np.zeros((2, 3, 3), np.int32)),
        ("voxels", np.zeros((8, 8, 8), bool)),
        ("gaussians", np.empty((0, 14), np.float32)),
        ("points", np.zeros((1, 3), np.float32)),
        ("mesh", np.array([[[0, 0, 0], [1, 0, 0], [0, 1, 0]]], np.float32)),
    ],
)
def test_next_to_nothing_can_be_drawn(kind: ViewKind, data: npt.NDArray[Any]) -> None:
    """Nothing, one point, one triangle and triangles of no area give a picture and no error."""
    assert render(kind, data, side=16).shape == (16, 16, 3)
    assert render(kind, data, side=16, like=data).shape == (16, 16, 3)


def test_only_3d_is_drawn() -> None:
    """Pictures are shown as they are."""
    with pytest.raises(ValueError, match="kind must be one of voxels, points, mesh, gaussians"):
        render("image", np.zeros((4, 4, 3), np.uint8))
