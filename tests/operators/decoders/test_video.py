from __future__ import annotations

import gc
import io
import itertools
import os
import pickle
import struct
import subprocess
import sys
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenmill.decoders import open_decoder
from tokenmill.decoders.base import DecodeLimits
from tokenmill.decoders.video import AvVideo, VideoDecoder
from tokenmill.decoders.video_containers import sniff
from tokenmill.testing.clips import ClipSpec, clip, number_of, pattern, sound, turned
from tokenmill_schemas.asset import AssetRef
from tokenmill_schemas.errors import AssetError, JobError, Reason

Pixels = npt.NDArray[np.uint8]

#: asset.format, FFmpeg's writer, encoder, pixel format, asset.codec
FORMATS = [
    ("mp4", "mp4", "libx264", "yuv420p", "h264"),
    ("mov", "mov", "libx264", "yuv444p", "h264"),
    ("mp4", "mp4", "libsvtav1", "yuv420p", "av1"),
    ("3gp", "3gp", "mpeg4", "yuv420p", "mpeg4"),
    ("matroska", "matroska", "libx265", "yuv420p10le", "hevc"),
    ("matroska", "matroska", "ffv1", "bgra", "ffv1"),
    ("webm", "webm", "libvpx", "yuv420p", "vp8"),
    ("webm", "webm", "libvpx-vp9", "yuv420p", "vp9"),
    ("avi", "avi", "mpeg4", "yuv420p", "mpeg4"),
    ("avi", "avi", "mjpeg", "yuvj420p", "mjpeg"),
    ("mpeg", "mpeg", "mpeg1video", "yuv420p", "mpeg1video"),
    ("mpeg", "vob", "mpeg2video", "yuv420p", "mpeg2video"),
    ("mpegvideo", "mpeg1video", "mpeg1video", "yuv420p", "mpeg1video"),
    ("mpegvideo", "mpeg2video", "mpeg2video", "yuv420p", "mpeg2video"),
    ("mpegts", "mpegts", "libx264", "yuv420p", "h264"),
    ("ogg", "ogg", "libvpx", "yuv420p", "vp8"),
    ("flv", "flv", "flv", "yuv420p", "flv1"),
    ("asf", "asf", "wmv2", "yuv420p", "wmv2"),
    ("rm", "rm", "rv20", "yuv420p", "rv20"),
    ("swf", "swf", "mjpeg", "yuvj420p", "mjpeg"),
    ("gif", "gif", "gif", "rgb8", "gif"),
    ("y4m", "yuv4mpegpipe", "rawvideo", "yuv420p", "rawvideo"),
    ("mjpeg", "mjpeg", "mjpeg", "yuvj420p", "mjpeg"),
    ("mxf", "mxf", "mpeg2video", "yuv420p", "mpeg2video"),
    ("mov", "mov", "prores_ks", "yuv422p10le", "prores"),
]


def opened(data: bytes, **options: Any) -> AvVideo:
    """The open video of ``data``."""
    ref = AssetRef("k", "mem://a", modality="video", size_bytes=len(data))
    return VideoDecoder(**options).decode(ref, io.BytesIO(data))


def frames(data: bytes, **options: Any) -> list[Pixels]:
    """All frames of ``data``."""
    return [frame.rgb() for frame in opened(data, **options).frames()]


def numbers(video: AvVideo) -> list[int]:
    """The numbers that the frames carry."""
    return [number_of(frame.rgb()) for frame in video.frames()]


def refused(data: bytes, **options: Any) -> AssetError:
    """The error that the decoder raises, at once or on the way."""
    with pytest.raises(AssetError) as caught:
        frames(data, **options)
    assert (caught.value.uri, caught.value.stage) == ("mem://a", "decode")
    return caught.value


@pytest.mark.parametrize(("name", "writer", "codec", "pixels", "stored"), FORMATS)
def test_every_container_gives_its_frames(
    name: str, writer: str, codec: str, pixels: str, stored: str
) -> None:
    """Frames come whole and in order, pass after pass, with the facts as columns."""
    data = clip(ClipSpec(writer, codec, pixel_format=pixels, size=(288, 352)))
    video = opened(data)
    assert numbers(video) == list(range(12))
    assert numbers(video) == list(range(12))
    facts = video.facts
    assert (facts["asset.format"], facts["asset.codec"]) == (name, stored)
    assert (facts["asset.width"], facts["asset.height"]) == (352, 288)
    assert video.size[0] == 288
    assert video.decode_s > 0
    schema = VideoDecoder().facts()
    assert list(facts) == schema.names
    pa.Table.from_pylist([facts], schema=schema).validate(full=True)
    video.close()


