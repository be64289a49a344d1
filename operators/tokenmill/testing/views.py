"""The contract of a view, for our kinds and yours: call `check_view` or `check_clips` in a test."""

from __future__ import annotations

import itertools
import pickle
from collections.abc import Callable

import numpy as np
import pyarrow as pa

from tokenmill.decoders.base import Picture, Video
from tokenmill.testing.checks import require, require_identity
from tokenmill.views.base import LongView, View, ViewOf


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
        _check_inside(each, picture.image.size)
    _check_rows(view, views)
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


def _check_inside(each: ViewOf, size: tuple[int, int]) -> None:
    left, top, right, bottom = each.coordinates["view.box"]
    width, height = size
    require(-0.01 <= left < right <= width * 1.0001, "the box lies in the source, left to right")
    require(-0.01 <= top < bottom <= height * 1.0001, "the box lies in the source, top to bottom")


def check_clips(view: View, open_video: Callable[[], Video], key: str = "key") -> list[ViewOf]:
    """Check every promise of `tokenmill.views.base.View` on one video.

    Args:
        view: one that gives clips, or single frames of a video.
        open_video: opens the video anew.
        key: the asset's.

    Returns:
        The video's views, with the parts of long ones joined.

    Raises:
        AssertionError: a promise is broken; says which.
    """
    require_identity(view)
    clone = pickle.loads(pickle.dumps(view))  # noqa: S301 - our own bytes
    require(clone == view, "a pickled view equals its original")
    require("video" in view.modalities, "it reads videos")
    video = open_video()
    views = [_whole(each) for each in view.views(video, key)]
    _check_equal(views, [_whole(each) for each in clone.views(open_video(), key)])
    require(bool(views), "a video gives at least one view, or an AssetError")
    for each in views:
        _check_frames(view, each, video)
    _check_rows(view, views)
    return views


def _whole(view: ViewOf | LongView) -> ViewOf:
    if isinstance(view, ViewOf):
        return view
    parts = list(view.parts)
    require(all(len(part) for part in parts), "no part is empty")
    return ViewOf(np.concatenate(parts), view.coordinates())


def _check_frames(view: View, each: ViewOf, video: Video) -> None:
    frames = each.data if view.gives == "clip" else each.data[None]
    require(frames.dtype == np.uint8 and frames.ndim == 4, "a clip is uint8[T, H, W, 3]")
    require(frames.shape[3] == 3, "pixels are RGB")
    require(each.data.flags.c_contiguous and each.data.flags.owndata, "a view owns its memory")
    require(list(frames.shape[1:3]) == each.coordinates["view.size"], "view.size is the frames'")
    if view.shape is not None:
        sizes = zip(view.shape, each.data.shape[:-1], strict=True)
        require(all(a in (None, b) for a, b in sizes), "every view has the stated shape")
    _check_inside(each, (video.size[1], video.size[0]))
    pts = each.coordinates["view.pts"]
    require(len(pts) == len(frames), "view.pts has one timestamp a frame")
    require(all(a <= b for a, b in itertools.pairwise(pts)), "timestamps do not fall")
    ends = float(pts[0] * video.time_base), float(pts[-1] * video.time_base)
    stated = each.coordinates["view.start_s"], each.coordinates["view.end_s"]
    require(stated == ends, "view.start_s and view.end_s are the first and last frame's times")


def _check_rows(view: View, views: list[ViewOf]) -> None:
    rows = pa.Table.from_pylist([each.coordinates for each in views], schema=view.columns())
    rows.validate(full=True)
    indexes = [each.coordinates["view.index"] for each in views]
    require(indexes == list(range(len(views))), "views are numbered in order")
    require(len({each.coordinates["view.name"] for each in views}) == len(views), "names differ")
