"""What all views share: checks, identities, and the coordinates of a view in its picture.

One law holds for every view of a picture: ``pixels`` is the part ``view.box`` of the upright
source, resized to ``view.size``, then mirrored left to right if ``view.flip``.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from PIL import __version__ as pillow_version

from tokenmill.decoders.base import Picture
from tokenmill.views.base import Pixels, ViewOf
from tokenmill.views.resize import Box, Fit, Rule, Size, fit
from tokenmill_schemas.arrow import IMAGE_VIEW_FIELDS
from tokenmill_schemas.errors import AssetError, Reason

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


#: Height and width, the order of ``view.size`` and of arrays.
Size2D = tuple[int, int]

_MAX_RESIZED_PIXELS = 100_000_000


def image_columns() -> pa.Schema:
    """Return the ``view.*`` columns of every image view."""
    return pa.schema(IMAGE_VIEW_FIELDS)


def identity_of(view: DataclassInstance, kind: str) -> dict[str, Any]:
    """Return the kind, all options and the resampling library's version, as JSON."""
    options = {name: _plain(value) for name, value in dataclasses.asdict(view).items()}
    return {"view": kind, **options, "pillow": pillow_version}


def _plain(value: Any) -> Any:
    return [_plain(entry) for entry in value] if isinstance(value, tuple) else value


def placed(pixels: Pixels, index: int, name: str, box: Box, *, flip: bool = False) -> ViewOf:
    """Return a view with its coordinates; ``box`` is in pixels of the upright source."""
    coordinates = {
        "view.index": index,
        "view.name": name,
        "view.box": [float(np.float32(edge)) for edge in box],
        "view.size": [int(pixels.shape[0]), int(pixels.shape[1])],
        "view.flip": flip,
    }
    return ViewOf(pixels, coordinates)


def mirrored(pixels: Pixels) -> Pixels:
    """Return a mirrored copy (left to right), C-contiguous."""
    return np.array(pixels[:, ::-1], order="C")


def as_size(size: Any) -> Size2D:
    """Return the option ``size``, a side or ``[height, width]`` in pixels, as (height, width).

    Raises:
        ValueError: it is neither, or not positive.
    """
    pair = (size, size) if isinstance(size, int) else tuple(size) if _is_pair(size) else ()
    if len(pair) != 2 or not all(type(side) is int and side > 0 for side in pair):
        raise ValueError(f"size must be a positive integer or [height, width], got {size!r}")
    return pair[0], pair[1]


def _is_pair(size: Any) -> bool:
    return isinstance(size, list | tuple)


def checked_size(picture: Picture, min_side: int) -> Size:
    """Return the upright picture's (width, height).

    Raises:
        AssetError: its short side is below ``min_side`` (``too_small``).
    """
    _check_side(picture.image.size, min_side, uri_of(picture.facts))
    return picture.image.size


def planned(picture: Picture, rule: Rule, target: Size2D, *, min_side: int) -> tuple[Fit, Size]:
    """Return how ``rule`` brings the picture to ``target`` (height, width), and its own (w, h).

    Raises:
        AssetError: as `fitted` does.
    """
    source = picture.image.size
    return fitted(source, rule, target, min_side=min_side, uri=uri_of(picture.facts)), source


def fitted(source: Size, rule: Rule, target: Size2D, *, min_side: int, uri: str) -> Fit:
    """Return how ``rule`` brings pictures of ``source`` (w, h) to ``target`` (height, width).

    Raises:
        AssetError: the picture is too small (``too_small``), or so long and thin that the resized
            picture would have more than 100 million pixels (``too_many_pixels``).
    """
    _check_side(source, min_side, uri)
    how = fit(rule, (target[1], target[0]), source)
    for (width, height), _ in how.steps:
        if width * height > _MAX_RESIZED_PIXELS:
            text = f"{source[0]}x{source[1]} would be resized to {width}x{height} by rule {rule!r}"
            raise AssetError(Reason.TOO_MANY_PIXELS, text, uri=uri, stage="view")
    return how


def _check_side(source: Size, min_side: int, uri: str) -> None:
    width, height = source
    if min(width, height) < min_side:
        text = f"{width}x{height} has a side below min_side = {min_side}"
        raise AssetError(Reason.TOO_SMALL, text, uri=uri, stage="view")


def uri_of(facts: dict[str, Any]) -> str:
    """Return the address of media with these facts, for errors."""
    return str(facts.get("asset.uri", ""))


def refusal(picture: Picture, reason: Reason, text: str) -> AssetError:
    """Return the error that says why a picture cannot give a view."""
    return AssetError(reason, text, uri=uri_of(picture.facts), stage="view")


def require_positive(**values: float) -> None:
    """Check options at construction.

    Raises:
        ValueError: a value is not above zero; names it.
    """
    for name, value in values.items():
        if value <= 0:
            raise ValueError(f"{name} must be positive, got {value}")
