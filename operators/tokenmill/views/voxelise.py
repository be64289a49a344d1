"""Conservative surface voxels: every cell whose closed box meets a triangle, and no other.

The test is the separating-axis one for a triangle and a box (Akenine-Moeller, "Fast 3D
Triangle-Box Overlap Testing", 2001), arranged as in Schwarz and Seidel, "Fast Parallel Surface and
Solid Voxelization on GPUs", 2010: bounding box, the triangle's plane, and its edges in the three
projections. Per triangle it walks the columns of cells along the axis that its normal is nearest
to, so a triangle costs its area in cells, not its volume. Work is cut into pieces of bounded size
even inside one triangle. Cells are closed: a triangle in the plane between two layers is in both,
as Open3D's ``create_from_triangle_mesh`` has it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

#: Triangles, and cells or columns of cells, that are looked at together: some tens of MB.
_TRIANGLES = 1 << 15
_PAIRS = 1 << 16


def surface_voxels(vertices: Floats, faces: Ints, resolution: int) -> Bools:
    """Return the cells ``bool[R, R, R]`` (axes x, y, z) that triangles meet.

    Args:
        vertices: ``float64[V, 3]`` in cells: cell (i, j, k) is the closed box from there to
            (i + 1, j + 1, k + 1). What lies outside the grid [0, R] is cut off.
        faces: ``int64[F, 3]``; those of no area count as the line or the point that they are.
        resolution: R.
    """
    grid = np.zeros(resolution**3, bool)
    for start in range(0, len(faces), _TRIANGLES):
        corners = vertices[faces[start : start + _TRIANGLES]]
        _mark(grid, corners, resolution)
    return grid.reshape(resolution, resolution, resolution)


def point_voxels(points: Floats, resolution: int) -> Bools:
    """Return the cells ``bool[R, R, R]`` that hold a point of ``float64[N, 3]``, given in cells.

    Cells are half open here; a point on the far border of the grid is in the last cell.
    """
    inside = points[((points >= 0) & (points <= resolution)).all(axis=1)]
    cells = np.minimum(inside.astype(np.int64), resolution - 1)
    grid = np.zeros((resolution, resolution, resolution), bool)
    grid[cells[:, 0], cells[:, 1], cells[:, 2]] = True
    return grid


def filled(occupied: Bools) -> Bools:
    """Return ``occupied`` with every empty cell that no path of empty cells joins to the outside.

    Paths go through the six faces of a cell, which a conservative surface closes.
    """
    from scipy import ndimage

    found: Any = ndimage.label(~np.pad(occupied, 1))
    regions: Ints = found[0]
    inside: Bools = (regions != regions[0, 0, 0])[1:-1, 1:-1, 1:-1]
    return np.ascontiguousarray(inside)


def expanded(counts: Ints, limit: int = _PAIRS) -> Iterator[tuple[Ints, Ints]]:
    """Yield (owner, offset) for ``counts[owner]`` offsets of each owner, at most ``limit`` a time.

    A piece may end inside an owner's offsets, so memory does not depend on any one count.
    """
    ends = np.cumsum(counts)
    starts = ends - counts
    total = int(ends[-1]) if len(ends) else 0
    for low in range(0, total, limit):
        high = min(low + limit, total)
        first = int(np.searchsorted(ends, low, side="right"))
        last = int(np.searchsorted(ends, high, side="left")) + 1
        owners = np.arange(first, last)
        here = np.minimum(ends[first:last], high) - np.maximum(starts[first:last], low)
        owner = np.repeat(owners, here)
        yield owner, np.arange(low, high) - starts[owner]


def _mark(grid: Bools, corners: Floats, resolution: int) -> None:
    """Mark the cells of triangles ``float64[T, 3 corners, 3 axes]``."""
    first, last = _cell_range(corners, resolution)
    straight = (first == last).sum(axis=1) >= 2  # told before clipping: a stub may miss a row
    first, last = np.maximum(first, 0), np.minimum(last, resolution - 1)
    counts = last - first + 1
    inside = (counts > 0).all(axis=1)
    straight &= inside
    _mark_boxes(grid, first[straight], counts[straight], resolution)
    rest = np.flatnonzero(inside & ~straight)
    if not len(rest):
        return
    corners = _sorted_corners(corners[rest])
    along = _walking_axis(corners)
    for axis in range(3):
        chosen = along == axis
        order = [(axis + 1) % 3, (axis + 2) % 3, axis]
        some = rest[chosen]
        walk = _Walk.of(corners[chosen][..., order], first[some][:, order], last[some][:, order])
        strides = np.array([resolution**2, resolution, 1])[order]
        walk.mark(grid, strides)


def _cell_range(corners: Floats, resolution: int) -> tuple[Ints, Ints]:
    """Return the first and the last cell per axis whose closed interval meets the triangle's.

    Cells go on one beyond the grid on all sides; what reaches further spans two there.
    """
    near = np.clip(corners, -1, resolution + 1)
    first, last = np.ceil(_least(near)) - 1, np.floor(_most(near))
    return first.astype(np.int64), last.astype(np.int64)


def _least(corners: Floats) -> Floats:
    """Return the least of three along axis 1, much faster than a reduction of so few."""
    return np.minimum(np.minimum(corners[:, 0], corners[:, 1]), corners[:, 2])


def _most(corners: Floats) -> Floats:
    """Return the largest of three along axis 1."""
    return np.maximum(np.maximum(corners[:, 0], corners[:, 1]), corners[:, 2])


def _above(n: Floats) -> Floats:
    """Return how far a cell reaches along ``n`` from its low corner: the sum of positive parts."""
    reach = np.maximum(n[..., 0], 0)
    for axis in range(1, n.shape[-1]):
        reach = reach + np.maximum(n[..., axis], 0)
    return reach


def _mark_boxes(grid: Bools, first: Ints, counts: Ints, resolution: int) -> None:
    """Mark whole boxes of cells one wide on two axes: a connected thing meets each of them."""
    strides = np.array([resolution**2, resolution, 1])
    start = first @ strides
    step = (strides * (counts > 1)).sum(axis=1)
    for owner, offset in expanded(counts.prod(axis=1)):
        grid[start[owner] + step[owner] * offset] = True


def _sorted_corners(corners: Floats) -> Floats:
    """Return triangles with corners in order of x, y, z: rounding must not depend on winding."""
    order = np.lexsort((corners[..., 2], corners[..., 1], corners[..., 0]), axis=-1)
    return np.take_along_axis(corners, order[..., None], axis=1)


def _normals(corners: Floats) -> Floats:
    a, b = corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
    return np.stack(
        [
            a[:, 1] * b[:, 2] - a[:, 2] * b[:, 1],
            a[:, 2] * b[:, 0] - a[:, 0] * b[:, 2],
            a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0],
        ],
        axis=1,
    )


def _walking_axis(corners: Floats) -> Ints:
    """Return the axis of the largest normal component; of no area, the longest side's."""
    normals = np.abs(_normals(corners))
    sides = _most(corners) - _least(corners)
    flat = ~normals.any(axis=1)
    along: Ints = np.where(flat, sides.argmax(axis=1), normals.argmax(axis=1))
    return along


