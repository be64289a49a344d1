"""One view: the Gaussians of a splat, normalised, with spherical harmonics of one degree.

A Gaussian's row holds what a 3DGS file stores (Kerbl et al., "3D Gaussian Splatting for Real-Time
Radiance Field Rendering", 2023), in the file's order, the unused normals apart; see `Layout`. When
positions are scaled by s, the logarithms of the scales grow by ln s, so that the splat looks the
same from as far, relatively, as before. Rotations become unit quaternions.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tokenmill.decoders.base import Shape
from tokenmill.decoders.ply import REST_COUNTS, splat_names
from tokenmill.views.base import ViewKind, ViewOf, ViewShape
from tokenmill.views.normalise import applied, measure
from tokenmill.views.shapes import (
    Placement,
    options_of,
    refused,
    require_extent,
    require_whole,
    shape_columns,
)
from tokenmill_schemas.asset import Modality
from tokenmill_schemas.errors import Reason

Floats = npt.NDArray[np.float64]
Rows = npt.NDArray[np.float32]

MAX_GAUSSIANS = 1 << 24


@dataclass(frozen=True, slots=True)
class Layout:
    """Which columns of a view ``float32[N, channels]`` hold what, for harmonics of ``degree``.

    ======== ======= ======================================================================
    position 3       x, y, z
    colour   3       ``f_dc``: the harmonics' constant terms, red, green, blue
    rest     0 to 45 ``f_rest``: the others, all of red, then of green, then of blue
    opacity  1       its logit
    scale    3       natural logarithms of the standard deviations
    rotation 4       quaternion w, x, y, z
    ======== ======= ======================================================================
    """

    degree: int

    @property
    def names(self) -> tuple[str, ...]:
        """The columns' names in a 3DGS file."""
        return ("x", "y", "z", *splat_names(self.degree))

    @property
    def channels(self) -> int:
        """14, 23, 38 or 59."""
        return 14 + self.rest_count

    @property
    def rest_count(self) -> int:
        """0, 9, 24 or 45."""
        return REST_COUNTS[self.degree]

    @property
    def position(self) -> slice:
        """Columns of the centre."""
        return slice(0, 3)

    @property
    def colour(self) -> slice:
        """Columns of the constant terms."""
        return slice(3, 6)

    @property
    def rest(self) -> slice:
        """Columns of the harmonics of degree 1 and above."""
        return slice(6, 6 + self.rest_count)

    @property
    def opacity(self) -> slice:
        """Column of the opacity."""
        return slice(6 + self.rest_count, 7 + self.rest_count)

    @property
    def scale(self) -> slice:
        """Columns of the scales."""
        return slice(7 + self.rest_count, 10 + self.rest_count)

    @property
    def rotation(self) -> slice:
        """Columns of the rotation."""
        return slice(10 + self.rest_count, 14 + self.rest_count)


