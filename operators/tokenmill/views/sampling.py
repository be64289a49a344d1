"""Points on surfaces and far from each other: seeded, and the same on every machine.

Only elementwise float64 arithmetic, running sums and comparisons are used, whose results IEEE 754
fixes; numpy's own distributions and reductions may change from release to release.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from tokenmill.views.draws import Draws

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

#: Faces whose areas are computed together.
_FACES = 1 << 20


def face_vectors(vertices: Floats, faces: Ints) -> Floats:
    """Return ``float64[F, 3]``: along each face's normal, as long as twice its area."""
    a, b, c = (vertices[faces[:, corner]] for corner in range(3))
    u, v = b - a, c - a
    return np.stack(
        [
            u[:, 1] * v[:, 2] - u[:, 2] * v[:, 1],
            u[:, 2] * v[:, 0] - u[:, 0] * v[:, 2],
            u[:, 0] * v[:, 1] - u[:, 1] * v[:, 0],
        ],
        axis=1,
    )


def lengths(vectors: Floats) -> Floats:
    """Return ``float64[N]``, the lengths of ``float64[N, 3]``."""
    squares = vectors[:, 0] ** 2 + vectors[:, 1] ** 2 + vectors[:, 2] ** 2
    return np.asarray(np.sqrt(squares), np.float64)


def double_areas(vertices: Floats, faces: Ints) -> Floats:
    """Return ``float64[F]``, twice the area of each face, in bounded memory."""
    pieces = range(0, len(faces), _FACES)
    return np.concatenate(
        [lengths(face_vectors(vertices, faces[start : start + _FACES])) for start in pieces]
    )


def surface_samples(vertices: Floats, faces: Ints, count: int, draws: Draws) -> tuple[Floats, Ints]:
    """Return ``count`` points uniform on the surface, and the face of each.

    A face is found by inverting the running sum of areas; the point in it is a corner plus two
    edges times two uniforms, folded back across the diagonal (Osada et al., "Shape Distributions",
    2002, use a square root in its place). Point k takes words 3k to 3k + 2: the first points stay
    the same when ``count`` grows.

    Returns:
        ``float64[N, 3]`` and ``int64[N]``.

    Raises:
        ValueError: no face has an area.
    """
    below = np.cumsum(double_areas(vertices, faces))
    total = float(below[-1])
    if not total > 0:
        raise ValueError("no face has an area")
    uniform = draws.uniforms(3 * count).reshape(count, 3)
    last = int(np.searchsorted(below, total, side="left"))  # later faces have no area
    found = np.minimum(np.searchsorted(below, uniform[:, 0] * total, side="right"), last)
    u, v = uniform[:, 1], uniform[:, 2]
    over = u + v > 1
    u, v = np.where(over, 1 - u, u)[:, None], np.where(over, 1 - v, v)[:, None]
    a, b, c = (vertices[faces[found, corner]] for corner in range(3))
    points: Floats = a + u * (b - a) + v * (c - a)
    return points, found


def face_normals(vertices: Floats, faces: Ints) -> Floats:
    """Return ``float64[F, 3]`` unit normals by the right-hand rule; zero for faces of no area."""
    vectors = face_vectors(vertices, faces)
    return units(vectors)


def units(vectors: Floats) -> Floats:
    """Return ``float64[N, 3]`` scaled to length one; zeros stay zeros."""
    length = lengths(vectors)
    result: Floats = vectors / np.where(length > 0, length, 1.0)[:, None]
    return result


def farthest_points(
    points: npt.NDArray[np.floating[Any]],
    count: int,
    *,
    start: int = 0,
    eligible: npt.NDArray[np.bool_] | None = None,
) -> Ints:
    """Return ``int64[count]``: indices by farthest-point sampling from ``start``.

    Each next point is the one farthest from all that were taken (Gonzalez 1985; Eldar et al.,
    "The farthest point strategy for progressive image sampling", 1997); of points that are exactly
    as far, the one of the lowest index. Squared distances are ``dx * dx + dy * dy + dz * dz`` in
    the type of ``points``.

    Args:
        points: ``float32[N, 3]`` or ``float64[N, 3]``.
        count: number of points, at most N.
        start: index of the first one.
        eligible: ``bool[N]``, points that may be taken after the first. PointNet++'s kernels pass
            over those whose squared norm is at most 1e-3.

    Raises:
        ValueError: there are not so many points, or ``start`` is none of them.
    """
    free = np.ones(len(points), bool) if eligible is None else eligible.copy()
    if not 0 <= start < len(points):
        raise ValueError(f"start must be one of {len(points)} points, got {start}")
    free[start] = False
    if not 1 <= count <= int(free.sum()) + 1:
        raise ValueError(f"count must be from 1 to {int(free.sum()) + 1} points, got {count}")
    x, y, z = (np.ascontiguousarray(points[:, axis]) for axis in range(3))
    away = np.where(free, np.inf, -1.0).astype(points.dtype)
    taken = np.empty(count, np.int64)
    taken[0] = start
    for place in range(1, count):
        last = taken[place - 1]
        dx, dy, dz = x - x[last], y - y[last], z - z[last]
        np.minimum(away, dx * dx + dy * dy + dz * dz, out=away)
        away[last] = -1
        taken[place] = away.argmax()
    return taken
