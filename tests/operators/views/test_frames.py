from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from PIL import Image

from tokenmill.decoders.base import Picture
from tokenmill.testing.videos import MemoryVideo
from tokenmill.testing.views import check_clips
from tokenmill.views import open_view
from tokenmill_schemas.errors import AssetError, JobError, Reason


def film(frames: int) -> MemoryVideo:
    """A video of 25 fps."""
    return MemoryVideo([40 * i for i in range(frames)], (33, 50))


@pytest.mark.parametrize("fps", [0.0, 1.0, 2.5, 24.0, 25.0, 100.0])
def test_frames_keep_the_contract(fps: float) -> None:
    """Pickling, determinism, sizes, times, columns and numbers, at any rate."""
    view = open_view("frames", {"size": 16, "fps": fps})
    views = check_clips(view, lambda: film(60))
    assert view.gives == "image"
    assert view.shape == (16, 16)
    assert [v.coordinates["view.name"] for v in views] == [f"frame_{i}" for i in range(len(views))]


def test_frames_are_the_pictures_that_they_show() -> None:
    """Each is center_crop of the frame, to the bit, and says when it was."""
    video = film(60)
    views = list(open_view("frames", {"size": 16, "rule": "bilinear", "fps": 5.0}).views(video, ""))
    crop = open_view("center_crop", {"size": 16, "rule": "bilinear"})
    for number, view in enumerate(views):
        (expected,) = crop.views(Picture(Image.fromarray(video.pixels(5 * number)), {}), "")
        assert np.array_equal(view.data, expected.data)
        assert view.coordinates["view.pts"] == [200 * number]
        assert view.coordinates["view.start_s"] == view.coordinates["view.end_s"] == number / 5
    assert len(views) == 12
    assert video.converted == list(range(0, 60, 5))


def test_a_slow_video_gives_each_frame_once() -> None:
    """A rate above the video's own does not copy frames."""
    views = list(open_view("frames", {"size": 16, "fps": 100.0}).views(film(7), ""))
    assert [v.coordinates["view.pts"] for v in views] == [[40 * i] for i in range(7)]


def test_views_do_not_share_memory() -> None:
    """Writing into one frame leaves the next alone."""
    views = list(open_view("frames", {"size": 16, "fps": 0.0}).views(film(2), ""))
    views[0].data[:] = 0
    assert views[1].data.any()


def test_the_bound_ends_the_reading() -> None:
    """After max_frames the decoder is not asked for more than the one it had to look at."""
    video = film(100)
    views = list(open_view("frames", {"size": 16, "fps": 5.0, "max_frames": 4}).views(video, ""))
    assert len(views) == 4
    assert video.asked <= 16


def test_a_video_without_frames_is_too_short() -> None:
    """Should a decoder ever give one."""
    with pytest.raises(AssetError, match="no frames") as caught:
        list(open_view("frames").views(film(0), ""))
    assert caught.value.reason is Reason.TOO_SHORT


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fps": -0.1}, "fps must be 0"),
        ({"fps": 1001.0}, "fps must be 0"),
        ({"max_frames": 0}, "max_frames must be positive"),
        ({"max_frames": 70_000}, "max_frames is at most 65535"),
        ({"rule": "admm"}, "did you mean 'adm'"),
    ],
)
def test_bad_options_name_what_to_mend(options: dict[str, Any], message: str) -> None:
    """Every option is checked when the view is opened."""
    with pytest.raises(JobError, match=message):
        open_view("frames", options)
