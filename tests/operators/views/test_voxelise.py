from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from fractions import Fraction
from itertools import permutations
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from tokenmill.testing.views3d import sphere, torus
from tokenmill.views import voxelise
from tokenmill.views.draws import Draws
from tokenmill.views.sampling import surface_samples
from tokenmill.views.voxelise import expanded, filled, point_voxels, surface_voxels

SIDE = 4
Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
#: Corners on eighths of a cell, many of them on the cells' borders and some off the grid.
corner_steps = st.one_of(st.integers(-1, SIDE + 1).map(lambda k: 8 * k), st.integers(-9, 41))
triangles = arrays(np.int64, (3, 3), elements=corner_steps).map(lambda steps: steps / 8)
soups = st.lists(triangles, min_size=1, max_size=3).map(np.array)


def voxels_of(soup: Floats, side: int = SIDE) -> Bools:
    """The cells of triangles ``[F, 3, 3]``."""
    faces = np.arange(3 * len(soup), dtype=np.int64).reshape(-1, 3)
    return surface_voxels(soup.reshape(-1, 3).astype(np.float64), faces, side)


def brute_force(soup: Floats, side: int = SIDE) -> Bools:
    """The same by clipping each triangle to each cell, in rational numbers."""
    grid = np.zeros((side, side, side), bool)
    for triangle in soup:
        polygon = [[Fraction(float(value)) for value in corner] for corner in triangle]
        low, high = triangle.min(axis=0), triangle.max(axis=0)
        for cell in np.ndindex(grid.shape):
            if (low <= np.array(cell) + 1).all() and (high >= cell).all():
                grid[cell] |= clipped(polygon, cell)
    return grid


def clipped(polygon: list[list[Fraction]], cell: tuple[int, ...]) -> bool:
    """Whether anything is left of a polygon in a closed cell (Sutherland and Hodgman, 1974)."""
    for axis in range(3):
        for sign, bound in ((1, cell[axis]), (-1, -cell[axis] - 1)):
            polygon = half(polygon, axis, sign, Fraction(bound))
            if not polygon:
                return False
    return True


def half(
    polygon: list[list[Fraction]], axis: int, sign: int, bound: Fraction
) -> list[list[Fraction]]:
    """The part of a polygon where ``sign * x[axis] >= bound``."""
    kept = []
    for here, there in zip(polygon, [*polygon[1:], polygon[0]], strict=True):
        a, b = sign * here[axis] - bound, sign * there[axis] - bound
        if a >= 0:
            kept.append(here)
        if a * b < 0:
            share = a / (a - b)
            kept.append([p + share * (q - p) for p, q in zip(here, there, strict=True)])
    return kept


@given(soups)
@settings(max_examples=120, deadline=None)
def test_exactly_the_cells_that_triangles_meet(soup: Floats) -> None:
    """Touching counts, on borders and corners too, and lines and points are triangles as well."""
    assert np.array_equal(voxels_of(soup), brute_force(soup))


