"""One view: a cleaned mesh on an integer grid."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import pyarrow as pa

from tokenmill.decoders.base import Shape
from tokenmill.views.base import ViewKind, ViewOf, ViewShape
from tokenmill.views.normalise import Up, turned
from tokenmill.views.quantise import MEASURES, Rule, Soup, binned, cleaned, measured, normalised
from tokenmill.views.shapes import (
    Placement,
    axes_of,
    options_of,
    refused,
    require_whole,
    shape_columns,
    surface,
)
from tokenmill_schemas.asset import Modality
from tokenmill_schemas.errors import Reason

MAX_BINS = 1 << 16


@dataclass(frozen=True, slots=True)
class Mesh:
    """``int32[F, 3, 3]``: triangles (face, corner, x y z) of vertices in ``bins`` steps an axis.

    ``view.center`` and ``view.scale`` lead to the rule's box ([-1, 1] for ``meshxl``, [-0.5, 0.5]
    for the others), from which `tokenmill.views.quantise` says how bins are counted.

    Attributes:
        rule: how vertices are normalised and rounded, and which faces stay.
        bins: steps along each axis; 128 are 7 bits, 512 are 9.
        min_faces: meshes that keep fewer are filtered (``too_small``).
        max_faces: meshes that keep more are refused (``too_many_faces``); 0 takes all.
        up: the axis that points up in the view; shapes that do not say theirs are not turned.
        assume_up: the up axis of shapes whose format has none.
    """

    rule: Rule = "meshxl"
    bins: int = 128
    min_faces: int = 1
    max_faces: int = 4096
    up: Up = "as_is"
    assume_up: Literal["", "y", "z"] = ""

    gives: ClassVar[ViewKind] = "mesh"
    modalities: ClassVar[tuple[Modality, ...]] = ("shape",)

    def __post_init__(self) -> None:
        require_whole("bins", self.bins, low=2, high=MAX_BINS)
        require_whole("max_faces", self.max_faces, low=0, high=2**31 - 1)
        require_whole("min_faces", self.min_faces, low=1, high=self.max_faces or 2**31 - 1)

    @property
    def identity(self) -> dict[str, Any]:
        """Kind and options."""
        return options_of(self, "mesh")

    @property
    def shape(self) -> ViewShape | None:
        """The number of faces, which varies."""
        return (None,)

    def columns(self) -> pa.Schema:
        """Return `tokenmill_schemas.arrow.SHAPE_VIEW_FIELDS`."""
        return shape_columns()

    def views(self, shape: Shape, key: str) -> Iterator[ViewOf]:  # noqa: ARG002 - nothing random
        """Yield the one view, named by its rule.

        Raises:
            AssetError: ``no_geometry``, ``too_small``, ``too_many_faces``, or ``other_content`` for
                what is no mesh and for coordinates beyond all scaling.
        """
        vertices, faces = surface(shape)
        found = measured(vertices, self.rule)
        axes = axes_of(shape, self.up, self.assume_up)
        placed = turned(normalised(vertices, found, self.rule), axes)
        soup = cleaned(binned(placed, self.rule, self.bins)[faces], self.rule)
        self._check(shape, soup)
        yield Placement(axes, found, *MEASURES[self.rule]).view(soup, self.rule)

    def _check(self, shape: Shape, soup: Soup) -> None:
        kept, given = len(soup), len(shape.faces)
        if not kept:
            text = f"none of {given} faces has an area in {self.bins} bins"
            raise refused(shape, Reason.NO_GEOMETRY, text)
        if kept < self.min_faces:
            text = f"it keeps {kept} of {given} faces, min_faces is {self.min_faces}"
            raise refused(shape, Reason.TOO_SMALL, text)
        if self.max_faces and kept > self.max_faces:
            text = f"it keeps {kept} of {given} faces, max_faces is {self.max_faces}"
            raise refused(shape, Reason.TOO_MANY_FACES, text)


PLUGIN = Mesh
