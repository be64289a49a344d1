"""What a view is: one deterministic reading of an asset, with coordinates that say which."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tokenmill.decoders.base import Picture

Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class ViewOf:
    """One view: ``pixels`` as ``uint8[H, W, 3]`` and the values of the ``view.*`` columns."""

    pixels: Pixels
    coordinates: dict[str, Any]


class View(Protocol):
    """A frozen, picklable rule that reads views from pictures."""

    @property
    def identity(self) -> dict[str, Any]:
        """Everything that can change a pixel or a coordinate, as JSON."""
        ...

    @property
    def size(self) -> tuple[int, int] | None:
        """Height and width of every view in pixels, or None when they vary."""
        ...

    def columns(self) -> pa.Schema:
        """Return the ``view.*`` columns that place a view in its asset."""
        ...

    def views(self, picture: Picture, key: str) -> Iterator[ViewOf]:
        """Yield the views of one picture in a fixed order; ``key`` seeds what is random.

        Raises:
            AssetError: the picture cannot give this view (``too_small``, ``no_bucket``).
        """
        ...