@dataclass(frozen=True, slots=True)
class Gaussians:
    """``float32[N, C]``, a Gaussian a row in the file's order; C by `Layout`.

    Attributes:
        degree: of the spherical harmonics, 0 to 3: higher ones are left out, missing ones are 0.
        normalise: what is centred and scaled, see `tokenmill.views.normalise`.
        extent: the size after scaling: positions lie in [-extent / 2, extent / 2].
        inside: the share of Gaussians, on each axis, between the planes that are measured; those
            beyond a plane are dropped. Below 1 it takes the few away that float far outside.
        min_opacity: Gaussians that are less opaque are dropped.
        min_count: splats of which fewer are left are filtered (``too_small``).
        max_count: splats of which more are left are refused (``too_many_points``).
    """

    degree: int = 0
    normalise: Literal["longest_side", "diagonal", "none"] = "longest_side"
    extent: float = 1.0
    inside: float = 1.0
    min_opacity: float = 0.0
    min_count: int = 1
    max_count: int = 1 << 20

    gives: ClassVar[ViewKind] = "gaussians"
    modalities: ClassVar[tuple[Modality, ...]] = ("shape",)

    def __post_init__(self) -> None:
        require_whole("degree", self.degree, low=0, high=len(REST_COUNTS) - 1)
        require_whole("max_count", self.max_count, low=1, high=MAX_GAUSSIANS)
        require_whole("min_count", self.min_count, low=1, high=self.max_count)
        require_extent(self.extent)
        if not (0 < self.inside <= 1 and 0 <= self.min_opacity < 1):
            raise ValueError(
                "inside must be in (0, 1] and min_opacity in [0, 1), "
                f"got {self.inside} and {self.min_opacity}"
            )

    @property
    def identity(self) -> dict[str, Any]:
        """Kind and options."""
        return options_of(self, "gaussians")

    @property
    def shape(self) -> ViewShape | None:
        """The number of Gaussians varies."""
        return (None,)

    def columns(self) -> pa.Schema:
        """Return `tokenmill_schemas.arrow.SHAPE_VIEW_FIELDS`."""
        return shape_columns()

    def views(self, shape: Shape, key: str) -> Iterator[ViewOf]:  # noqa: ARG002 - nothing random
        """Yield the one view, named by its rule.

        Raises:
            AssetError: ``other_content`` (no splat), ``corrupt`` (a rotation of no length),
                ``too_small``, ``too_many_points``, or ``no_geometry`` (a single place).
        """
        positions, rows = self._kept(shape)
        layout = Layout(self.degree)
        found = measure(positions, self.normalise)
        placement = Placement("xyz", found, self.normalise, self.extent)
        growth = math.log(placement.coordinates(self.normalise)["view.scale"])
        data = np.empty((len(rows), layout.channels), np.float32)
        data[:, layout.position] = applied(positions, found, self.normalise, self.extent)
        data[:, 3:] = with_degree(rows, self.degree)
        data[:, layout.scale] = data[:, layout.scale].astype(np.float64) + growth
        data[:, layout.rotation] = _units(shape, data[:, layout.rotation])
        yield placement.view(data, self.normalise)

    def _kept(self, shape: Shape) -> tuple[Floats, Rows]:
        """Return the centres ``float64[N, 3]`` and the attributes of those that are not dropped."""
        attributes = shape.attributes
        if attributes is None or shape.content != "gaussians":
            text = f"it holds {shape.content}; this view reads Gaussian splats"
            raise refused(shape, Reason.OTHER_CONTENT, text)
        kept = np.ones(len(attributes), bool)
        if self.min_opacity > 0:
            # Compared as logits: no exponential, whose last bit is the machine's.
            least = math.log(self.min_opacity / (1 - self.min_opacity))
            kept = attributes[:, shape.attribute_names.index("opacity")] >= least
        kept &= _between(shape.vertices, kept, self.inside)
        count = int(kept.sum())
        if not self.min_count <= count <= self.max_count:
            few = count < self.min_count
            bound = f"min_count is {self.min_count}" if few else f"max_count is {self.max_count}"
            reason = Reason.TOO_SMALL if few else Reason.TOO_MANY_POINTS
            raise refused(shape, reason, f"{count} Gaussians are left; {bound}")
        return shape.vertices[kept], attributes[kept]


def _between(positions: Floats, kept: npt.NDArray[np.bool_], share: float) -> Any:
    """Return which positions lie between the planes that ``share`` of the kept ones lie between."""
    if share == 1 or not kept.any():
        return kept
    chosen = np.sort(positions[kept], axis=0)
    outside = int((1 - share) / 2 * len(chosen))
    low, high = chosen[outside], chosen[len(chosen) - 1 - outside]
    return ((positions >= low) & (positions <= high)).all(axis=1)


def with_degree(rows: Rows, degree: int) -> Rows:
    """Return attributes ``float32[N, C - 3]`` with spherical harmonics of another degree.

    Higher coefficients are left out, missing ones are zeros.
    """
    given = rows.shape[1] - len(splat_names(0))
    have, want = given // 3, REST_COUNTS[degree] // 3
    rest = np.zeros((len(rows), 3, want), np.float32)
    shared = min(have, want)
    rest[:, :, :shared] = rows[:, 3 : 3 + given].reshape(len(rows), 3, have)[:, :, :shared]
    return np.concatenate(
        [rows[:, :3], rest.reshape(len(rows), 3 * want), rows[:, 3 + given :]], axis=1
    )


def _units(shape: Shape, rotations: Rows) -> Rows:
    """Return quaternions of length 1; w is not negative."""
    wide = rotations.astype(np.float64)
    squares = wide[:, 0] ** 2 + wide[:, 1] ** 2 + wide[:, 2] ** 2 + wide[:, 3] ** 2
    if not (squares > 0).all():
        raise refused(shape, Reason.CORRUPT, "a Gaussian has a rotation of length 0")
    unit = wide / np.sqrt(squares)[:, None]
    return np.where(unit[:, :1] < 0, -unit, unit).astype(np.float32)


PLUGIN = Gaussians
