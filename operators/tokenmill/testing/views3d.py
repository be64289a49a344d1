"""The contract of a view of shapes, and small exact shapes to hold it to."""

from __future__ import annotations

import math
import pickle
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tokenmill.decoders.base import Shape
from tokenmill.testing.checks import require, require_identity
from tokenmill.views.base import View, ViewOf

#: What the arrays of each kind are: type, dimensions, and the sizes allowed for the last one.
ARRAYS: dict[str, tuple[type[Any], int, tuple[int, ...] | None]] = {
    "voxels": (np.bool_, 3, None),
    "points": (np.float32, 2, (3, 6)),
    "mesh": (np.int32, 3, (3,)),
    "gaussians": (np.float32, 2, None),
}


def check_shape_view(view: View, shape: Shape, key: str = "key") -> list[ViewOf]:
    """Check every promise of `tokenmill.views.base.View` on one shape.

    Returns:
        The shape's views.

    Raises:
        AssertionError: a promise is broken; says which.
    """
    require_identity(view)
    clone = pickle.loads(pickle.dumps(view))  # noqa: S301 - our own bytes
    require(clone == view, "a pickled view equals its original")
    before = (shape.vertices.copy(), shape.faces.copy())
    views, again = list(view.views(shape, key)), list(clone.views(shape, key))
    untouched = np.array_equal(before[0], shape.vertices) and np.array_equal(before[1], shape.faces)
    require(untouched, "a shape is left as it was")
    require(bool(views), "a shape gives at least one view, or an AssetError")
    require(len(views) == len(again), "the number of views is deterministic")
    for one, other in zip(views, again, strict=True):
        require(one.coordinates == other.coordinates, "coordinates are deterministic")
        require(np.array_equal(one.data, other.data), "data are deterministic")
        _check_data(view, one)
    rows = pa.Table.from_pylist([each.coordinates for each in views], schema=view.columns())
    rows.validate(full=True)
    indexes = [each.coordinates["view.index"] for each in views]
    require(indexes == list(range(len(views))), "views are numbered in order")
    return views


def _check_data(view: View, each: ViewOf) -> None:
    kind, dimensions, last = ARRAYS[view.gives]
    data = each.data
    require(data.dtype == kind and data.ndim == dimensions, f"data are {kind.__name__}")
    require(last is None or data.shape[-1] in last, "the last axis has the kind's size")
    require(data.flags.c_contiguous and bool(data.size), "data are one block of memory, not empty")
    require(not np.issubdtype(kind, np.floating) or bool(np.isfinite(data).all()), "all is finite")
    stated = view.shape or (None,) * dimensions
    fits = all(size in (None, got) for size, got in zip(stated, data.shape, strict=False))
    require(fits, "every view has the stated shape")


def mesh_of(
    vertices: npt.ArrayLike, faces: npt.ArrayLike, up_axis: Literal["", "y", "z"] = ""
) -> Shape:
    """Return a mesh as a decoder gives it."""
    corners = np.array(vertices, np.float64).reshape(-1, 3)
    triangles = np.array(faces, np.int64).reshape(-1, 3)
    return Shape("mesh", corners, triangles, {"asset.uri": "mem://mesh"}, up_axis=up_axis)


def cloud_of(points: npt.ArrayLike, normals: npt.ArrayLike | None = None) -> Shape:
    """Return a point cloud as a decoder gives it."""
    places = np.array(points, np.float64).reshape(-1, 3)
    stated = None if normals is None else np.array(normals, np.float64).reshape(-1, 3)
    none = np.empty((0, 3), np.int64)
    return Shape("points", places, none, {"asset.uri": "mem://cloud"}, normals=stated)


def box(sides: tuple[float, float, float] = (1.0, 1.0, 1.0)) -> Shape:
    """Return a closed box from the origin, of twelve triangles wound outwards."""
    corners = [[x, y, z] for x in (0, sides[0]) for y in (0, sides[1]) for z in (0, sides[2])]
    quads = [(0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3)]
    return mesh_of(corners, [f for a, b, c, d in quads for f in ((a, b, c), (a, c, d))])


def torus(around: int = 24, across: int = 12, *, major: float = 1.0, minor: float = 0.4) -> Shape:
    """Return a closed torus about z, wound outwards."""
    vertices, faces = [], []
    for i in range(around):
        u = 2 * math.pi * i / around
        for j in range(across):
            v = 2 * math.pi * j / across
            r = major + minor * math.cos(v)
            vertices.append([r * math.cos(u), r * math.sin(u), minor * math.sin(v)])
            here, up = i * across + j, i * across + (j + 1) % across
            there = ((i + 1) % around) * across
            faces += [(here, there + j, there + (j + 1) % across)]
            faces += [(here, there + (j + 1) % across, up)]
    return mesh_of(vertices, faces)


def sphere(rings: int = 16, radius: float = 1.0) -> Shape:
    """Return a closed sphere of ``rings`` bands from pole to pole, wound outwards."""
    around = 2 * rings
    vertices = [[0.0, 0.0, radius], [0.0, 0.0, -radius]]
    for i in range(1, rings):
        polar = math.pi * i / rings
        for j in range(around):
            u = 2 * math.pi * j / around
            flat = radius * math.sin(polar)
            vertices.append([flat * math.cos(u), flat * math.sin(u), radius * math.cos(polar)])
    faces = []
    for j in range(around):
        k = (j + 1) % around
        faces.append((0, 2 + j, 2 + k))
        for i in range(rings - 2):
            a, b = 2 + i * around, 2 + (i + 1) * around
            faces += [(a + j, b + j, b + k), (a + j, b + k, a + k)]
        last = 2 + (rings - 2) * around
        faces.append((1, last + k, last + j))
    return mesh_of(vertices, faces)
