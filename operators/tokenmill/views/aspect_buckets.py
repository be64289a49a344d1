"""One view in the bucket whose aspect ratio is nearest, as in Infinity (arXiv:2412.04431).

A bucket is a height and a width. With ``area`` they are made from ``ratios``: for height : width =
p : q the multiple k of (p, q) grid cells whose count p q k^2 is nearest to the budget, which gives
exact ratios on the grid (Infinity's own table at 0.06M, 0.25M and 1M). The picture covers its
bucket with LANCZOS and the surplus is cropped evenly.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import pyarrow as pa

from tokenmill.decoders.base import Picture
from tokenmill.views.base import ViewKind, ViewOf, ViewShape
from tokenmill.views.coordinates import (
    identity_of,
    image_columns,
    placed,
    planned,
    refusal,
    require_positive,
)
from tokenmill.views.resize import Fit, Size, apply, owned, source_box
from tokenmill_schemas.asset import Modality
from tokenmill_schemas.errors import Reason

#: Height : width of Infinity's templates, tall to wide.
RATIOS = (
    (3, 1), (5, 2), (2, 1), (7, 4), (3, 2), (4, 3), (5, 4), (1, 1),
    (4, 5), (3, 4), (2, 3), (4, 7), (1, 2), (2, 5), (1, 3),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class AspectBuckets:
    """The whole picture in its nearest bucket, but for what the crop cuts off.

    Attributes:
        area: pixels of a bucket, about.
        multiple: heights and widths are multiples of this (the tokenizer's stride).
        ratios: height and width of each bucket as small integers.
        buckets: heights and widths in pixels; when given, the three above are not used.
        max_loss: pictures that would lose a larger part of their area are filtered.
        min_side: pictures with a shorter side are filtered; 0 takes all.
    """

    area: int = 65536
    multiple: int = 16
    ratios: tuple[tuple[int, int], ...] = RATIOS
    buckets: tuple[tuple[int, int], ...] = ()
    max_loss: float = 1.0
    min_side: int = 0

    gives: ClassVar[ViewKind] = "image"
    modalities: ClassVar[tuple[Modality, ...]] = ("image",)

    def __post_init__(self) -> None:
        require_positive(area=self.area, multiple=self.multiple)
        for height, width in (*self.ratios, *self.buckets):
            require_positive(height=height, width=width)
        if not (self.buckets or self.ratios):
            raise ValueError("give ratios or buckets")

    @property
    def identity(self) -> dict[str, Any]:
        """Kind, options and Pillow's version."""
        return identity_of(self, "aspect_buckets")

    @property
    def shape(self) -> ViewShape | None:
        """Height and width if there is only one bucket, else None."""
        sizes = self.sizes()
        return sizes[0] if len(sizes) == 1 else None

    def sizes(self) -> tuple[tuple[int, int], ...]:
        """Return the (height, width) of every bucket, in the order that ties are broken in."""
        if self.buckets:
            return self.buckets
        return tuple(bucket(ratio, self.area, self.multiple) for ratio in self.ratios)

    def columns(self) -> pa.Schema:
        """Return `tokenmill_schemas.arrow.IMAGE_VIEW_FIELDS`."""
        return image_columns()

    def views(self, picture: Picture, key: str) -> Iterator[ViewOf]:  # noqa: ARG002 - nothing random
        """Yield the one view, named after its bucket: ``240x320`` (height x width).

        Raises:
            AssetError: ``too_small``; ``no_bucket`` when the crop would lose too much;
                ``too_many_pixels`` for a very long and thin picture.
        """
        height, width = nearest(picture.image.size, self.sizes())
        how, source = planned(picture, "cover", (height, width), min_side=self.min_side)
        loss = lost(how)
        if loss > self.max_loss:
            text = (
                f"{source[0]}x{source[1]} would lose {loss:.1%} of its area in the nearest bucket "
                f"{width}x{height}; max_loss is {self.max_loss:.1%}"
            )
            raise refusal(picture, Reason.NO_BUCKET, text)
        pixels = owned(apply(picture.image, how))
        yield placed(pixels, 0, f"{height}x{width}", source_box(how, source))


def bucket(ratio: tuple[int, int], area: int, multiple: int) -> tuple[int, int]:
    """Return the (height, width) of ratio ``p : q`` on the grid whose area is nearest ``area``."""
    shared = math.gcd(*ratio)
    p, q = ratio[0] // shared, ratio[1] // shared
    cells = area / multiple**2
    k = max(1, math.isqrt(int(cells / (p * q))))
    k = min((k, k + 1), key=lambda each: abs(p * q * each**2 - cells))
    return p * k * multiple, q * k * multiple


def nearest(source: Size, sizes: tuple[tuple[int, int], ...]) -> tuple[int, int]:
    """Return the (height, width) whose height / width is nearest the picture's; first on ties."""
    ratio = source[1] / source[0]
    return min(sizes, key=lambda size: abs(size[0] / size[1] - ratio))


def lost(how: Fit) -> float:
    """Return the part of the picture's area that the crop cuts off."""
    width, height = how.steps[-1][0]
    left, top, right, bottom = how.crop
    return 1 - (right - left) * (bottom - top) / (width * height)


PLUGIN = AspectBuckets
