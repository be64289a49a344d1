from __future__ import annotations

import math
import pickle
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenmill.decoders.base import Shape
from tokenmill.decoders.ply import splat_names
from tokenmill.testing.checks import require_identity
from tokenmill.testing.shapes import box, splat, splat_values
from tokenmill.views import open_view
from tokenmill.views.base import ViewOf
from tokenmill.views.gaussians import Gaussians, Layout, with_degree
from tokenmill_schemas.errors import AssetError, JobError, Reason

Rows = npt.NDArray[np.float32]


def viewed(shape: Shape, **options: object) -> ViewOf:
    """The one view of a splat."""
    (view,) = list(open_view("gaussians", options).views(shape, "key"))
    assert isinstance(view, ViewOf)
    return view


def refused(shape: Shape, **options: object) -> Reason:
    """Why a shape has no view."""
    with pytest.raises(AssetError) as caught:
        viewed(shape, **options)
    assert caught.value.stage == "view"
    return caught.value.reason


def test_the_contract_holds() -> None:
    """It pickles, has a JSON identity, owns its data, and its coordinates are its columns."""
    view = open_view("gaussians", {"degree": 1})
    require_identity(view)
    assert pickle.loads(pickle.dumps(view)) == view
    assert (view.gives, view.modalities, view.shape) == ("gaussians", ("shape",), (None,))
    shape = splat(30, 1)
    attributes = np.array(shape.attributes)
    (first,), (second,) = list(view.views(shape, "a")), list(view.views(shape, "b"))
    assert np.array_equal(first.data, second.data)
    assert first.coordinates == second.coordinates
    assert np.array_equal(attributes, np.array(shape.attributes))
    assert (first.data.dtype, first.data.shape) == (np.dtype(np.float32), (30, 23))
    pa.Table.from_pylist([first.coordinates], schema=view.columns()).validate(full=True)
    assert list(first.coordinates) == view.columns().names
    assert first.coordinates["view.name"] == "longest_side"


@pytest.mark.parametrize("degree", range(4))
def test_the_layout_names_every_column(degree: int) -> None:
    """The slices follow one another over all columns, and hold what their names say."""
    layout = Layout(degree)
    parts = [
        *(layout.position, layout.colour, layout.rest),
        *(layout.opacity, layout.scale, layout.rotation),
    ]
    assert [part.start for part in parts[1:]] == [part.stop for part in parts[:-1]]
    assert (parts[0].start, parts[-1].stop) == (0, layout.channels)
    assert len(layout.names) == layout.channels == (14, 23, 38, 59)[degree]
    assert layout.names[layout.scale] == ("scale_0", "scale_1", "scale_2")
    assert layout.names[layout.rotation] == ("rot_0", "rot_1", "rot_2", "rot_3")
    assert layout.names[layout.opacity] == ("opacity",)
    assert layout.names[layout.colour] == ("f_dc_0", "f_dc_1", "f_dc_2")


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 3), st.sampled_from(["longest_side", "diagonal", "none"]), st.floats(0.1, 9))
def test_positions_and_scales_are_scaled_together(degree: int, rule: str, extent: float) -> None:
    """The coordinates' law gives the positions, and a Gaussian's size in its splat stays."""
    values, layout = splat_values(40, degree), Layout(degree)
    view = viewed(splat(40, degree), degree=degree, normalise=rule, extent=extent)
    center, scale = np.array(view.coordinates["view.center"]), view.coordinates["view.scale"]
    expected = (values[:, :3].astype(np.float64) - center) * scale
    assert view.data[:, layout.position] == pytest.approx(expected, abs=1e-5 * max(1, scale))
    sizes = np.exp(values[:, layout.scale].astype(np.float64)) * scale
    assert np.exp(view.data[:, layout.scale].astype(np.float64)) == pytest.approx(sizes, rel=1e-5)
    sides = np.ptp(view.data[:, :3], axis=0)
    size = {"longest_side": sides.max(), "diagonal": math.hypot(*sides), "none": extent}[rule]
    assert size == pytest.approx(extent, rel=1e-5)
    for part in (layout.colour, layout.rest, layout.opacity):
        assert np.array_equal(view.data[:, part], values[:, part])


