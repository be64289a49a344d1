"""One view: points of a surface or a cloud."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import pyarrow as pa

from tokenmill.decoders.base import Shape
from tokenmill.views.base import ViewKind, ViewOf, ViewShape
from tokenmill.views.draws import Draws
from tokenmill.views.normalise import Floats, Normalise, Up, applied, measure, turned
from tokenmill.views.sampling import face_normals, farthest_points, surface_samples, units
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
from tokenmill_schemas.asset import Modality
from tokenmill_schemas.errors import Reason

MAX_POINTS = 1 << 20


@dataclass(frozen=True, slots=True)
class Points:
    """``float32[N, 3 or 6]``: seeded points, normalised, and with them unit normals.

    Points of a mesh are uniform on its surface; of a cloud or a splat they are a random subset.

    Attributes:
        count: N; clouds of fewer points are filtered (``too_small``).
        normals: add the normal of the face, or the one that a cloud states (else ``unsupported``).
        method: ``random``, or ``fps`` to keep the farthest points of ``oversample`` times as many
            (of a cloud at most all), starting with the first.
        oversample: how many random points ``fps`` chooses from, as a multiple of ``count``.
        measured: normalise by the ``shape``, or by the drawn ``points``, as those do who load
            clouds of fixed size (Point-BERT).
        normalise: what is centred and scaled, see `tokenmill.views.normalise`.
        extent: the size after scaling; 2 with ``radius`` is the unit sphere.
        up: the axis that points up in the view; shapes that do not say theirs are not turned.
        assume_up: the up axis of shapes whose format has none.
        seed: changes every draw.
    """

    count: int = 1024
    normals: bool = False
    method: Literal["random", "fps"] = "random"
    oversample: int = 4
    measured: Literal["shape", "points"] = "shape"
    normalise: Normalise = "radius"
    extent: float = 2.0
    up: Up = "as_is"
    assume_up: Literal["", "y", "z"] = ""
    seed: int = 0

    gives: ClassVar[ViewKind] = "points"
    modalities: ClassVar[tuple[Modality, ...]] = ("shape",)

    def __post_init__(self) -> None:
        require_whole("count", self.count, low=1, high=MAX_POINTS)
        require_whole("oversample", self.oversample, low=1, high=64)
        require_extent(self.extent)

    @property
    def identity(self) -> dict[str, Any]:
        """Kind and options."""
        return options_of(self, "points")

    @property
    def shape(self) -> ViewShape | None:
        """The number of points."""
        return (self.count,)

    def columns(self) -> pa.Schema:
        """Return `tokenmill_schemas.arrow.SHAPE_VIEW_FIELDS`."""
        return shape_columns()

    def views(self, shape: Shape, key: str) -> Iterator[ViewOf]:
        """Yield the one view, ``random`` or ``fps``.

        Raises:
            AssetError: ``no_geometry``, ``too_small``, or ``unsupported`` (no normals, or
                coordinates beyond all scaling).
        """
        read = self._of_mesh if shape.content == "mesh" else self._of_cloud
        points, normals, whole = read(shape, Draws(self.seed, key))
        if self.method == "fps":
            kept = farthest_points(points, self.count)
            points, normals = points[kept], None if normals is None else normals[kept]
        axes = axes_of(shape, self.up, self.assume_up)
        found = measure(whole if self.measured == "shape" else points, self.normalise)
        placed = turned(applied(points, found, self.normalise, self.extent), axes)
        data = placed if normals is None else np.hstack([placed, turned(normals, axes)])
        placement = Placement(axes, found, self.normalise, self.extent)
        yield placement.view(data.astype(np.float32), self.method, seed=self.seed)

    @property
    def _drawn(self) -> int:
        return self.count * (self.oversample if self.method == "fps" else 1)

    def _of_mesh(self, shape: Shape, draws: Draws) -> tuple[Floats, Floats | None, Floats]:
        """Return points, their normals where asked for, and all that the shape is measured by."""
        vertices, faces = surface(shape)
        measure(vertices, "none")  # areas of what cannot be scaled cannot be computed either
        try:
            points, found = surface_samples(vertices, faces, self._drawn, draws)
        except ValueError as error:
            raise refused(shape, Reason.NO_GEOMETRY, f"the surface is empty: {error}") from error
        normals = face_normals(vertices, faces[found]) if self.normals else None
        return points, normals, vertices

    def _of_cloud(self, shape: Shape, draws: Draws) -> tuple[Floats, Floats | None, Floats]:
        points = occupied_points(shape)
        if len(points) < self.count:
            text = f"it has {len(points)} points, count asks for {self.count}"
            raise refused(shape, Reason.TOO_SMALL, text)
        if self.normals and shape.normals is None:
            raise refused(shape, Reason.UNSUPPORTED, f"these {shape.content} have no normals")
        chosen = draws.subset(min(self._drawn, len(points)), len(points))
        normals = (
            units(shape.normals[chosen]) if self.normals and shape.normals is not None else None
        )
        return points[chosen], normals, points


PLUGIN = Points
