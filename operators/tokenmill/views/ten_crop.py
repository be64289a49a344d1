"""Ten views a crop range: four corners, the centre, and the same of the mirrored picture.

LlamaGen, GigaTok and RAR pre-tokenize ImageNet with the ADM crop at 1.1 times the size and
torchvision's ``TenCrop``; GigaTok and Semanticist add a second ten at 1.05.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

from tokenmill.decoders.base import Picture
from tokenmill.views.base import Pixels, ViewKind, ViewOf, ViewShape
from tokenmill.views.coordinates import (
    as_size,
    identity_of,
    image_columns,
    mirrored,
    placed,
    planned,
)
from tokenmill.views.resize import (
    Box,
    Fit,
    Rule,
    Size,
    apply,
    center,
    check_rule,
    owned,
    source_box,
)
from tokenmill_schemas.asset import Modality


@dataclass(frozen=True, slots=True)
class TenCrop:
    """Ten ``size`` x ``size`` crops of a larger centre crop, for each of ``ranges``.

    Attributes:
        size: side of the views in pixels, or [height, width] for the rules that allow it; held
            as (height, width).
        ranges: sides of the larger crops as multiples of ``size`` (the product is cut to an
            integer); each is resized once.
        rule: how the picture is brought to the larger crop.
        min_side: pictures with a shorter side are filtered; 0 takes all.
    """

    size: Any = 256
    ranges: tuple[float, ...] = (1.1,)
    rule: Rule = "adm"
    min_side: int = 0

    gives: ClassVar[ViewKind] = "image"
    modalities: ClassVar[tuple[Modality, ...]] = ("image",)

    def __post_init__(self) -> None:
        object.__setattr__(self, "size", as_size(self.size))
        check_rule(self.rule, self.size)
        if not self.ranges or min(self.ranges) < 1:
            raise ValueError(f"ranges must be one or more numbers >= 1, got {list(self.ranges)}")

    @property
    def identity(self) -> dict[str, Any]:
        """Kind, options and Pillow's version."""
        return identity_of(self, "ten_crop")

    @property
    def shape(self) -> ViewShape | None:
        """Height and width of every view in pixels."""
        height, width = self.size
        return height, width

    def columns(self) -> pa.Schema:
        """Return `tokenmill_schemas.arrow.IMAGE_VIEW_FIELDS`."""
        return image_columns()

    def views(self, picture: Picture, key: str) -> Iterator[ViewOf]:  # noqa: ARG002 - nothing random
        """Yield ``1.1/tl``, ``tr``, ``bl``, ``br``, ``center``, then ``1.1/mirror_tl``, ...

        ``mirror_tl`` is the top left of the mirrored picture, so its box lies at the top right.

        Raises:
            AssetError: ``too_small``, or ``too_many_pixels`` for a very long and thin picture.
        """
        for i, factor in enumerate(self.ranges):
            for j, view in enumerate(self._ten(picture, factor)):
                yield placed(
                    view.pixels, 10 * i + j, f"{factor}/{view.name}", view.box, flip=view.flip
                )

    def _ten(self, picture: Picture, factor: float) -> Iterator[_Crop]:
        height, width = self.size
        large = int(height * factor), int(width * factor)
        how, source = planned(picture, self.rule, large, min_side=self.min_side)
        upright = owned(apply(picture.image, how))
        flipped = mirrored(upright)
        for name, flip, (left, top) in _corners((large[1], large[0]), (width, height)):
            pixels = flipped if flip else upright
            kept = np.array(pixels[top : top + height, left : left + width], order="C")
            x = large[1] - width - left if flip else left
            yield _Crop(name, flip, _inner_box(how, source, (x, top), (width, height)), kept)


@dataclass(frozen=True, slots=True)
class _Crop:
    name: str
    flip: bool
    box: Box
    pixels: Pixels


def _corners(large: Size, size: Size) -> Iterator[tuple[str, bool, tuple[int, int]]]:
    """Yield name, flip, left and top in torchvision's order; mirrored ones in the mirror."""
    right, bottom = large[0] - size[0], large[1] - size[1]
    five = {
        "tl": (0, 0),
        "tr": (right, 0),
        "bl": (0, bottom),
        "br": (right, bottom),
        "center": center(large, size)[:2],
    }
    for prefix, flip in (("", False), ("mirror_", True)):
        for name, corner in five.items():
            yield prefix + name, flip, corner


def _inner_box(how: Fit, source: Size, corner: tuple[int, int], size: Size) -> Box:
    left, top = how.crop[0] + corner[0], how.crop[1] + corner[1]
    return source_box(Fit(how.steps, (left, top, left + size[0], top + size[1])), source)


PLUGIN = TenCrop
