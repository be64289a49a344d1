"""Where a shape is put before it is read: centre, size and axes, by the rules of the field.

The rules differ in what is centred and in what becomes ``extent``:

================ ============================= =======================================
rule             centre                        what becomes ``extent``
================ ============================= =======================================
longest_side     middle of the bounding box    its longest side: with extent 1 in [-0.5, 0.5]
                                               (TRELLIS), with 2 in [-1, 1] (MeshXL)
diagonal         middle of the bounding box    its diagonal (TreeMeshGPT: extent 1)
radius           middle of the bounding box    twice the largest distance from the centre: with
                                               extent 2 the unit sphere
centroid_radius  mean of the points            the same (Point-BERT: extent 2)
global_range     the middle of the smallest    the range of all coordinates together, so flat
                 and the largest of all        objects lie off the centre; then clipped by 1e-6
                 coordinates, on every axis    (ShapeLLM-Omni: extent 1)
none             the origin                    nothing: coordinates are taken as they are
================ ============================= =======================================

All arithmetic is elementwise float64 (sums are exact, by `math.fsum`), so that no machine and no
numpy release moves a point. Rules measure a shape on its stored axes and turn it afterwards; but
for ``global_range`` the order makes no difference.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from tokenmill_schemas.errors import AssetError, Reason

Floats = npt.NDArray[np.float64]
Normalise = Literal[
    "longest_side", "diagonal", "radius", "centroid_radius", "global_range", "none"
]  # fmt: skip
Up = Literal["as_is", "y", "z"]

#: Sides outside these are no model's: squares and areas of theirs leave what float64 can hold.
_SMALLEST, _LARGEST = 1e-30, 1e30
#: How far ``global_range`` stays inside its box.
_CLIP = 1e-6


@dataclass(frozen=True, slots=True)
class Measure:
    """The centre and the size that a rule found, on the shape's stored axes."""

    center: tuple[float, float, float]
    size: float


def measure(points: Floats, rule: Normalise) -> Measure:
    """Return the centre and the size of ``float64[N, 3]`` by ``rule``.

    Raises:
        AssetError: ``no_geometry`` where there is no point or all are one; ``unsupported`` where
            coordinates are too large to compute with.
    """
    if not len(points):
        raise AssetError(Reason.NO_GEOMETRY, "it has no point to measure", stage="view")
    low, high = points.min(axis=0), points.max(axis=0)
    _check(low, high)
    if rule == "none":
        return Measure((0.0, 0.0, 0.0), 1.0)
    if rule == "global_range":
        least, most = float(low.min()), float(high.max())
        middle = (least + most) / 2
        return Measure((middle, middle, middle), most - least)
    center = _centroid(points) if rule == "centroid_radius" else (low + high) / 2
    x, y, z = (float(value) for value in center)
    return Measure((x, y, z), _size(points, center, high - low, rule))


def _check(low: Floats, high: Floats) -> None:
    largest = max(float(np.abs(low).max()), float(np.abs(high).max()))
    if not largest <= _LARGEST:
        text = f"coordinates of up to {largest:.3g} are beyond {_LARGEST:g}; scale the object"
        raise AssetError(Reason.UNSUPPORTED, text, stage="view")
    side = float((high - low).max())
    if side < _SMALLEST:
        text = f"its longest side is {side:.3g}: it is a single point"
        raise AssetError(Reason.NO_GEOMETRY, text, stage="view")


def _centroid(points: Floats) -> Floats:
    return np.array([math.fsum(points[:, axis]) / len(points) for axis in range(3)])


def _size(points: Floats, center: Floats, sides: Floats, rule: Normalise) -> float:
    if rule == "longest_side":
        return float(sides.max())
    if rule == "diagonal":
        return math.sqrt(float(sides[0] ** 2 + sides[1] ** 2 + sides[2] ** 2))
    away = points - center
    squares = away[:, 0] ** 2 + away[:, 1] ** 2 + away[:, 2] ** 2
    return 2 * math.sqrt(float(squares.max()))


def applied(points: Floats, found: Measure, rule: Normalise, extent: float = 1.0) -> Floats:
    """Return ``float64[N, 3]`` less the centre, with the size made ``extent``; a new array.

    That is ``(p - center) / size * extent``, in this order, as the rules' authors compute it.
    """
    if rule == "none":
        return points.copy()
    moved: Floats = points - np.array(found.center)
    moved /= found.size
    moved *= extent
    if rule == "global_range":
        limit = extent / 2 - _CLIP
        np.clip(moved, -limit, limit, out=moved)
    return moved


def axes_between(source_up: str, target_up: Up) -> str:
    """Return the turn that brings ``source_up`` to ``target_up``, as ``view.axes`` writes it.

    From y up to z up it is ``x-zy``, a quarter turn about x; back it is ``xz-y``. A shape whose
    up axis nobody knows ("") is left as it is.
    """
    turns = {("y", "z"): "x-zy", ("z", "y"): "xz-y"}
    return turns.get((source_up, target_up), "xyz")


def parse_axes(axes: str) -> tuple[tuple[int, int], ...]:
    """Return the source axis (0, 1, 2) and the sign of each new axis of ``axes``.

    Raises:
        ValueError: it does not name x, y and z once each, each with at most one minus.
    """
    pairs: list[tuple[int, int]] = []
    sign = 1
    for letter in axes:
        if letter == "-" and sign == 1:
            sign = -1
            continue
        pairs.append(("xyz".find(letter), sign))
        sign = 1
    if sorted(axis for axis, _ in pairs) != [0, 1, 2] or sign != 1:
        raise ValueError(
            f"axes must name x, y and z once each, with or without minus, got {axes!r}"
        )
    return tuple(pairs)


def turned(vectors: Floats, axes: str) -> Floats:
    """Return ``float64[..., 3]`` turned by ``axes``: coordinates change places and signs."""
    if axes == "xyz":
        return vectors
    return np.stack([sign * vectors[..., axis] for axis, sign in parse_axes(axes)], axis=-1)


def turned_grid(grid: npt.NDArray[np.bool_], axes: str) -> npt.NDArray[np.bool_]:
    """Return the grid ``bool[R, R, R]`` of a shape turned by ``axes`` about the grid's middle."""
    pairs = parse_axes(axes)
    moved = np.transpose(grid, [axis for axis, _ in pairs])
    backwards = tuple(place for place, (_, sign) in enumerate(pairs) if sign < 0)
    return np.ascontiguousarray(np.flip(moved, backwards))
