"""A plain view that any encoder of its kind can encode, to tell bad assets from a bad encoder."""

from __future__ import annotations

import numpy as np

from tokenmill.views.base import Array

#: Corners of a tetrahedron on a small grid, and its four faces, outwards.
_CORNERS = np.array([[0, 0, 0], [8, 0, 0], [0, 8, 0], [0, 0, 8]], np.int32)
_FACES = np.array([[0, 2, 1], [0, 1, 3], [0, 3, 2], [1, 2, 3]])


def control_view(view: Array) -> Array:
    """Return a plain view of the kind and, but for meshes, the shape of ``view``.

    Grey pixels, a filled block, a tetrahedron, or points on a spiral.
    """
    if view.dtype == np.uint8:
        return np.full(view.shape, 128, np.uint8)
    if view.dtype == np.bool_:
        block = np.zeros(view.shape, np.bool_)
        block[tuple(slice(size // 4, -(-3 * size // 4)) for size in view.shape)] = True
        return block
    if np.issubdtype(view.dtype, np.integer):
        triangles: Array = _CORNERS[_FACES].astype(view.dtype)
        return triangles
    turns = np.linspace(0.1, 1.0, view.shape[0])[:, None] * (7.0 + np.arange(view.shape[1]))
    return (0.5 * np.sin(turns)).astype(view.dtype)