def test_rotations_become_unit_quaternions_of_one_sign() -> None:
    """They turn as they did, have length 1, and w is not negative."""
    values = splat_values(200)
    rotations = viewed(splat(200)).data[:, Layout(0).rotation]
    assert np.linalg.norm(rotations, axis=1) == pytest.approx(np.ones(200), abs=1e-6)
    assert (rotations[:, 0] >= 0).all()
    given_ones = values[:, -4:] / np.linalg.norm(values[:, -4:], axis=1, keepdims=True)
    assert np.abs((rotations * given_ones).sum(axis=1)) == pytest.approx(np.ones(200), abs=1e-6)
    assert (values[:, -4] < 0).any()


@pytest.mark.parametrize("have", range(4))
@pytest.mark.parametrize("want", range(4))
def test_harmonics_of_another_degree(have: int, want: int) -> None:
    """Coefficients stay with their colour; higher ones go, missing ones are zeros."""
    rows = splat_values(7, have)[:, 3:]
    changed = with_degree(rows, want)
    assert changed.shape == (7, len(splat_names(want)))
    counts = [(degree + 1) ** 2 - 1 for degree in (have, want)]
    for colour in range(3):
        for i in range(counts[1]):
            found = changed[:, 3 + colour * counts[1] + i]
            known = i < counts[0]
            expected = rows[:, 3 + colour * counts[0] + i] if known else np.zeros(7)
            assert np.array_equal(found, expected)
    assert np.array_equal(changed[:, :3], rows[:, :3])
    assert np.array_equal(changed[:, -8:], rows[:, -8:])


def test_what_floats_outside_or_is_transparent_is_dropped() -> None:
    """Shares are counted on each axis among those opaque enough; the rest fills the extent."""
    values = splat_values(1000)
    values[:5, :3] += 1e6
    shape = replace(splat(1000), vertices=values[:, :3].astype(np.float64))
    view = viewed(shape, inside=0.98)
    low, high = np.sort(values[:, :3], axis=0)[[10, 989]]
    kept = ((values[:, :3] >= low) & (values[:, :3] <= high)).all(axis=1)
    assert len(view.data) == kept.sum() > 900
    assert np.array_equal(view.data[:, 3:7], values[kept][:, 3:7])
    assert np.ptp(view.data[:, :3], axis=0).max() == pytest.approx(1)
    opaque = viewed(splat(1000), min_opacity=0.5).data
    assert len(opaque) == (values[:, 6] >= 0).sum()
    assert (opaque[:, 6] >= 0).all()


def test_what_has_no_view() -> None:
    """Meshes, too few or too many Gaussians, a single place, a rotation of no length."""
    assert refused(box().shape()) is Reason.OTHER_CONTENT
    assert refused(splat(10), min_count=11) is Reason.TOO_SMALL
    assert refused(splat(10), max_count=9) is Reason.TOO_MANY_POINTS
    assert len(viewed(splat(10), min_count=10, max_count=10).data) == 10
    assert refused(splat(10), min_opacity=0.999999999) is Reason.TOO_SMALL
    one = splat(3)
    assert refused(replace(one, vertices=np.ones((3, 3)))) is Reason.NO_GEOMETRY
    attributes = np.array(one.attributes)
    attributes[1, -4:] = 0
    assert refused(replace(one, attributes=attributes)) is Reason.CORRUPT


@pytest.mark.parametrize(
    "options",
    [
        {"degree": 4}, {"extent": 0.0}, {"inside": 0.0}, {"min_opacity": 1.0},
        {"min_count": 5, "max_count": 4}, {"normalise": "radius"},
    ],
)  # fmt: skip
def test_options_are_checked(options: dict[str, object]) -> None:
    """A value that makes no view is refused when the job is read."""
    with pytest.raises(JobError):
        open_view("gaussians", options)


def test_defaults_are_the_cheap_ones() -> None:
    """Constant colours in a unit cube."""
    assert (Gaussians().degree, Gaussians().extent) == (0, 1.0)