@dataclass(frozen=True, slots=True)
class _Slabs:
    """Per triangle, slabs ``low <= n . cell <= high`` in one projection, one for each edge.

    Each edge has an ``n`` of ``float64[T, 2]`` and bounds of ``float64[T]``.
    """

    n: tuple[Floats, ...]
    low: tuple[Floats, ...]
    high: tuple[Floats, ...]

    @staticmethod
    def of(corners: Floats) -> _Slabs:
        """Return the slabs of triangles ``float64[T, 3, 2]`` in one projection."""
        slabs = []
        for start in range(3):
            edge = corners[:, (start + 1) % 3] - corners[:, start]
            n = np.stack([-edge[:, 1], edge[:, 0]], axis=1)
            # All three corners are taken, so that the edge's direction does not matter.
            reach = n[:, :1] * corners[..., 0] + n[:, 1:] * corners[..., 1]
            slabs.append((n, _least(reach) - _above(n), _most(reach) + _above(-n)))
        return _Slabs(*zip(*slabs, strict=True))

    def meet(self, owner: Ints, i: Ints, j: Ints) -> Bools:
        """Return which cells lie in all slabs of their triangles."""
        good = np.ones(len(owner), bool)
        for n, low, high in zip(self.n, self.low, self.high, strict=True):
            value = n[:, 0][owner] * i + n[:, 1][owner] * j
            good &= (value >= low[owner]) & (value <= high[owner])
        return good


