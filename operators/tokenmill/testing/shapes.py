"""Small 3D objects for tests, made of nothing: a box, a torus, bad meshes, points and splats.

`tokenmill.testing.shape_files` writes them as files.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from tokenmill.decoders.base import Shape
from tokenmill.decoders.ply import splat_names

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

_BOX_FACES = (
    (0, 2, 1), (1, 2, 3), (4, 5, 6), (5, 7, 6), (0, 1, 4), (1, 5, 4),
    (2, 6, 3), (3, 6, 7), (0, 4, 2), (2, 4, 6), (1, 3, 5), (3, 7, 5),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Mesh:
    """Vertices ``float64[V, 3]`` and triangles ``int64[F, 3]``, outsides counter-clockwise."""

    vertices: Floats
    faces: Ints = field(default_factory=lambda: np.zeros((0, 3), np.int64))

    def shape(self, **facts: Any) -> Shape:
        """Return what a decoder would give for this object."""
        content = "mesh" if len(self.faces) else "points"
        known = {"asset.uri": "mem://shape", "asset.content": content, **facts}
        return Shape("mesh" if len(self.faces) else "points", self.vertices, self.faces, known)


def box(size: tuple[float, float, float] = (1.0, 2.0, 3.0)) -> Mesh:
    """Return a closed box from the origin to ``size``: 8 vertices, 12 triangles."""
    corners = [(x, y, z) for z in (0, 1) for y in (0, 1) for x in (0, 1)]
    return Mesh(np.array(corners, np.float64) * size, np.array(_BOX_FACES, np.int64))


def torus(rings: int = 12, sides: int = 8, *, radius: float = 2.0, tube: float = 0.75) -> Mesh:
    """Return a closed torus about z: ``rings * sides`` vertices, twice as many triangles."""
    u = np.arange(rings)[:, None] * (2 * np.pi / rings)
    v = np.arange(sides)[None, :] * (2 * np.pi / sides)
    out = radius + tube * np.cos(v)
    points = np.stack(np.broadcast_arrays(out * np.cos(u), out * np.sin(u), tube * np.sin(v)), -1)
    i, j = (axis.reshape(-1) for axis in np.indices((rings, sides)))
    at = i * sides + j
    over = (i + 1) % rings * sides + j
    up, both = i * sides + (j + 1) % sides, (i + 1) % rings * sides + (j + 1) % sides
    faces = np.stack([np.stack([at, over, both], 1), np.stack([at, both, up], 1)], 1)
    return Mesh(points.reshape(-1, 3), faces.reshape(-1, 3))


def non_manifold() -> Mesh:
    """Return three triangles that share one edge."""
    points = [(0, 0, 0), (0, 0, 1), (1, 0, 0), (0, 1, 0), (-1, -1, 0)]
    return Mesh(np.array(points, np.float64), np.array([(0, 1, 2), (0, 1, 3), (0, 1, 4)], np.int64))


def degenerate() -> Mesh:
    """Return a box with faces of no area: one of two equal corners, one along a line, one twice."""
    good = box()
    between = (good.vertices[0] + good.vertices[1]) / 2
    more = np.array([(0, 0, 1), (0, 8, 1), good.faces[0]], np.int64)
    return Mesh(np.vstack([good.vertices, between]), np.vstack([good.faces, more]))


def cloud(count: int = 100, *, seed: int = 0) -> Floats:
    """Return points ``float64[count, 3]`` of a normal distribution, exact in float32."""
    drawn = np.random.default_rng(seed).normal(size=(count, 3))
    return drawn.astype(np.float32).astype(np.float64)


def splat_values(count: int = 50, degree: int = 0, *, seed: int = 0) -> npt.NDArray[np.float32]:
    """Return a splat ``float32[count, C]``: x, y, z, then `splat_names`; no unit quaternions."""
    rng = np.random.default_rng(seed)
    rest = len(splat_names(degree)) - len(splat_names(0))
    parts = [
        rng.normal(size=(count, 3)),
        rng.normal(size=(count, 3)),
        rng.normal(scale=0.2, size=(count, rest)),
        rng.normal(scale=3.0, size=(count, 1)),
        rng.normal(-4.0, 1.0, size=(count, 3)),
        rng.normal(size=(count, 4)) + np.array([2.0, 0, 0, 0]),
    ]
    return np.concatenate(parts, axis=1).astype(np.float32)


def splat(count: int = 50, degree: int = 0, *, seed: int = 0) -> Shape:
    """Return what the decoder gives for `splat_values`."""
    values = splat_values(count, degree, seed=seed)
    return Shape(
        content="gaussians",
        vertices=values[:, :3].astype(np.float64),
        faces=np.zeros((0, 3), np.int64),
        facts={"asset.uri": "mem://splat", "asset.content": "gaussians"},
        attributes=values[:, 3:].copy(),
        attribute_names=splat_names(degree),
    )
