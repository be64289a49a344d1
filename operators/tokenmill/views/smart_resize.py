"""One view: the whole picture at a size near its own, within limits of area, on a grid.

The rule of Emu3's image processor (github.com/baaivision/Emu3, image_processing_emu3visionvq.py),
which comes from Qwen2-VL (arXiv:2409.12191).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import pyarrow as pa
from PIL import Image

from tokenmill.decoders.base import Picture
from tokenmill.views.base import ViewKind, ViewOf
from tokenmill.views.coordinates import (
    checked_size,
    identity_of,
    image_columns,
    placed,
    refusal,
    require_positive,
)
from tokenmill.views.resize import Size, owned
from tokenmill_schemas.asset import Modality
from tokenmill_schemas.errors import Reason


@dataclass(frozen=True, slots=True)
class SmartResize:
    """The whole picture, resized with BICUBIC; nothing is cropped, small ones are enlarged.

    Attributes:
        multiple: both sides are multiples of this.
        min_pixels: smaller pictures are enlarged to at least this area.
        max_pixels: larger ones are shrunk to at most this area.
        max_aspect: pictures that are longer and thinner are filtered (``no_bucket``).
    """

    multiple: int = 8
    min_pixels: int = 512 * 512
    max_pixels: int = 1024 * 1024
    max_aspect: float = 5.0

    gives: ClassVar[ViewKind] = "image"
    modalities: ClassVar[tuple[Modality, ...]] = ("image",)

    def __post_init__(self) -> None:
        require_positive(multiple=self.multiple, min_pixels=self.min_pixels)
        if self.max_pixels < max(self.min_pixels, self.multiple**2) or self.max_aspect < 1:
            raise ValueError(
                "max_pixels must be at least min_pixels and one cell, max_aspect at least 1; got "
                f"{self.max_pixels}, {self.min_pixels}, {self.max_aspect}"
            )

    @property
    def identity(self) -> dict[str, Any]:
        """Kind, options and Pillow's version."""
        return identity_of(self, "smart_resize")

    @property
    def shape(self) -> None:
        """None: every picture has its own size."""
        return

    def columns(self) -> pa.Schema:
        """Return `tokenmill_schemas.arrow.IMAGE_VIEW_FIELDS`."""
        return image_columns()

    def views(self, picture: Picture, key: str) -> Iterator[ViewOf]:  # noqa: ARG002 - nothing random
        """Yield the one view, ``smart_resize``.

        Raises:
            AssetError: ``too_small`` (a side is below ``multiple``), or ``no_bucket``.
        """
        source = checked_size(picture, self.multiple)
        if max(source) > self.max_aspect * min(source):
            text = f"{source[0]}x{source[1]} has an aspect ratio above {self.max_aspect:g}"
            raise refusal(picture, Reason.NO_BUCKET, text)
        size = smart_size(source, self.multiple, pixels=(self.min_pixels, self.max_pixels))
        image = picture.image
        if size != source:
            image = image.resize(size, Image.Resampling.BICUBIC)
        yield placed(owned(image), 0, "smart_resize", (0, 0, *source))


def smart_size(source: Size, multiple: int, *, pixels: tuple[int, int]) -> Size:
    """Return the (w, h) on the grid that is nearest to ``source``, its area within ``pixels``.

    Sides are rounded (half to even) if the area then fits; otherwise both are scaled alike, and cut
    down or up to the grid. A side stays at least one cell.
    """
    lowest, highest = pixels
    area = source[0] * source[1]
    sides = [round(side / multiple) * multiple for side in source]
    if sides[0] * sides[1] > highest:
        shrink = math.sqrt(area / highest)
        sides = [math.floor(side / shrink / multiple) * multiple for side in source]
    elif sides[0] * sides[1] < lowest:
        enlarge = math.sqrt(lowest / area)
        sides = [math.ceil(side * enlarge / multiple) * multiple for side in source]
    return max(multiple, sides[0]), max(multiple, sides[1])


PLUGIN = SmartResize