@dataclass(frozen=True, slots=True)
class _Walk:
    """Triangles whose columns of cells run along their last axis."""

    first: Ints
    last: Ints
    normal: Floats
    low: Floats
    high: Floats
    sides: tuple[_Slabs, _Slabs, _Slabs]

    @staticmethod
    def of(corners: Floats, first: Ints, last: Ints) -> _Walk:
        normal = _normals(corners)
        reach = (corners * normal[:, None, :])[..., 0]
        for axis in (1, 2):
            reach = reach + corners[..., axis] * normal[:, None, axis]
        low, high = _least(reach) - _above(normal), _most(reach) + _above(-normal)
        sides = tuple(_Slabs.of(corners[..., pair]) for pair in ([0, 1], [1, 2], [2, 0]))
        return _Walk(first, last, normal, low, high, sides)  # type: ignore[arg-type]  # three of them

    def mark(self, grid: Bools, strides: Ints) -> None:
        """Mark the cells that the triangles meet in the flat ``grid``."""
        sizes = self.last - self.first + 1
        for owner, offset in expanded(sizes[:, 0] * sizes[:, 1]):
            i = self.first[owner, 0] + offset // sizes[owner, 1]
            j = self.first[owner, 1] + offset % sizes[owner, 1]
            good = self.sides[0].meet(owner, i, j)
            self._mark_columns(grid, strides, (owner[good], i[good], j[good]))

    def _mark_columns(self, grid: Bools, strides: Ints, columns: tuple[Ints, Ints, Ints]) -> None:
        owner, i, j = columns
        bottom, top = self._heights(owner, i, j)
        for column, offset in expanded(np.maximum(top - bottom + 1, 0)):
            t, x, y, z = owner[column], i[column], j[column], bottom[column] + offset
            good = self._plane_meets(t, x, y, z)
            t, x, y, z = t[good], x[good], y[good], z[good]
            good = self.sides[1].meet(t, y, z) & self.sides[2].meet(t, z, x)
            grid[(x * strides[0] + y * strides[1] + z * strides[2])[good]] = True

    def _heights(self, owner: Ints, i: Ints, j: Ints) -> tuple[Ints, Ints]:
        """Return the cells of columns that the plane may meet, with a margin for rounding."""
        normal = self.normal[owner]
        flat = normal[:, 2] == 0
        down = np.where(flat, 1.0, normal[:, 2])
        base = normal[:, 0] * i + normal[:, 1] * j
        one, other = (self.low[owner] - base) / down, (self.high[owner] - base) / down
        first, last = self.first[owner, 2], self.last[owner, 2]
        bottom = np.clip(np.floor(np.minimum(one, other)), first - 1, last + 1).astype(np.int64)
        top = np.clip(np.ceil(np.maximum(one, other)), first - 1, last + 1).astype(np.int64)
        return np.where(flat, first, np.maximum(bottom, first)), np.where(
            flat, last, np.minimum(top, last)
        )

    def _plane_meets(self, owner: Ints, x: Ints, y: Ints, z: Ints) -> Bools:
        n: Any = self.normal[owner]
        value = n[:, 0] * x + n[:, 1] * y + n[:, 2] * z
        good: Bools = (value >= self.low[owner]) & (value <= self.high[owner])
        return good
