from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from tokenmill.testing.views3d import box, torus
from tokenmill.views import sampling
from tokenmill.views.draws import Draws
from tokenmill.views.sampling import double_areas, face_normals, farthest_points, surface_samples

Floats = npt.NDArray[np.float64]
#: Coordinates on a small lattice, so that equal distances abound.
lattices = arrays(np.float64, st.tuples(st.integers(1, 12), st.just(3)), elements=st.integers(0, 3))


def test_uniforms_are_the_single_draws() -> None:
    """A vector of draws takes the same words as so many single ones."""
    single, many = Draws(3, "a"), Draws(3, "a")
    expected = [single.uniform(0, 1) for _ in range(9)]
    assert np.array_equal(many.uniforms(9), expected)
    assert many.below(1000) == single.below(1000)


@given(st.integers(0, 60), st.integers(0, 60), st.integers(0, 9))
def test_a_subset_is_distinct_and_grows_at_its_end(count: int, more: int, seed: int) -> None:
    """Integers differ, lie below the stop, and the first ones do not depend on how many follow."""
    stop = count + more
    drawn = Draws(seed, "k").subset(count, stop)
    assert len(set(drawn.tolist())) == count
    assert not count or (drawn.min() >= 0 and drawn.max() < stop)
    assert np.array_equal(Draws(seed, "k").subset(stop, stop)[:count], drawn)


def test_subsets_are_fair_and_refuse_too_many() -> None:
    """Over 3,000 pairs out of five, each of the twenty ordered pairs comes about as often."""
    draws = Draws(0, "fair")
    pairs = [tuple(draws.subset(2, 5).tolist()) for _ in range(3000)]
    counts = [pairs.count((a, b)) for a in range(5) for b in range(5) if a != b]
    assert sum(counts) == 3000
    assert 100 < min(counts) <= max(counts) < 200
    with pytest.raises(ValueError, match="6 distinct integers below 5"):
        draws.subset(6, 5)


def test_samples_lie_in_their_faces() -> None:
    """Barycentric coordinates are all in [0, 1], to rounding."""
    shape = torus()
    points, found = surface_samples(shape.vertices, shape.faces, 500, Draws(1, "k"))
    a, b, c = (shape.vertices[shape.faces[found, corner]] for corner in range(3))
    basis = np.stack([b - a, c - a], axis=2)
    for point, origin, sides in zip(points, a, basis, strict=True):
        weights, rest = np.linalg.lstsq(sides, point - origin, rcond=None)[:2]
        assert (weights >= -1e-9).all()
        assert weights.sum() <= 1 + 1e-9
        assert not rest.size or rest[0] < 1e-18


def test_samples_are_uniform_in_area() -> None:
    """Of a box of 1 x 2 x 3, each side gets its share, and a side's means are its middle."""
    shape = box((1, 2, 3))
    points, found = surface_samples(shape.vertices, shape.faces, 40_000, Draws(0, "k"))
    shares = np.bincount(found, minlength=12) / 40_000
    assert np.allclose(shares, double_areas(shape.vertices, shape.faces) / 44, atol=0.01)
    assert np.allclose(points.mean(axis=0), [0.5, 1.0, 1.5], atol=0.02)
    top = points[points[:, 2] == 3]
    assert np.allclose(top.mean(axis=0), [0.5, 1.0, 3], atol=0.03)
    assert np.allclose(np.cov(top[:, :2].T), np.diag([1 / 12, 4 / 12]), atol=0.02)


def test_more_samples_leave_the_first_alone_and_seeds_change_all() -> None:
    """A longer sample begins with the shorter; another key or seed shares no point."""
    shape = torus()

    def points(count: int, seed: int, key: str) -> Floats:
        return surface_samples(shape.vertices, shape.faces, count, Draws(seed, key))[0]

    assert np.array_equal(points(50, 0, "a")[:20], points(20, 0, "a"))
    for seed, key in ((1, "a"), (0, "b")):
        assert not (points(20, 0, "a") == points(20, seed, key)).any()


def test_samples_are_frozen() -> None:
    """These very points come out on every machine and numpy."""
    points, found = surface_samples(box().vertices, box().faces, 3, Draws(7, "frozen"))
    assert found.tolist() == FROZEN_FACES
    assert points.tolist() == FROZEN_POINTS


FROZEN_FACES = [7, 6, 3]
FROZEN_POINTS = [
    [0.7736599795219512, 1.0, 0.24186907657381074],
    [0.14911460373580365, 1.0, 0.33064246121981045],
    [1.0, 0.6947694699747702, 0.8092768982678596],
]


def test_faces_of_no_area_get_no_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not at the start, in the middle or at the end; areas may be taken in any pieces."""
    vertices = np.array([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [2, 0, 0]])
    flat, good = [0, 1, 3], [0, 1, 2]
    faces = np.array([flat, good, flat, good, flat])
    monkeypatch.setattr(sampling, "_FACES", 2)
    found = surface_samples(vertices, faces, 200, Draws(0, "k"))[1]
    assert set(found.tolist()) == {1, 3}
    with pytest.raises(ValueError, match="no face has an area"):
        surface_samples(vertices, np.array([flat]), 5, Draws(0, "k"))
    assert np.array_equal(face_normals(vertices, faces), [[0, 0, 0], [0, 0, 1]] * 2 + [[0, 0, 0]])


def slow_farthest(points: Floats, count: int) -> list[int]:
    """Farthest-point sampling as it is defined."""
    taken = [0]
    while len(taken) < count:
        away = [min(sum((p - points[t]) ** 2) for t in taken) for p in points]
        free = [(-d, i) for i, d in enumerate(away) if i not in taken]
        taken.append(min(free)[1])
    return taken


@given(lattices, st.data())
@settings(max_examples=60, deadline=None)
def test_farthest_points_are_by_definition(points: Floats, data: st.DataObject) -> None:
    """Ties go to the lowest index, equal points come once each, and prefixes agree."""
    count = data.draw(st.integers(1, len(points)))
    taken = farthest_points(points, count)
    assert taken.tolist() == slow_farthest(points, count)
    assert np.array_equal(farthest_points(points.astype(np.float32), count), taken)
    assert np.array_equal(farthest_points(points, len(points))[:count], taken)


def test_farthest_points_pass_over_the_ineligible() -> None:
    """What is not eligible is never taken, unless it is the start."""
    points = np.arange(12.0).reshape(4, 3)
    eligible = np.array([False, True, True, False])
    assert farthest_points(points, 3, eligible=eligible).tolist() == [0, 2, 1]
    assert farthest_points(points, 2, start=2).tolist() == [2, 0]


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"count": 5}, "from 1 to 4 points, got 5"),
        ({"count": 0}, "got 0"),
        ({"count": 1, "start": 4}, "start must be one of 4"),
        ({"count": 2, "eligible": np.zeros(4, bool)}, "from 1 to 1"),
    ],
)
def test_farthest_points_refuse_the_impossible(options: dict[str, Any], text: str) -> None:
    """Too many, none, or a start that is not there."""
    count = options.pop("count")
    with pytest.raises(ValueError, match=text):
        farthest_points(np.arange(12.0).reshape(4, 3), count, **options)
