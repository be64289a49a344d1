"""Shaded surfaces of triangles: rays from the eye, a shadow, and light from the sky."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

#: Larger grids are shown by blocks: more cells than pixels tell nothing.
MAX_CELLS = 128
CLAY, BRICK = np.array([0.60, 0.69, 0.82]), np.array([0.86, 0.72, 0.52])
#: Lines are drawn where faces are at least so many pixels across, fully at twice as many.
LINE_FROM_PIXELS = 6.0
#: The key light stands to the left, above and before what is seen: right, up, towards the eye.
KEY = np.array([-0.45, 0.55, 0.72])


@dataclass(frozen=True, slots=True)
class Surface:
    """Triangles ``float64[F, 3, 3]`` of one colour; ``quads``: two of them make one wall."""

    triangles: Floats
    colour: Floats
    quads: bool


@dataclass(frozen=True, slots=True)
class _Hits:
    """Where rays met triangles: the ray, the triangle, the place, barycentric weights, distance."""

    ray: Ints
    face: Ints
    place: Floats
    weights: Floats
    distance: Floats


def of_triangles(triangles: Floats) -> Surface:
    """Return the surface of ``float64[F, 3, 3]`` without its faces of no area."""
    crossed = np.cross(triangles[:, 1] - triangles[:, 0], triangles[:, 2] - triangles[:, 0])
    return Surface(triangles[crossed.any(axis=1)], CLAY, quads=False)


def of_voxels(grid: Bools) -> Surface:
    """Return the walls between occupied and empty cells of ``bool[R, R, R]``, in triangles."""
    block = -(-max(grid.shape) // MAX_CELLS)
    if block > 1:
        grid = _blocks(grid, block)
    padded = np.pad(grid, 1)
    walls = []
    for axis in range(3):
        across, over = (np.eye(3)[(axis + step) % 3] for step in (1, 2))
        for ahead in (0, 1):
            beside = np.roll(padded, 1 - 2 * ahead, axis=axis)
            corner = np.argwhere(padded & ~beside) - 1.0
            corner[:, axis] += ahead
            steps = (np.zeros(3), across, across + over, over)
            a, b, c, d = (corner + step for step in (steps if ahead else steps[::-1]))
            walls.append(np.stack([a, b, c, c, d, a], axis=1).reshape(-1, 3, 3))
    return Surface(np.concatenate(walls) * block, BRICK, quads=True)


def _blocks(grid: Bools, block: int) -> Bools:
    """Return whether any cell of each block is occupied."""
    side = -(-max(grid.shape) // block)
    whole = np.zeros((side * block,) * 3, bool)
    whole[tuple(slice(0, size) for size in grid.shape)] = grid
    split = whole.reshape(side, block, side, block, side, block)
    return np.asarray(split.any(axis=(1, 3, 5)), bool)


def shade(surface: Surface, eye: Floats, rays: Floats, frame: Floats) -> tuple[Ints, Floats]:
    """Return the rays that meet the surface and their colours ``float64[N, 3]`` in [0, 1].

    Light is the sum of a key light with its shadow (Lambert), a weak one from behind, and the sky,
    which falls most on what faces up. Both sides of a face are lit: windings are not relied on.
    """
    from trimesh import Trimesh
    from trimesh.ray.ray_pyembree import RayMeshIntersector

    if not len(surface.triangles):
        return np.empty(0, np.int64), np.empty((0, 3))
    corners = surface.triangles.reshape(-1, 3)
    faces = np.arange(len(corners)).reshape(-1, 3)
    caster = RayMeshIntersector(Trimesh(corners, faces, process=False))
    hits = _meet(caster, surface.triangles, eye, rays)
    normals = _normals(surface.triangles)[hits.face]
    facing = (normals * rays[hits.ray]).sum(axis=1) > 0
    normals[facing] *= -1
    light = _light(caster, hits.place + normals * 1e-4 * _size(corners), normals, frame)
    lines = _lines(surface, hits, float(np.abs(rays[1] - rays[0]).max()))
    colours = surface.colour * light[:, None] * (1 - 0.45 * lines)[:, None]
    return hits.ray, np.clip(colours, 0, 1)


def _size(corners: Floats) -> float:
    return float(np.ptp(corners, axis=0).max())


def _normals(triangles: Floats) -> Floats:
    crossed = np.cross(triangles[:, 1] - triangles[:, 0], triangles[:, 2] - triangles[:, 0])
    unit: Floats = crossed / np.linalg.norm(crossed, axis=1, keepdims=True)
    return unit


def _meet(caster: Any, triangles: Floats, eye: Floats, rays: Floats) -> _Hits:
    """Cast the rays and compute in float64 where they meet what Embree says that they do."""
    met = np.asarray(caster.intersects_first(np.broadcast_to(eye, rays.shape), rays), np.int64)
    ray = np.flatnonzero(met >= 0)
    face = met[ray]
    a, u, v = (triangles[face, 0], *(triangles[face, k] - triangles[face, 0] for k in (1, 2)))
    crossed = np.cross(u, v)
    along = (crossed * rays[ray]).sum(axis=1)
    along = np.where(np.abs(along) > 1e-300, along, 1.0)
    distance = (crossed * (a - eye)).sum(axis=1) / along
    place = eye + rays[ray] * distance[:, None]
    area = (crossed * crossed).sum(axis=1)
    second = (np.cross(place - a, v) * crossed).sum(axis=1) / area
    third = (np.cross(u, place - a) * crossed).sum(axis=1) / area
    weights = np.column_stack([1 - second - third, second, third])
    return _Hits(ray, face, place, weights, distance)


def _light(caster: Any, places: Floats, normals: Floats, frame: Floats) -> Floats:
    key = (KEY / np.linalg.norm(KEY)) @ frame
    direct = np.clip(normals @ key, 0, None)
    lit = direct > 0
    towards = np.broadcast_to(key, (int(lit.sum()), 3))
    shadowed = np.asarray(caster.intersects_first(places[lit], towards)) >= 0
    direct[lit] *= np.where(shadowed, 0.25, 1.0)
    rim = np.clip(normals @ (np.array([0.9, 0.1, 0.2]) @ frame), 0, None)
    sky = 0.5 + 0.5 * normals[:, 2]
    light: Floats = 0.34 + 0.22 * sky + 0.60 * direct + 0.10 * rim
    return light


def _lines(surface: Surface, hits: _Hits, angle: float) -> Floats:
    """Return ``float64[N]`` in [0, 1]: how much of the line along a face's border covers a hit."""
    shown = surface.triangles[hits.face]
    pixel = hits.distance * angle
    nearest = np.full(len(pixel), np.inf)
    least = np.full(len(pixel), np.inf)
    for corner in range(3):
        a, b = shown[:, (corner + 1) % 3], shown[:, (corner + 2) % 3]
        side = np.linalg.norm(b - a, axis=1)
        double = np.linalg.norm(np.cross(b - a, shown[:, corner] - a), axis=1)
        height = double / np.maximum(side, 1e-300)
        least = np.minimum(least, height)
        if not (surface.quads and corner == 1):  # the diagonal of a wall is no edge
            nearest = np.minimum(nearest, hits.weights[:, corner] * height)
    strength = np.clip(least / pixel / LINE_FROM_PIXELS - 1, 0, 1)
    cover: Floats = np.clip(2.0 - nearest / pixel, 0, 1) * strength
    return cover
