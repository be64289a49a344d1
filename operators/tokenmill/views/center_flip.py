"""Two views: the centre crop and its mirror, LlamaGen's and RAR's pre-tokenization of ImageNet."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import pyarrow as pa

from tokenmill.decoders.base import Picture
from tokenmill.views.base import ViewKind, ViewOf, ViewShape
from tokenmill.views.coordinates import (
    as_size,
    identity_of,
    image_columns,
    mirrored,
    placed,
    planned,
)
from tokenmill.views.resize import Rule, apply, check_rule, owned, source_box
from tokenmill_schemas.asset import Modality


@dataclass(frozen=True, slots=True)
class CenterFlip:
    """A ``size`` x ``size`` centre crop and its mirror.

    Attributes:
        size: side of the views in pixels, or [height, width] for the rules that allow it; held
            as (height, width).
        rule: how the picture is resized and cropped.
        min_side: pictures with a shorter side are filtered; 0 takes all.
    """

    size: Any = 256
    rule: Rule = "adm"
    min_side: int = 0

    gives: ClassVar[ViewKind] = "image"
    modalities: ClassVar[tuple[Modality, ...]] = ("image",)

    def __post_init__(self) -> None:
        object.__setattr__(self, "size", as_size(self.size))
        check_rule(self.rule, self.size)

    @property
    def identity(self) -> dict[str, Any]:
        """Kind, options and Pillow's version."""
        return identity_of(self, "center_flip")

    @property
    def shape(self) -> ViewShape | None:
        """Height and width of every view in pixels."""
        height, width = self.size
        return height, width

    def columns(self) -> pa.Schema:
        """Return `tokenmill_schemas.arrow.IMAGE_VIEW_FIELDS`."""
        return image_columns()

    def views(self, picture: Picture, key: str) -> Iterator[ViewOf]:  # noqa: ARG002 - nothing random
        """Yield ``center``, then ``center_flip``.

        Raises:
            AssetError: ``too_small``, or ``too_many_pixels`` for a very long and thin picture.
        """
        how, source = planned(picture, self.rule, self.size, min_side=self.min_side)
        box = source_box(how, source)
        pixels = owned(apply(picture.image, how))
        yield placed(pixels, 0, "center", box)
        yield placed(mirrored(pixels), 1, "center_flip", box, flip=True)


PLUGIN = CenterFlip
