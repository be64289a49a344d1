from __future__ import annotations

import math
from itertools import permutations, product
from typing import get_args

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from tokenmill.views.normalise import (
    Normalise,
    Up,
    applied,
    axes_between,
    measure,
    parse_axes,
    turned,
    turned_grid,
)
from tokenmill_schemas.errors import AssetError, Reason

Floats = npt.NDArray[np.float64]
RULES: tuple[Normalise, ...] = get_args(Normalise)
AXES = [
    "".join(f"{sign}{axis}" for sign, axis in zip(signs, order, strict=True))
    for order in permutations("xyz")
    for signs in product(("", "-"), repeat=3)
]
clouds = arrays(np.float64, (7, 3), elements=st.floats(-100, 100, width=32)).filter(
    lambda points: float(np.ptp(points, axis=0).max()) > 1e-3
)


def normalised(points: Floats, rule: Normalise, extent: float = 1.0) -> Floats:
    """The points after ``rule``."""
    return applied(points, measure(points, rule), rule, extent)


@given(clouds, st.sampled_from((1.0, 2.0, 1.92)))
def test_each_rule_makes_its_size_the_extent(points: Floats, extent: float) -> None:
    """Longest side, diagonal, diameter and range are the extent afterwards, about the origin."""
    sides = np.ptp(normalised(points, "longest_side", extent), axis=0)
    assert float(sides.max()) == pytest.approx(extent)
    low = normalised(points, "diagonal", extent).min(axis=0)
    assert float(np.linalg.norm(2 * low)) == pytest.approx(extent)
    for rule in ("radius", "centroid_radius"):
        radii = np.linalg.norm(normalised(points, rule, extent), axis=1)
        assert float(radii.max()) == pytest.approx(extent / 2)
    mean = normalised(points, "centroid_radius", extent).mean(axis=0)
    assert np.allclose(mean, 0, atol=1e-9)
    every = normalised(points, "global_range", extent)
    assert float(every.max()) == pytest.approx(extent / 2 - 1e-6, abs=1e-12)
    assert float(every.min()) == pytest.approx(-extent / 2 + 1e-6, abs=1e-12)
    assert np.array_equal(normalised(points, "none", extent), points)


@given(clouds, st.sampled_from([rule for rule in RULES if rule != "none"]))
def test_normalising_forgets_where_and_how_large(points: Floats, rule: Normalise) -> None:
    """A shape that was scaled, and where the rule centres it moved, ends in the same place."""
    shift = 0.0 if rule == "global_range" else np.array([3.0, -5.0, 8.0])
    again = normalised((points + shift) * 4, rule)
    assert np.allclose(again, normalised(points, rule), atol=1e-5)


def test_the_global_range_ignores_that_axes_differ() -> None:
    """ShapeLLM's rule takes one range for all axes: a flat thing lies off the centre."""
    points = np.array([[0.0, 0.0, 0.0], [4.0, 2.0, 1.0]])
    assert np.allclose(normalised(points, "global_range")[1], [0.5, 0.0, -0.25], atol=2e-6)
    assert measure(points, "global_range").center == (2.0, 2.0, 2.0)


@pytest.mark.parametrize(
    ("points", "reason", "text"),
    [
        (np.empty((0, 3)), Reason.NO_GEOMETRY, "no point"),
        (np.full((5, 3), 2.5), Reason.NO_GEOMETRY, "single point"),
        (np.array([[0, 0, 0], [1e-300, 0, 0]]), Reason.NO_GEOMETRY, "single point"),
        (np.array([[0, 0, 0], [1e200, 0, 0]]), Reason.UNSUPPORTED, "beyond"),
    ],
)
@pytest.mark.parametrize("rule", RULES)
def test_what_cannot_be_scaled_is_refused(
    points: Floats, reason: Reason, text: str, rule: Normalise
) -> None:
    """No point, one point, and coordinates whose squares overflow have reasons of their own."""
    with pytest.raises(AssetError, match=text) as caught:
        measure(points, rule)
    assert (caught.value.reason, caught.value.stage) == (reason, "view")


@pytest.mark.parametrize(
    ("source", "target", "axes"),
    [
        *[("y", "z", "x-zy"), ("z", "y", "xz-y"), ("", "z", "xyz"), ("y", "y", "xyz")],
        *[("y", "as_is", "xyz"), ("z", "as_is", "xyz")],
    ],
)
def test_up_axes_are_turned_where_both_are_known(source: str, target: Up, axes: str) -> None:
    """Only a known up axis that is not the wanted one makes a turn."""
    assert axes_between(source, target) == axes


def test_y_up_to_z_up_is_a_quarter_turn_about_x() -> None:
    """Up becomes up, what came towards the viewer (+z) points to -y, and back again."""
    angle = math.pi / 2
    turn = np.array(
        [[1, 0, 0], [0, math.cos(angle), -math.sin(angle)], [0, math.sin(angle), math.cos(angle)]]
    )
    points = np.random.default_rng(0).normal(size=(9, 3))
    assert np.allclose(turned(points, "x-zy"), points @ turn.T)
    assert np.array_equal(turned(turned(points, "x-zy"), "xz-y"), points)


@given(st.sampled_from(AXES))
def test_a_grid_turns_as_its_cells_do(axes: str) -> None:
    """The centre of every occupied cell, turned, is the centre of a cell occupied afterwards."""
    grid = np.random.default_rng(1).random((5, 5, 5)) < 0.3
    places = turned((np.argwhere(grid) + 0.5) / 5 - 0.5, axes)
    cells = np.floor((places + 0.5) * 5).astype(int)
    expected = np.zeros_like(grid)
    expected[tuple(cells.T)] = True
    assert np.array_equal(turned_grid(grid, axes), expected)


@pytest.mark.parametrize("axes", ["", "xy", "xyy", "xyzz", "x--zy", "xyz-", "xyw", "-"])
def test_axes_that_are_none_are_refused(axes: str) -> None:
    """Each axis comes once, with one minus at most."""
    with pytest.raises(ValueError, match="x, y and z once each"):
        parse_axes(axes)
