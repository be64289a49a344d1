"""One view: the whole picture near its own size, on the tokenizer's grid, nothing cropped."""

from __future__ import annotations

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
    require_positive,
)
from tokenmill.views.resize import Size, owned
from tokenmill_schemas.asset import Modality


@dataclass(frozen=True, slots=True)
class Native:
    """The whole picture, shrunk to a multiple of the grid with BICUBIC and never enlarged.

    Attributes:
        multiple: both sides are multiples of this; the aspect ratio gives way by less than that.
        max_side: the longer side is at most this.
        min_side: pictures with a shorter side are filtered; below ``multiple`` they always are.
    """

    multiple: int = 16
    max_side: int = 1024
    min_side: int = 0

    gives: ClassVar[ViewKind] = "image"
    modalities: ClassVar[tuple[Modality, ...]] = ("image",)

    def __post_init__(self) -> None:
        require_positive(multiple=self.multiple)
        if self.max_side < self.multiple:
            raise ValueError(f"max_side {self.max_side} is below multiple {self.multiple}")

    @property
    def identity(self) -> dict[str, Any]:
        """Kind, options and Pillow's version."""
        return identity_of(self, "native")

    @property
    def shape(self) -> None:
        """None: every picture has its own size."""
        return

    def columns(self) -> pa.Schema:
        """Return `tokenmill_schemas.arrow.IMAGE_VIEW_FIELDS`."""
        return image_columns()

    def views(self, picture: Picture, key: str) -> Iterator[ViewOf]:  # noqa: ARG002 - nothing random
        """Yield the one view, ``native``.

        Raises:
            AssetError: ``too_small``.
        """
        source = checked_size(picture, max(self.min_side, self.multiple))
        size = native_size(source, self.multiple, self.max_side)
        image = picture.image
        if size != source:
            image = image.resize(size, Image.Resampling.BICUBIC)
        yield placed(owned(image), 0, "native", (0, 0, *source))


def native_size(source: Size, multiple: int, max_side: int) -> Size:
    """Return the largest (w, h) on the grid within ``source`` scaled down to ``max_side``.

    A side that the scaling brings below one cell stays one cell.
    """
    longest = max(source)
    limit = min(longest, max_side)
    width, height = (
        max(multiple, side * limit // longest // multiple * multiple) for side in source
    )
    return width, height


PLUGIN = Native
