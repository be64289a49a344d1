"""Distances of meshes and of point clouds."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
#: Squared distances held at once.
CHUNK_VALUES = 2**22


def shared_faces(original: Array, decoded: Array) -> float:
    """Return which part of the triangles ``[F, 3, 3]`` of both is in both, however turned."""
    one, other = _triangles(original), _triangles(decoded)
    return len(one & other) / max(1, len(one | other))


def _triangles(soup: Array) -> set[tuple[tuple[int, ...], ...]]:
    return {tuple(sorted(map(tuple, face))) for face in soup.tolist()}


def chamfer(original: Array, decoded: Array) -> float:
    """Return the mean distance of the points ``[N, 3 or more]`` of each set to the other set.

    The mean of both directions, of distances and not of their squares, in the points' own unit;
    further columns than the first three (normals, colours) are left out. NaN if a set is empty.
    """
    one, other = (np.asarray(points, np.float64)[:, :3] for points in (original, decoded))
    if not len(one) or not len(other):
        return float("nan")
    return float((_nearest(one, other).mean() + _nearest(other, one).mean()) / 2)


def _nearest(points: Array, others: Array) -> Array:
    """Return each point's distance to the nearest of the others, ``float64[N]``."""
    step = max(1, CHUNK_VALUES // len(others))
    found = [
        ((points[start : start + step, None] - others) ** 2).sum(axis=2).min(axis=1)
        for start in range(0, len(points), step)
    ]
    return np.asarray(np.sqrt(np.concatenate(found)))
