"""What a view is: one deterministic reading of an asset, with coordinates that say which."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tokenmill_schemas.asset import Modality

Array = npt.NDArray[Any]
Pixels = npt.NDArray[np.uint8]

#: What the data of a view is:
#:
#: ========= ==================== ======================================================
#: image     uint8[H, W, 3]       RGB
#: clip      uint8[T, H, W, 3]    RGB frames
#: voxels    bool[R, R, R]        occupancy, axes x, y, z
#: points    float32[N, 3 or 6]   x, y, z and, with six, the unit normal
#: mesh      int32[F, 3, 3]       triangles (face, corner, x y z) of quantised vertices
#: gaussians float32[N, C]        one splat a row, attributes as the 3DGS layout orders them
#: ========= ==================== ======================================================
ViewKind = Literal["image", "clip", "voxels", "points", "mesh", "gaussians"]
#: Sizes of a view's axes without channels and coordinates: (H, W), (T, H, W), (R, R, R), (N,) or
#: (F,); None for one that varies.
ViewShape = tuple[int | None, ...]


@dataclass(frozen=True, slots=True)
class ViewOf:
    """One view: its data (see `ViewKind`) and the values of the ``view.*`` columns."""

    data: Array
    coordinates: dict[str, Any]


@dataclass(frozen=True, slots=True)
class LongView:
    """A clip that is read in parts, because it may be too long for memory.

    ``parts`` are ``uint8[t, H, W, 3]`` in order, each a few frames; ``coordinates`` may be called
    when they are exhausted.
    """

    parts: Iterator[Array]
    coordinates: Callable[[], dict[str, Any]]


class View(Protocol):
    """A frozen, picklable rule that reads views from media."""

    @property
    def identity(self) -> dict[str, Any]:
        """Everything that can change a value or a coordinate, as JSON."""
        ...

    @property
    def modalities(self) -> tuple[Modality, ...]:
        """What it reads."""
        ...

    @property
    def gives(self) -> ViewKind:
        """What its views are."""
        ...

    @property
    def shape(self) -> ViewShape | None:
        """Shape of every view; None where all of it varies."""
        ...

    def columns(self) -> pa.Schema:
        """Return the ``view.*`` columns that place a view in its asset."""
        ...

    def views(self, media: Any, key: str, /) -> Iterator[Any]:
        """Yield the `ViewOf` or `LongView` of an asset in a fixed order; ``key`` seeds chance.

        Views are taken one at a time: a `LongView` is read to its end before the next is asked for.

        Raises:
            AssetError: the asset cannot give this view (``too_small``, ``no_bucket``, ...).
        """
        ...
