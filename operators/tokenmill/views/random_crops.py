"""Seeded random crops by the law of ``RandomResizedCrop`` (Szegedy et al., arXiv:1409.4842).

The area is uniform in ``scale`` (as a part of the picture), the logarithm of width / height uniform
in ``ratio``; after ten draws that do not fit comes the largest centre crop of an allowed ratio.
Chance comes from `tokenmill.views.draws`: a view depends on nothing but the job's seed and its own
asset.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import pyarrow as pa
from PIL import Image

from tokenmill.decoders.base import Picture
from tokenmill.views.base import ViewKind, ViewOf, ViewShape
from tokenmill.views.coordinates import (
    as_size,
    checked_size,
    identity_of,
    image_columns,
    mirrored,
    placed,
    require_positive,
)
from tokenmill.views.draws import Draws
from tokenmill.views.resize import Size, cut, owned
from tokenmill_schemas.asset import Modality

_ATTEMPTS = 10
IntBox = tuple[int, int, int, int]


@dataclass(frozen=True, slots=True)
class RandomCrops:
    """``count`` random crops, each resized to ``size`` with BICUBIC.

    Attributes:
        size: side of the views in pixels, or [height, width]; held as (height, width).
        count: views per picture; view i stays the same when ``count`` grows.
        seed: changes every crop.
        scale: smallest and largest area as parts of the picture.
        ratio: smallest and largest width / height.
        flip: mirror each view with probability one half.
        min_side: pictures with a shorter side are filtered; 0 takes all.
    """

    size: Any = 256
    count: int = 4
    seed: int = 0
    scale: tuple[float, float] = (0.2, 1.0)
    ratio: tuple[float, float] = (0.75, 4 / 3)
    flip: bool = True
    min_side: int = 0

    gives: ClassVar[ViewKind] = "image"
    modalities: ClassVar[tuple[Modality, ...]] = ("image",)

    def __post_init__(self) -> None:
        object.__setattr__(self, "size", as_size(self.size))
        require_positive(count=self.count, scale=self.scale[0], ratio=self.ratio[0])
        if self.scale[0] > self.scale[1] or self.scale[1] > 1 or self.ratio[0] > self.ratio[1]:
            raise ValueError(
                f"scale and ratio are [smallest, largest] and scale is at most 1, got "
                f"scale = {list(self.scale)}, ratio = {list(self.ratio)}"
            )

    @property
    def identity(self) -> dict[str, Any]:
        """Kind, options and Pillow's version."""
        return identity_of(self, "random_crops")

    @property
    def shape(self) -> ViewShape | None:
        """Height and width of every view in pixels."""
        height, width = self.size
        return height, width

    def columns(self) -> pa.Schema:
        """Return `tokenmill_schemas.arrow.IMAGE_VIEW_FIELDS`."""
        return image_columns()

    def views(self, picture: Picture, key: str) -> Iterator[ViewOf]:
        """Yield ``random_0``, ``random_1``, ...

        Raises:
            AssetError: ``too_small``.
        """
        source = checked_size(picture, self.min_side)
        draws = Draws(self.seed, key)
        for index in range(self.count):
            box = self._box(draws, source)
            flip = bool(draws.below(2)) and self.flip
            part = cut(picture.image, box)
            pixels = owned(part.resize((self.size[1], self.size[0]), Image.Resampling.BICUBIC))
            yield placed(
                mirrored(pixels) if flip else pixels, index, f"random_{index}", box, flip=flip
            )

    def _box(self, draws: Draws, source: Size) -> IntBox:
        low, high = math.log(self.ratio[0]), math.log(self.ratio[1])
        for _ in range(_ATTEMPTS):
            area = source[0] * source[1] * draws.uniform(*self.scale)
            ratio = math.exp(draws.uniform(low, high))
            width, height = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if 0 < width <= source[0] and 0 < height <= source[1]:
                left, top = draws.below(source[0] - width + 1), draws.below(source[1] - height + 1)
                return left, top, left + width, top + height
        return _largest(source, self.ratio)


def _largest(source: Size, ratio: tuple[float, float]) -> IntBox:
    """Return the largest centre crop whose width / height lies in ``ratio``."""
    width, height = source
    if width < height * ratio[0]:
        height = max(1, min(height, round(width / ratio[0])))
    elif width > height * ratio[1]:
        width = max(1, min(width, round(height * ratio[1])))
    left, top = (source[0] - width) // 2, (source[1] - height) // 2
    return left, top, left + width, top + height


PLUGIN = RandomCrops