@given(st.lists(st.integers(1, 400), min_size=3, max_size=12), st.booleans())
@settings(max_examples=25, deadline=None)
def test_variable_frame_rates_are_kept(gaps: list[int], reorder: bool) -> None:
    """Presentation timestamps are those that were written, B-frames or not."""
    pts = [sum(gaps[:i]) for i in range(len(gaps))]
    options = {"bf": "2" if reorder else "0", "g": "6"}
    mux = {"video_track_timescale": "1000"}
    spec = ClipSpec(frames=len(pts), pts=pts, rate=1000, options=options, mux=mux)
    video = opened(clip(spec))
    got = list(video.frames())
    assert [frame.pts * video.time_base * 1000 for frame in got] == pts


def test_facts_say_what_the_container_says() -> None:
    """Rate, time base, duration and count are the container's; without a claim they are null."""
    facts = opened(clip(ClipSpec(frames=50, rate=25))).facts
    assert facts["asset.fps"] == 25.0
    assert facts["asset.duration_s"] == pytest.approx(2.0)
    assert facts["asset.frames"] == 50
    assert facts["asset.rotation"] == 0
    assert facts["asset.time_base"] == [1, 12800]
    bare = opened(clip(ClipSpec("mpeg1video", "mpeg1video"))).facts
    assert (bare["asset.duration_s"], bare["asset.frames"]) == (None, None)