@given(st.integers(0, 2**32), st.integers(1, 12))
@settings(max_examples=60, deadline=None)
def test_neither_order_nor_winding_nor_repeats_matter(seed: int, count: int) -> None:
    """For any floats, to the last cell: faces and corners shuffled, reversed and repeated."""
    rng = np.random.default_rng(seed)
    soup = rng.uniform(-2, 14, (count, 3, 3))
    mixed = np.concatenate([soup, soup[: count // 2]])
    mixed = np.stack([triangle[rng.permutation(3)] for triangle in mixed])
    assert np.array_equal(voxels_of(soup, 12), voxels_of(rng.permutation(mixed), 12))


@given(soups, arrays(np.int64, 3, elements=st.integers(-2, 2)))
@settings(max_examples=60, deadline=None)
def test_a_shift_by_whole_cells_shifts_the_grid(soup: Floats, shift: npt.NDArray[Any]) -> None:
    """In a larger grid, moved triangles occupy moved cells."""
    here, there = voxels_of(soup + 4, 12), voxels_of(soup + 4 + shift, 12)
    assert np.array_equal(np.roll(here, tuple(shift), axis=(0, 1, 2)), there)


@given(soups, st.permutations(range(3)), st.integers(0, 2))
@settings(max_examples=60, deadline=None)
def test_no_axis_is_special(soup: Floats, order: list[int], flipped: int) -> None:
    """Axes that change places or are mirrored do so in the grid."""
    assert np.array_equal(voxels_of(soup[..., order]), voxels_of(soup).transpose(order))
    mirror = soup.copy()
    mirror[..., flipped] = SIDE - mirror[..., flipped]
    assert np.array_equal(voxels_of(mirror), np.flip(voxels_of(soup), flipped))


@given(triangles)
@settings(max_examples=60, deadline=None)
def test_a_cut_triangle_occupies_what_it_did(triangle: Floats) -> None:
    """Two halves together meet the cells of the whole."""
    a, b, c = triangle
    middle = (a + b) / 2
    halves = np.array([[a, middle, c], [middle, b, c]])
    assert np.array_equal(voxels_of(triangle[None]), voxels_of(halves))


@given(st.lists(st.integers(0, 9), max_size=8), st.integers(1, 7))
def test_expansion_is_a_plain_double_loop_in_pieces(counts: list[int], limit: int) -> None:
    """Every offset of every owner comes once, in order, at most ``limit`` together."""
    pieces = list(expanded(np.array(counts, np.int64), limit))
    assert all(0 < len(owner) <= limit for owner, _ in pieces)
    pairs = [pair for owner, offset in pieces for pair in zip(owner, offset, strict=True)]
    assert pairs == [(i, k) for i, count in enumerate(counts) for k in range(count)]


def test_pieces_of_work_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut into seven cells at a time, even inside a triangle, the grid is the same."""
    shape = torus()
    cells = (shape.vertices + 1.5) * 5
    whole = surface_voxels(cells, shape.faces, 15)
    monkeypatch.setattr(voxelise, "_TRIANGLES", 5)
    monkeypatch.setattr(voxelise.expanded, "__defaults__", (7,))
    assert np.array_equal(surface_voxels(cells, shape.faces, 15), whole)


def test_a_triangle_as_large_as_the_grid_needs_little_memory() -> None:
    """A slanted triangle through 192^3 cells: the grid of 7 MB, and bounded work beside it."""
    vertices = np.array([[0.5, 3.0, 1.0], [190.0, 20.0, 150.0], [80.0, 191.5, 40.0]])
    tracemalloc.start()
    grid = surface_voxels(vertices, np.array([[0, 1, 2]]), 192)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert grid.sum() > 20_000
    assert peak < 80 * 2**20


@pytest.mark.parametrize("make", [sphere, torus])
def test_no_point_of_a_surface_lies_in_an_empty_cell(make: Callable[[], Any]) -> None:
    """Conservative means that 20,000 random points of the surface are all in occupied cells."""
    shape = make()
    cells = (shape.vertices + 1.5) * (37 / 3)
    grid = surface_voxels(cells, shape.faces, 37)
    points, _ = surface_samples(cells, shape.faces, 20_000, Draws(0, "k"))
    i, j, k = np.floor(points).astype(int).T
    assert grid[i, j, k].all()
    assert grid.mean() < 0.15


def test_a_closed_surface_closes_off_its_inside() -> None:
    """Solid is the ball: every cell well inside, none well outside, and the hull is the surface."""
    shape = sphere(24, radius=14.0)
    surface = surface_voxels(shape.vertices + 16, shape.faces, 32)
    solid = filled(surface)
    away = np.linalg.norm(np.argwhere(np.ones_like(solid)) + 0.5 - 16, axis=1).reshape(solid.shape)
    assert solid[away < 13].all()
    assert not solid[away > 15].any()
    assert not surface[away < 12.5].any()
    assert np.array_equal(solid & surface, surface)
    assert np.array_equal(filled(solid), solid)
    radius = (float(solid.sum()) * 3 / (4 * np.pi)) ** (1 / 3)
    assert 14 < radius < 14 + 3**0.5 / 2


def test_an_open_surface_holds_nothing() -> None:
    """One hole as wide as a cell lets the outside in."""
    surface = np.zeros((9, 9, 9), bool)
    surface[2:7, 2:7, 2:7] = True
    surface[3:6, 3:6, 3:6] = False
    assert filled(surface).sum() == 125
    surface[4, 4, 2] = False
    assert np.array_equal(filled(surface), surface)
    edge = np.ones((3, 3, 3), bool)
    edge[1, 1, 1] = False
    assert filled(edge).all()


@given(arrays(np.float64, (20, 3), elements=st.floats(-1, 9)))
def test_points_occupy_the_cells_that_they_are_in(points: Floats) -> None:
    """Those on the far border are in the last cell, those outside in none."""
    grid = point_voxels(points, 8)
    expected = np.zeros_like(grid)
    for x, y, z in points:
        if min(x, y, z) >= 0 and max(x, y, z) <= 8:
            expected[min(int(x), 7), min(int(y), 7), min(int(z), 7)] = True
    assert np.array_equal(grid, expected)


def test_what_lies_outside_is_cut_off() -> None:
    """A triangle far beyond all sides fills one layer; one that misses the grid fills nothing."""
    wide = np.array([[[-1e9, -1e9, 2.5], [1e9, -1e9, 2.5], [0.0, 2e9, 2.5]]])
    for order in permutations(range(3)):
        assert voxels_of(wide[..., order]).sum() == SIDE**2
    assert not voxels_of(wide + np.array([0, 0, 10])).any()
