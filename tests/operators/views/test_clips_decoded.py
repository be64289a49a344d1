from __future__ import annotations

import io
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from tokenmill.decoders.base import Picture
from tokenmill.decoders.video import AvVideo, VideoDecoder
from tokenmill.testing.clips import ClipSpec, clip, number_of, turned
from tokenmill.testing.views import check_clips
from tokenmill.views import open_view
from tokenmill_schemas.asset import AssetRef
from tokenmill_schemas.errors import AssetError, Reason

#: Container and encoder; the first keeps exact times, the others whole milliseconds or frames.
CONTAINERS = [
    ("mp4", "libx264"), ("matroska", "libx264"), ("webm", "libvpx-vp9"), ("avi", "mpeg4"),
    ("flv", "flv1"), ("mpegts", "mpeg2video"),
]  # fmt: skip
#: Frames keep their size, so that they carry their numbers.
VIEW: dict[str, Any] = {"size": [48, 64], "rule": "squash_bilinear"}


def opened(data: bytes) -> AvVideo:
    """The open video of ``data``."""
    ref = AssetRef("k", "mem://a", modality="video", size_bytes=len(data))
    return VideoDecoder().decode(ref, io.BytesIO(data))


def numbers(data: bytes, **options: Any) -> list[list[int]]:
    """The numbers of the frames in each clip, after the contract is checked."""
    view = open_view("clips", {**VIEW, **options})
    return [
        [number_of(frame) for frame in each.data]
        for each in check_clips(view, lambda: opened(data))
    ]


@pytest.mark.parametrize(("container", "codec"), CONTAINERS)
def test_the_same_clip_gives_the_same_windows_in_any_container(container: str, codec: str) -> None:
    """Every frame, a third of them and twice as many: the frames that the times call for."""
    data = clip(ClipSpec(container, codec, frames=31, rate=30, size=(48, 64)))
    every = [list(range(i, i + 5)) for i in range(0, 30, 5)]
    assert numbers(data, frames=5) == every
    assert numbers(data, frames=5, fps=30.0) == every
    assert numbers(data, frames=0, fps=10.0) == [list(range(0, 31, 3))]
    assert numbers(data, frames=0, fps=10.0, frames_rule="1+4k") == [list(range(0, 27, 3))]


def test_variable_frame_rates_are_sampled_by_time() -> None:
    """A frame that stands long stands for many output times."""
    data = clip(ClipSpec("matroska", frames=6, rate=100, pts=[0, 10, 20, 70, 75, 80]))
    assert numbers(data, frames=0, fps=10.0) == [[0, 1, 2, 2, 2, 3, 3, 3, 5]]
    assert numbers(data, frames=0, fps=20.0, max_frames=5)[-1] == [4, 5]


@pytest.mark.parametrize("degrees", [0, 90, 270])
def test_a_clip_of_one_frame_is_the_picture(degrees: int) -> None:
    """Upright, resized and cropped as `center_crop` does, with the same box."""
    data = turned(clip(ClipSpec(frames=4, size=(90, 160))), degrees)
    pictures = [Image.fromarray(frame.rgb()) for frame in opened(data).frames()]
    for rule in ("adm", "lanczos", "taming"):
        view = open_view("clips", {"size": 40, "rule": rule, "frames": 1})
        crop = open_view("center_crop", {"size": 40, "rule": rule})
        clips = check_clips(view, lambda: opened(data))
        for each, picture in zip(clips, pictures, strict=True):
            (expected,) = crop.views(Picture(picture, {}), "")
            assert np.array_equal(each.data[0], expected.data)
            assert each.coordinates["view.box"] == expected.coordinates["view.box"]


@pytest.mark.parametrize("detector", ["content", "adaptive"])
def test_shots_of_joined_scenes(detector: str) -> None:
    """Each shot is a clip; motion alone is no cut."""
    data = scenes()
    view = open_view("clips", {"size": 64, "frames": 0, "shots": detector})
    clips = check_clips(view, lambda: opened(data))
    assert [len(each.data) for each in clips] == [30, 20, 25]
    assert [each.coordinates["view.shot"] for each in clips] == [0, 1, 2]
    assert [each.coordinates["view.name"] for each in clips] == ["shot_0", "shot_1", "shot_2"]


def scenes() -> bytes:
    """Return an MP4 of three scenes of 30, 20 and 25 frames."""
    out = io.BytesIO()
    with av.open(out, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=25, options={"threads": "1"})
        stream.width, stream.height, stream.pix_fmt = 128, 96, "yuv420p"
        for scene, length in enumerate((30, 20, 25)):
            rng = np.random.default_rng(scene)
            small = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8))
            picture = np.asarray(small.resize((128, 96), Image.Resampling.NEAREST))
            for number in range(length):
                moved = np.ascontiguousarray(np.roll(picture, number, axis=1))
                container.mux(stream.encode(av.VideoFrame.from_ndarray(moved, format="rgb24")))
        container.mux(stream.encode())
    return out.getvalue()


def test_damage_ends_the_clips_with_the_decoders_reason() -> None:
    """Windows before the place are given; then comes what the decoder says."""
    data = bytearray(clip(ClipSpec("avi", "mpeg4", frames=60)))
    start = len(data) * 2 // 3
    data[start : start + 2000] = bytes(2000)
    views = open_view("clips", {**VIEW, "frames": 5}).views(opened(bytes(data)), "")
    assert [number_of(frame) for frame in next(views).data] == list(range(5))
    with pytest.raises(AssetError) as caught:
        list(views)
    assert (caught.value.reason, caught.value.stage) == (Reason.CORRUPT, "decode")


def test_frames_of_a_decoded_video_are_pictures() -> None:
    """One a second, and each what it shows at that time."""
    data = clip(ClipSpec(frames=60, rate=25))
    view = open_view("frames", {**VIEW, "fps": 1.0})
    views = check_clips(view, lambda: opened(data))
    assert [number_of(each.data) for each in views] == [0, 25, 50]
    assert [each.coordinates["view.start_s"] for each in views] == [0.0, 1.0, 2.0]