@pytest.mark.parametrize("degrees", [0, 90, 180, 270])
@pytest.mark.parametrize("mirrored", [False, True])
def test_frames_stand_upright(degrees: int, mirrored: bool) -> None:
    """The display matrix is applied; facts keep the coded size and the angle."""
    data = clip(ClipSpec(size=(48, 80), frames=3))
    plain = frames(data)
    if mirrored:
        plain = [frame[:, ::-1] for frame in plain]
    video = opened(turned(data, degrees, mirrored=mirrored))
    assert video.facts["asset.rotation"] == degrees
    assert (video.facts["asset.width"], video.facts["asset.height"]) == (80, 48)
    got = list(video.frames())
    for frame, original in zip(got, plain, strict=True):
        assert np.array_equal(frame.rgb(), np.rot90(original, -degrees // 90))
        assert frame.rgb().flags.c_contiguous
        assert frame.rgb().shape[:2] == video.size
        assert frame.rgb((20, 30)).shape == (20, 30, 3)


def test_small_frames_show_the_same_picture() -> None:
    """The quick version is the frame scaled down."""
    for frame in opened(clip(ClipSpec(size=(192, 256), frames=3))).frames():
        small, whole = frame.rgb((48, 64)), frame.rgb()
        mean = whole.reshape(48, 4, 64, 4, 3).mean((1, 3))
        assert np.abs(small - mean).mean() < 8
        assert number_of(small) == number_of(whole)


@pytest.mark.parametrize("size", [(33, 35), (49, 63), (97, 41)])
@pytest.mark.parametrize("codec", ["ffv1", "libvpx-vp9"])
def test_odd_sizes(size: tuple[int, int], codec: str) -> None:
    """Odd heights and widths keep every row and column."""
    got = frames(clip(ClipSpec("matroska", codec, size=size, frames=3)))
    assert {frame.shape for frame in got} == {(*size, 3)}


def test_pixels_become_squares_unless_they_are_wanted_as_stored() -> None:
    """Wide pixels widen the frame, tall ones heighten it, and `stored` leaves them."""
    for aspect, size in (((4, 3), (48, 85)), ((3, 4), (64, 64)), ((1, 1), (48, 64))):
        shape = {"sample_aspect_ratio": Fraction(*aspect)}
        data = clip(ClipSpec(attributes=shape, frames=3))
        video = opened(data)
        assert video.size == size
        assert numbers(video) == [0, 1, 2]
        assert next(video.frames()).rgb().shape == (*size, 3)
        assert opened(data, pixel_aspect="stored").size == (48, 64)
        assert (video.facts["asset.width"], video.facts["asset.height"]) == (64, 48)


def test_file_bytes_and_threads_give_the_same_frames(tmp_path: Path) -> None:
    """One decoder serves many threads, and where the bytes lie does not matter."""
    data = clip(ClipSpec("webm", "libvpx-vp9", frames=8))
    expected = frames(data)
    path = tmp_path / "misleading.m3u8"
    path.write_bytes(data)
    decoder = pickle.loads(pickle.dumps(VideoDecoder()))
    assert decoder == VideoDecoder()

    def read(_: int) -> list[Pixels]:
        with path.open("rb") as file:
            video = decoder.decode(AssetRef("k", "mem://a"), file)
            got = [frame.rgb() for frame in video.frames()]
            video.close()
            return got

    with ThreadPoolExecutor(4) as pool:
        for got in pool.map(read, range(8)):
            assert np.array_equal(got, expected)


def test_identity_names_what_can_change_a_pixel() -> None:
    """Options and library versions are in the identity, and it is JSON."""
    base = VideoDecoder().identity
    assert base["decoder"] == "video"
    assert {"libavcodec", "libswscale", "ffmpeg"} <= set(base["libraries"])
    changes = ({"damaged": "keep"}, {"pixel_aspect": "stored"}, {"background": (0, 0, 0)})
    for options in (*changes, {"chroma": "bilinear"}):
        assert VideoDecoder(**cast("Any", options)).identity != base
    assert open_decoder("video", damaged="keep") == VideoDecoder(damaged="keep")
    with pytest.raises(JobError, match="damaged"):
        open_decoder("video", damaged="perhaps")


def test_sound_and_pictures_are_not_video() -> None:
    """A container without a video stream says so."""
    assert refused(sound()).reason == Reason.NO_VIDEO
    assert refused(sound("ogg", "libopus")).reason == Reason.NO_VIDEO
    assert refused(sound(cover=True)).reason == Reason.NO_VIDEO


def test_the_right_stream_of_a_container_with_sound() -> None:
    """Sound beside the picture changes nothing."""
    silent = frames(clip(ClipSpec(frames=6)))
    heard = frames(clip(ClipSpec(frames=6, audio="aac")))
    assert (len(silent), len(heard)) == (6, 6)
    assert [i for i in range(6) if not np.array_equal(silent[i], heard[i])] == []


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", Reason.EMPTY),
        (b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n", Reason.UNKNOWN_FORMAT),
        (b"ffconcat version 1.0\nfile /etc/passwd\n", Reason.UNKNOWN_FORMAT),
        (b"v=0\no=- 0 0 IN IP4 127.0.0.1\ns=-\nm=video 1 RTP/AVP 96\n", Reason.UNKNOWN_FORMAT),
        (b"<?xml version='1.0'?><MPD/>", Reason.UNKNOWN_FORMAT),
        (b"\x89PNG\r\n\x1a\n" + bytes(100), Reason.UNKNOWN_FORMAT),
        (b"ZWS\x0d" + bytes(60), Reason.UNSUPPORTED),
        (bytes(5000), Reason.UNKNOWN_FORMAT),
    ],
)
def test_what_is_no_video_is_refused_by_its_bytes(data: bytes, reason: Reason) -> None:
    """Playlists and other lists that would open further files are not read at all."""
    assert refused(data).reason == reason


def test_limits_hold_before_decoding() -> None:
    """Bytes and claimed pixels are checked first."""
    data = clip(ClipSpec(frames=2))
    few = DecodeLimits(max_video_bytes=len(data) - 1)
    assert refused(data, limits=few).reason == Reason.TOO_MANY_BYTES
    small = DecodeLimits(max_pixels=48 * 64 - 1)
    assert refused(data, limits=small).reason == Reason.TOO_MANY_PIXELS
    assert len(frames(data, limits=DecodeLimits(max_pixels=48 * 64))) == 2
    stretched = clip(ClipSpec(attributes={"sample_aspect_ratio": Fraction(2)}, frames=2))
    assert refused(stretched, limits=small).reason == Reason.TOO_MANY_PIXELS
    listed = AssetRef("k", "mem://a", size_bytes=100)
    with pytest.raises(AssetError, match="listed with 100 bytes"):
        VideoDecoder(limits=DecodeLimits(max_video_bytes=99)).decode(listed, io.BytesIO(data))


def test_a_claimed_canvas_is_not_allocated() -> None:
    """Sizes that only the stream itself tells are bounded inside FFmpeg."""
    data = bytearray(clip(ClipSpec("gif", "gif", pixel_format="rgb8", frames=2)))
    struct.pack_into("<HH", data, 6, 40_000, 40_000)
    assert refused(bytes(data)).reason == Reason.TOO_MANY_PIXELS
    large = clip(ClipSpec("webm", "libvpx", size=(480, 640), frames=2))
    assert refused(large, limits=DecodeLimits(max_pixels=9000)).reason == Reason.TOO_MANY_PIXELS


def test_joined_recordings_keep_one_size_and_one_timeline() -> None:
    """A stream that changes its size goes on in the first one's; time goes on too."""
    first = clip(ClipSpec("mpegts", "libx264", frames=50))
    second = clip(ClipSpec("mpegts", "libx264", frames=50, size=(96, 128), first=50))
    video = opened(first + second)
    got = [(frame.pts, number_of(frame.rgb())) for frame in video.frames()]
    assert [number for _, number in got] == list(range(100))
    assert {b - a for (a, _), (b, _) in itertools.pairwise(got)} == {3600}
    assert video.size == (48, 64)


def test_encrypted_video_is_unsupported() -> None:
    """A sample entry that says encrypted is not decoded to noise."""
    data = clip(ClipSpec(frames=2)).replace(b"avc1", b"encv")
    assert refused(data).reason == Reason.UNSUPPORTED


class Failing(io.BytesIO):
    """A stream whose reads fail once so many bytes were read."""

    def __init__(self, data: bytes, after: int, error: BaseException) -> None:
        super().__init__(data)
        self._left, self._failure = after, error

    def read(self, size: int | None = -1, /) -> bytes:
        """Read, or fail."""
        data = super().read(size)
        self._left -= len(data)
        if self._left < 0:
            raise self._failure
        return data


@pytest.mark.parametrize("after", [10, 5000, 300_000])
def test_a_stream_that_fails_says_why(after: int) -> None:
    """An error of the storage is not taken for damage, and does not surface elsewhere."""
    data = clip(ClipSpec("yuv4mpegpipe", "rawvideo", size=(96, 128), frames=40))
    ref = AssetRef("k", "mem://a")

    def read(stream: BinaryIO) -> int:
        return len(list(VideoDecoder().decode(ref, stream).frames()))

    with pytest.raises(AssetError) as caught:
        read(Failing(data, after, OSError("the disk is gone")))
    assert caught.value.reason == Reason.UNREADABLE
    with pytest.raises(KeyError, match="storage"):
        read(Failing(data, after, KeyError("storage")))
    assert read(io.BytesIO(data)) == 40


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux's own peak")
def test_memory_stays_bounded() -> None:
    """After its first frames a long clip needs no more memory, pass after pass."""
    data = clip(ClipSpec(size=(480, 640), frames=300, options={"preset": "ultrafast"}))
    code = (
        "import io, sys; from pathlib import Path\n"
        "from tokenmill.decoders.video import VideoDecoder\n"
        "from tokenmill_schemas.asset import AssetRef\n"
        "def peak():\n"
        "    status = Path('/proc/self/status').read_text()\n"
        "    return int(status.split('VmHWM:')[1].split()[0])\n"
        "stream, seen = io.BytesIO(sys.stdin.buffer.read()), []\n"
        "video = VideoDecoder().decode(AssetRef('k', 'm'), stream)\n"
        "for _ in range(3):\n"
        "    for frame in video.frames():\n"
        "        frame.rgb(); frame.rgb((27, 48)); seen.append(peak())\n"
        "print(len(seen), seen[-1] - seen[30])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], input=data, capture_output=True, check=True, timeout=120
    )
    count, growth = map(int, done.stdout.split())
    assert count == 900
    assert growth < 8_000  # KiB: less than nine frames of 900 KiB


def test_python_keeps_no_frames() -> None:
    """While a pass goes on, only the frame in hand is alive."""
    video = opened(clip(ClipSpec(size=(96, 128), frames=200, options={"preset": "ultrafast"})))
    tracemalloc.start()
    for frame in video.frames():
        frame.rgb()
    gc.collect()
    assert tracemalloc.get_traced_memory()[1] < 2**21
    tracemalloc.stop()


def test_ffmpeg_is_silent() -> None:
    """Nothing of a damaged file reaches standard error."""
    data = bytearray(clip(ClipSpec("mpegts", "libx264", frames=12, size=(96, 128))))
    data[3000:3040] = os.urandom(40)
    code = (
        "import io, sys; from tokenmill.decoders.video import VideoDecoder\n"
        "from tokenmill_schemas.asset import AssetRef\n"
        "video = VideoDecoder(damaged='keep').decode(AssetRef('k', 'm'), sys.stdin.buffer)\n"
        "print(len(list(video.frames())))\n"
    ).replace("sys.stdin.buffer", "io.BytesIO(sys.stdin.buffer.read())")
    done = subprocess.run(
        [sys.executable, "-c", code], input=bytes(data), capture_output=True, check=True, timeout=60
    )
    assert int(done.stdout) > 0
    assert done.stderr == b""


def test_an_older_pass_ends_when_a_new_one_begins() -> None:
    """Two passes cannot share one stream; the older says so."""
    video = opened(clip(ClipSpec(frames=5)))
    older = video.frames()
    next(older)
    assert numbers(video) == list(range(5))
    with pytest.raises(RuntimeError, match="called again"):
        next(older)


def test_numbers_survive_in_the_pattern() -> None:
    """The test pattern's own number can be read back at any size."""
    for number in (0, 1, 255, 256, 40_961, 65_535):
        for size in ((32, 32), (48, 64), (144, 176)):
            assert number_of(pattern(number, size)) == number


@given(st.binary(max_size=600))
@settings(max_examples=300, deadline=None)
def test_sniffing_takes_any_bytes(head: bytes) -> None:
    """No head makes the sniffer fail, and what it names, it names by signature."""
    found = sniff(head)
    assert found is None or found.name
