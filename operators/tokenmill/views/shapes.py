"""What all views of 3D shapes share: columns, coordinates, checks of options, the used surface.

One law holds for every view: it is the shape turned by ``view.axes``, less ``view.center``, times
``view.scale``. What is then done with those coordinates (cells, samples, bins) the view says.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tokenmill.decoders.base import Shape
from tokenmill.views.base import Array, ViewOf
from tokenmill.views.normalise import Floats, Measure, Normalise, Up, axes_between, turned
from tokenmill_schemas.arrow import SHAPE_VIEW_FIELDS
from tokenmill_schemas.errors import AssetError, Reason

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Faces = npt.NDArray[np.int64]

#: ``view.seed`` of a view that draws nothing.
UNSEEDED = -1


def shape_columns() -> pa.Schema:
    """Return the ``view.*`` columns of every view of a shape."""
    return pa.schema(SHAPE_VIEW_FIELDS)


def options_of(view: DataclassInstance, kind: str) -> dict[str, Any]:
    """Return the kind and all options, as JSON: the views compute with nothing that may change."""
    return {"view": kind, **dataclasses.asdict(view)}


def axes_of(shape: Shape, up: Up, assume_up: str) -> str:
    """Return the turn for a shape; ``assume_up`` stands in where its format has no convention."""
    return axes_between(shape.up_axis or assume_up, up)


@dataclasses.dataclass(frozen=True, slots=True)
class Placement:
    """How a view lies in its shape: the turn, the measure on stored axes, and its extent."""

    axes: str
    found: Measure
    rule: Normalise
    extent: float

    def coordinates(self, name: str, *, seed: int = UNSEEDED) -> dict[str, Any]:
        """Return the values of the ``view.*`` columns."""
        center = turned(np.array(self.found.center), self.axes)
        scale = 1.0 if self.rule == "none" else self.extent / self.found.size
        return {
            "view.index": 0,
            "view.name": name,
            "view.axes": self.axes,
            "view.center": [float(value) + 0.0 for value in center],  # no negative zeros
            "view.scale": scale,
            "view.seed": seed,
        }

    def view(self, data: Array, name: str, *, seed: int = UNSEEDED) -> ViewOf:
        """Return the view with its coordinates."""
        return ViewOf(data, self.coordinates(name, seed=seed))


def surface(shape: Shape) -> tuple[Floats, Faces]:
    """Return the vertices that faces use and the faces over them: the surface alone counts.

    Raises:
        AssetError: it is no mesh (``other_content``), or has no face (``no_geometry``).
    """
    if shape.content != "mesh":
        text = f"it holds {shape.content}; this view reads the faces of meshes"
        raise refused(shape, Reason.OTHER_CONTENT, text)
    if not len(shape.faces):
        raise refused(shape, Reason.NO_GEOMETRY, "the mesh has no face")
    used = np.zeros(len(shape.vertices), bool)
    used[shape.faces.reshape(-1)] = True
    if used.all():
        return shape.vertices, shape.faces
    renumbered = np.cumsum(used) - 1
    return shape.vertices[used], renumbered[shape.faces]


def occupied_points(shape: Shape) -> Floats:
    """Return the points of a cloud, or the centres of a splat's Gaussians.

    Raises:
        AssetError: there is none (``no_geometry``).
    """
    if not len(shape.vertices):
        raise refused(shape, Reason.NO_GEOMETRY, f"it holds no {shape.content}")
    return shape.vertices


def refused(shape: Shape, reason: Reason, text: str) -> AssetError:
    """Return the error that says why a shape cannot give a view."""
    return AssetError(reason, text, uri=str(shape.facts.get("asset.uri", "")), stage="view")


def require_whole(name: str, value: int, *, low: int, high: int) -> None:
    """Check an option at construction.

    Raises:
        ValueError: it is outside [low, high].
    """
    if not low <= value <= high:
        raise ValueError(f"{name} must be between {low} and {high}, got {value}")


def require_extent(extent: float) -> None:
    """Check the option ``extent``.

    Raises:
        ValueError: it is no positive number.
    """
    if not 0 < extent < float("inf"):
        raise ValueError(f"extent must be a positive number, got {extent}")
