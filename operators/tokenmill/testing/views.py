"""The contract of a view, for our kinds and yours: call `check_view` in a test."""

from __future__ import annotations

import pickle

import numpy as np
import pyarrow as pa

from tokenmill.decoders.base import Picture
from tokenmill.testing.checks import require, require_identity
from tokenmill.views.base import View, ViewOf


def check_view(view: View, picture: Picture, key: str = "key") -> list[ViewOf]:
    """Check every promise of `tokenmill.views.base.View` on one picture.

    Returns:
        The picture's views.

    Raises:
        AssertionError: a promise is broken; says which.
    """
    require_identity(view)
    clone = pickle.loads(pickle.dumps(view))  # noqa: S301 - our own bytes
    require(clone == view, "a pickled view equals its original")
    source = np.array(picture.image)
    views = list(view.views(picture, key))
    _check_equal(views, list(clone.views(picture, key)))
    require(np.array_equal(source, np.asarray(picture.image)), "a picture is left as it was")
    require(bool(views), "a picture gives at least one view, or an AssetError")
    for each in views:
        _check_pixels(view, each)
        _check_box(each, picture)
    rows = pa.Table.from_pylist([each.coordinates for each in views], schema=view.columns())
    rows.validate(full=True)
    indexes = [each.coordinates["view.index"] for each in views]
    require(indexes == list(range(len(views))), "views are numbered in order")
    require(len({each.coordinates["view.name"] for each in views}) == len(views), "names differ")
    return views


def _check_equal(first: list[ViewOf], second: list[ViewOf]) -> None:
    require(len(first) == len(second), "the number of views is deterministic")
    for one, other in zip(first, second, strict=True):
        require(one.coordinates == other.coordinates, "coordinates are deterministic")
        require(np.array_equal(one.data, other.data), "pixels are deterministic")


def _check_pixels(view: View, each: ViewOf) -> None:
    pixels = each.data
    require(pixels.dtype == np.uint8 and pixels.ndim == 3, "pixels are uint8[H, W, 3]")
    require(pixels.shape[2] == 3, "pixels are RGB")
    require(pixels.flags.c_contiguous and pixels.flags.owndata, "pixels own one block of memory")
    size = pixels.shape[:2]
    require(list(size) == list(each.coordinates["view.size"]), "view.size is the pixels' size")
    require(view.shape is None or tuple(view.shape) == size, "every view has the stated size")


def _check_box(each: ViewOf, picture: Picture) -> None:
    left, top, right, bottom = each.coordinates["view.box"]
    width, height = picture.image.size
    require(-0.01 <= left < right <= width * 1.0001, "the box lies in the picture, left to right")
    require(-0.01 <= top < bottom <= height * 1.0001, "the box lies in the picture, top to bottom")
