"""Small pictures of 3D views, for looking: fixed camera, soft light, no display and no GPU.

Surfaces (triangles, and the outer walls of voxels) are met by rays that Embree casts; points and
splats are drawn as small balls and discs into a depth buffer. The camera stands to the front right,
a little above, with mild perspective; the vertical axis of the picture is the view's z unless told
otherwise. Pictures are drawn larger and averaged down, so edges are smooth.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from tokenmill.views.base import ViewKind
from tokenmill_pipelines.report.discs import Discs, draw
from tokenmill_pipelines.report.surfaces import Surface, of_triangles, of_voxels, shade

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float64]
Pixels = npt.NDArray[np.uint8]

#: Pixels drawn for each pixel shown, along each side.
OVERSAMPLING = 2
#: More points than this are thinned evenly: a picture cannot show them.
MAX_POINTS = 100_000
AZIMUTH, ELEVATION = math.radians(-52), math.radians(24)
#: Distance of the eye, in radii of what is shown.
DISTANCE = 4.5
MARGIN = 0.92
TOP, BOTTOM = np.array([0.985, 0.988, 0.995]), np.array([0.90, 0.915, 0.935])
POINT_LOW, POINT_HIGH = np.array([0.14, 0.36, 0.55]), np.array([0.93, 0.60, 0.32])
#: The constant spherical harmonic: a splat's ``f_dc`` times this, plus a half, is its colour.
HARMONIC = 0.28209479177387814


@dataclass(frozen=True, slots=True)
class Camera:
    """Where the eye is and how it sees: ``frame`` rows are right, up and towards the eye."""

    center: Floats
    frame: Floats
    distance: float
    focal: float
    shift: tuple[float, float]

    def seen(self, points: Floats) -> Floats:
        """Return ``float64[N, 3]``: x right and y up in [-1, 1] where seen, z the depth."""
        local = (points - self.center) @ self.frame.T
        depth = self.distance - local[:, 2]
        flat = local[:, :2] / depth[:, None] * self.focal - self.shift
        return np.column_stack([flat, depth])

    def rays(self, side: int) -> tuple[Floats, Floats]:
        """Return the eye ``float64[3]`` and unit directions ``float64[side * side, 3]``."""
        places = (np.arange(side) + 0.5) / side * 2 - 1
        across, down = np.meshgrid(places, -places)
        flat = np.column_stack([across.ravel(), down.ravel()]) + self.shift
        local = np.column_stack([flat / self.focal, -np.ones(len(flat))])
        local /= np.linalg.norm(local, axis=1, keepdims=True)
        return self.center + self.distance * self.frame[2], local @ self.frame


def camera_for(points: Floats) -> Camera:
    """Return the camera that sees all of ``float64[N, 3]`` and little else; z is up."""
    low, high = points.min(axis=0), points.max(axis=0)
    center = (low + high) / 2
    radius = max(float(np.linalg.norm(points - center, axis=1).max()), 1e-9)
    towards = [math.cos(ELEVATION) * math.cos(AZIMUTH), math.cos(ELEVATION) * math.sin(AZIMUTH)]
    back = np.array([*towards, math.sin(ELEVATION)])
    right = np.array([-math.sin(AZIMUTH), math.cos(AZIMUTH), 0.0])
    frame = np.stack([right, np.cross(back, right), back])
    plain = Camera(center, frame, DISTANCE * radius, 1.0, (0.0, 0.0))
    flat = plain.seen(points)[:, :2]
    least, most = flat.min(axis=0), flat.max(axis=0)
    focal = 2 * MARGIN / max(float((most - least).max()), 1e-9 / DISTANCE)
    focal = min(focal, DISTANCE * 2)  # a single point does not fill the picture
    x, y = (least + most) / 2 * focal
    return Camera(center, frame, plain.distance, focal, (float(x), float(y)))


def render(
    kind: ViewKind,
    data: Array,
    *,
    side: int = 256,
    up: Literal["y", "z"] = "z",
    like: Array | None = None,
) -> Pixels:
    """Return a thumbnail ``uint8[side, side, 3]`` of a 3D view.

    Args:
        kind: ``voxels``, ``points``, ``mesh`` or ``gaussians``.
        data: as `tokenmill.views.base.ViewKind` says; a mesh may also be ``float[F, 3, 3]``.
        side: pixels of a side.
        up: the axis of ``data`` that points up.
        like: data of the same kind whose camera is taken, to compare a reconstruction with it.

    Raises:
        ValueError: ``kind`` is not of 3D.
        ImportError: voxels and meshes need trimesh and embreex.
    """
    if kind not in _DRAWERS:
        raise ValueError(f"kind must be one of {', '.join(_DRAWERS)}, got {kind!r}")
    canvas = _background(side * OVERSAMPLING)
    prepare, paint = _DRAWERS[kind]
    thing, reach = prepare(data, up)
    if like is not None and like.size:
        framing = prepare(like, up)[1]
        reach = framing if len(framing) else reach
    if len(reach):
        paint(canvas, thing, camera_for(reach))
    small = canvas.reshape(side, OVERSAMPLING, side, OVERSAMPLING, 3).mean(axis=(1, 3))
    shown: Pixels = np.clip(np.rint(small * 255), 0, 255).astype(np.uint8)
    return shown


def _background(side: int) -> Floats:
    share = ((np.arange(side) + 0.5) / side)[:, None, None]
    return np.broadcast_to(TOP + (BOTTOM - TOP) * share, (side, side, 3)).copy()


def _upright(points: Floats, up: str) -> Floats:
    """Return points whose z is up: a y-up object is turned about x."""
    if up == "z":
        return points
    return np.stack([points[..., 0], -points[..., 2], points[..., 1]], axis=-1)


def _prepare_mesh(data: Array, up: str) -> tuple[Surface, Floats]:
    triangles = _upright(data.astype(np.float64).reshape(-1, 3, 3), up)
    return of_triangles(triangles), triangles.reshape(-1, 3)


def _prepare_voxels(data: Array, up: str) -> tuple[Surface, Floats]:
    grid = data.astype(bool)
    if up == "y":
        grid = np.flip(grid.transpose(0, 2, 1), axis=1)
    surface = of_voxels(grid)
    return surface, surface.triangles.reshape(-1, 3)


def _paint_surface(canvas: Floats, surface: Surface, camera: Camera) -> None:
    eye, rays = camera.rays(len(canvas))
    pixels, colours = shade(surface, eye, rays, camera.frame)
    canvas.reshape(-1, 3)[pixels] = colours


def _thinned(data: Array) -> Floats:
    step = -(-len(data) // MAX_POINTS)
    return data[:: max(step, 1)].astype(np.float64)


def _prepare_points(data: Array, up: str) -> tuple[Discs, Floats]:
    points = _upright(_thinned(data)[:, :3], up)
    if not len(points):
        return Discs(points, points, np.empty(0), lit=True), points
    low, high = points[:, 2].min(), points[:, 2].max()
    share = ((points[:, 2] - low) / max(float(high - low), 1e-9))[:, None]
    colours = POINT_LOW + (POINT_HIGH - POINT_LOW) * share
    size = float(np.linalg.norm(np.ptp(points, axis=0))) / 2
    radius = size * min(0.03, 0.9 / math.sqrt(len(points)))
    return Discs(points, colours, np.full(len(points), radius), lit=True), points


def _prepare_gaussians(data: Array, up: str) -> tuple[Discs, Floats]:
    """Read splats as `tokenmill.views.gaussians.Layout` has them, whatever their degree."""
    rows = _thinned(data)
    opaque = 1 / (1 + np.exp(-np.clip(rows[:, -8], -30, 30)))
    rows = rows[opaque > 0.1] if (opaque > 0.1).any() else rows
    points = _upright(rows[:, :3], up)
    colours = np.clip(0.5 + HARMONIC * rows[:, 3:6], 0, 1)
    scales = np.exp(np.clip(rows[:, -7:-4], -30, 10)).mean(axis=1)
    size = float(np.linalg.norm(np.ptp(points, axis=0))) / 2 if len(points) else 1.0
    return Discs(points, colours, np.clip(scales, size * 0.004, size * 0.05), lit=False), points


def _paint_discs(canvas: Floats, discs: Discs, camera: Camera) -> None:
    seen = camera.seen(discs.centers)
    draw(canvas, discs, seen, camera.focal)


_DRAWERS: dict[str, tuple[Any, Any]] = {
    "voxels": (_prepare_voxels, _paint_surface),
    "points": (_prepare_points, _paint_discs),
    "mesh": (_prepare_mesh, _paint_surface),
    "gaussians": (_prepare_gaussians, _paint_discs),
}
