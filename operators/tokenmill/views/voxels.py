"""One view: the occupancy of a cube of cells."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import pyarrow as pa

from tokenmill.decoders.base import Shape
from tokenmill.views.base import ViewKind, ViewOf, ViewShape
from tokenmill.views.normalise import Normalise, Up, applied, measure, turned_grid
from tokenmill.views.shapes import (
    Placement,
    axes_of,
    occupied_points,
    options_of,
    refused,
    require_extent,
    require_whole,
    shape_columns,
    surface,
)
from tokenmill.views.voxelise import Bools, filled, point_voxels, surface_voxels
from tokenmill_schemas.asset import Modality
from tokenmill_schemas.errors import Reason

#: Filling labels every cell with four bytes: half a gigabyte here.
MAX_RESOLUTION = 512


@dataclass(frozen=True, slots=True)
class Voxels:
    """``bool[R, R, R]``: the cells of the box [-0.5, 0.5]^3 that a shape occupies.

    A mesh occupies every cell whose closed box its triangles meet (`tokenmill.views.voxelise`), a
    point cloud and a splat the cells of their points. Cell (i, j, k) reaches from
    ``i / R - 0.5`` to ``(i + 1) / R - 0.5`` on x, and so on. Cells are found on the stored axes and
    then turned, as ShapeLLM-Omni's preparation does.

    Attributes:
        resolution: R, cells along one side.
        normalise: what is centred and scaled, see `tokenmill.views.normalise`.
        extent: the normalised size as a part of the box; what sticks out is cut off.
        up: the axis that points up in the view; shapes that do not say theirs are not turned.
        assume_up: the up axis of shapes whose format has none.
        fill: ``surface``, or ``solid`` to fill what the surface closes off from the outside.
    """

    resolution: int = 64
    normalise: Normalise = "longest_side"
    extent: float = 1.0
    up: Up = "z"
    assume_up: Literal["", "y", "z"] = ""
    fill: Literal["surface", "solid"] = "surface"

    gives: ClassVar[ViewKind] = "voxels"
    modalities: ClassVar[tuple[Modality, ...]] = ("shape",)

    def __post_init__(self) -> None:
        require_whole("resolution", self.resolution, low=1, high=MAX_RESOLUTION)
        require_extent(self.extent)

    @property
    def identity(self) -> dict[str, Any]:
        """Kind and options."""
        return options_of(self, "voxels")

    @property
    def shape(self) -> ViewShape | None:
        """Cells along x, y and z."""
        return self.resolution, self.resolution, self.resolution

    def columns(self) -> pa.Schema:
        """Return `tokenmill_schemas.arrow.SHAPE_VIEW_FIELDS`."""
        return shape_columns()

    def views(self, shape: Shape, key: str) -> Iterator[ViewOf]:  # noqa: ARG002 - nothing random
        """Yield the one view, ``surface`` or ``solid``.

        Raises:
            AssetError: ``no_geometry``, or ``unsupported`` for coordinates beyond all scaling.
        """
        axes = axes_of(shape, self.up, self.assume_up)
        grid, placement = self._occupied(shape, axes)
        if not grid.any():
            raise refused(shape, Reason.NO_GEOMETRY, "all of it lies outside the box of cells")
        if self.fill == "solid":
            grid = filled(grid)
        yield placement.view(turned_grid(grid, axes), self.fill)

    def _occupied(self, shape: Shape, axes: str) -> tuple[Bools, Placement]:
        if shape.content == "mesh":
            vertices, faces = surface(shape)
        else:
            vertices, faces = occupied_points(shape), None
        found = measure(vertices, self.normalise)
        cells = applied(vertices, found, self.normalise, self.extent)
        cells += 0.5
        cells *= self.resolution
        if faces is None:
            grid = point_voxels(cells, self.resolution)
        else:
            grid = surface_voxels(cells, faces, self.resolution)
        return grid, Placement(axes, found, self.normalise, self.extent)


PLUGIN = Voxels
