from __future__ import annotations

import functools
import io
import itertools
import random
import struct
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenmill.decoders.video import VideoDecoder
from tokenmill.decoders.video_claims import missing
from tokenmill.decoders.video_containers import sniff
from tokenmill.decoders.video_timeline import Timeline
from tokenmill.testing.checks import require
from tokenmill.testing.clips import ClipSpec, clip, number_of
from tokenmill_schemas.asset import AssetRef
from tokenmill_schemas.errors import AssetError, Reason

FRAMES = 20
#: Whether the format says how much there shall be, so that every cut is seen.
CASES: dict[str, tuple[ClipSpec, bool]] = {
    "mp4": (ClipSpec(frames=FRAMES), True),
    "mp4-index-first": (ClipSpec(frames=FRAMES, mux={"moov_size": "4096"}), True),
    "mov": (ClipSpec("mov", "mpeg4", frames=FRAMES), True),
    "mp4-fragments": (
        ClipSpec(frames=FRAMES, options={"g": "4"}, mux={"movflags": "frag_keyframe+empty_moov"}),
        False,
    ),
    "matroska": (ClipSpec("matroska", "libx264", frames=FRAMES), True),
    "webm": (ClipSpec("webm", "libvpx", frames=FRAMES), True),
    "webm-live": (ClipSpec("webm", "libvpx", frames=FRAMES, mux={"live": "1"}), False),
    "avi": (ClipSpec("avi", "mpeg4", frames=FRAMES), True),
    "mpeg": (ClipSpec("mpeg", "mpeg2video", frames=FRAMES), True),
    "mpegts": (ClipSpec("mpegts", "libx264", frames=FRAMES), False),
    "ogg": (ClipSpec("ogg", "libvpx", frames=FRAMES), True),
    "m1v": (ClipSpec("mpeg1video", "mpeg1video", frames=FRAMES), False),
    "flv": (ClipSpec("flv", "flv", frames=FRAMES), True),
    "asf": (ClipSpec("asf", "wmv2", frames=FRAMES), True),
    "rm": (ClipSpec("rm", "rv20", frames=FRAMES), False),
    "swf": (ClipSpec("swf", "mjpeg", pixel_format="yuvj420p", frames=FRAMES), True),
    "gif": (ClipSpec("gif", "gif", pixel_format="rgb8", frames=FRAMES), True),
    "y4m": (ClipSpec("yuv4mpegpipe", "rawvideo", frames=FRAMES), False),
    "mjpeg": (ClipSpec("mjpeg", "mjpeg", pixel_format="yuvj420p", frames=FRAMES), False),
    "mxf": (ClipSpec("mxf", "mpeg2video", frames=FRAMES), False),
}


@functools.cache
def made(name: str) -> bytes:
    """The clip of a case."""
    return clip(CASES[name][0])


def outcome(data: bytes, **options: Any) -> int | Reason:
    """The number of frames, whose timestamps must rise, or the reason why not."""
    ref = AssetRef("k", "mem://a", size_bytes=len(data))
    count, last = 0, None
    try:
        video = VideoDecoder(**options).decode(ref, io.BytesIO(data))
        for frame in video.frames():
            assert last is None or frame.pts > last
            assert frame.rgb().shape == (*video.size, 3)
            count, last = count + 1, frame.pts
        video.close()
    except AssetError as error:
        require((error.uri, error.stage) == ("mem://a", "decode"), "an error names its asset")
        return error.reason
    return count


@pytest.mark.parametrize("name", CASES)
def test_a_cut_file_ends_in_a_reason(name: str) -> None:
    """Cut anywhere, a file gives a reason or whole frames; most formats tell every cut."""
    data, told = made(name), CASES[name][1]
    assert outcome(data) == FRAMES
    places = sorted({len(data) * i // 40 for i in range(40)} | {1, 5, len(data) - 60})
    for at in places:
        got = outcome(data[:at])
        if at == 0:
            assert got == Reason.EMPTY
        elif isinstance(got, int):
            text = f"{got} frames from {at} of {len(data)} bytes"
            assert got == FRAMES or (got < FRAMES and not told), text
        else:
            little = (Reason.UNKNOWN_FORMAT, Reason.NO_VIDEO) if at < 1000 else ()
            untold = () if told else (Reason.CORRUPT,)
            assert got in (Reason.TRUNCATED, *little, *untold), f"{got} at {at}"


@pytest.mark.parametrize("name", CASES)
def test_what_came_of_a_cut_file_can_be_kept(name: str) -> None:
    """``keep`` gives the frames that came, in order, where there is an index to find them by."""
    data = made(name)
    cut = data[: len(data) * 9 // 10]
    got = outcome(cut, damaged="keep")
    if name in ("mp4", "mov", "avi"):
        assert got == Reason.TRUNCATED or isinstance(got, int)
    else:
        assert isinstance(got, int)
        assert 0 < got <= FRAMES
    assert outcome(data, damaged="keep") == FRAMES


@pytest.mark.parametrize("name", CASES)
def test_damaged_bytes_end_in_a_reason(name: str) -> None:
    """Random damage gives frames or a reason, the same each time, and never another exception."""
    data, chance = made(name), random.Random(name)
    for _ in range(25):
        bad = bytearray(data)
        for _ in range(chance.choice([1, 3, 20])):
            bad[chance.randrange(len(bad))] = chance.randrange(256)
        first = outcome(bytes(bad))
        assert outcome(bytes(bad)) == first
        kept = outcome(bytes(bad), damaged="keep")
        if isinstance(first, int):
            assert isinstance(kept, int)


@pytest.mark.parametrize(
    ("name", "codec"),
    [("mpeg", "mpeg2video"), ("avi", "mpeg4"), ("flv", "flv"), ("asf", "wmv2"), ("mp4", "libx264")],
)
def test_a_patched_frame_is_damage(name: str, codec: str) -> None:
    """What a decoder conceals in the middle is called corrupt, and may be kept."""
    data = bytearray(clip(ClipSpec(name, codec, size=(144, 176), frames=30, options={"g": "1"})))
    with av.open(io.BytesIO(data), "r") as container:
        packet = list(container.demux(video=0))[15]
    at = data.index(bytes(packet)[40:80]) + packet.size // 4
    data[at : at + 200] = bytes(i * 37 % 251 for i in range(200))
    assert outcome(bytes(data)) == Reason.CORRUPT
    assert outcome(bytes(data), damaged="keep") in (29, 30)


def test_leading_packets_without_a_key_frame_are_left_out() -> None:
    """A recording that starts between key frames begins with the first that can be decoded."""
    data = clip(ClipSpec("mpegts", "libx264", frames=30, options={"g": "10", "bf": "0"}))
    packets = [data[i : i + 188] for i in range(0, len(data), 188)]
    with av.open(io.BytesIO(data), "r") as container:
        starts = [p.pos for p in container.demux(video=0) if p.is_keyframe and p.pos is not None]
    second = starts[1] // 188
    tables = [p for p in packets[:8] if (p[1] & 0x1F) << 8 | p[2] in (0, 0x11, 0x1000)]
    inter = packets[second - 6 : second]
    video = VideoDecoder().decode(
        AssetRef("k", "m"), io.BytesIO(b"".join(tables + inter + packets[second:]))
    )
    numbers = [number_of(frame.rgb()) for frame in video.frames()]
    assert numbers[-1] == 29
    assert numbers[0] <= 10
    assert numbers == list(range(numbers[0], 30))


def test_empty_packets_show_no_new_frame() -> None:
    """A chunk of no bytes in an AVI (the last picture stays) ends nothing and adds nothing."""
    data = clip(ClipSpec("avi", "mpeg4", frames=6, options={"bf": "0", "g": "1"}))
    movi, index = data.index(b"movi"), data.index(b"idx1")
    first = data.index(b"00dc", movi)
    size = struct.unpack_from("<I", data, first + 4)[0]
    after = first + 8 + size + (size & 1)
    empty = b"00dc" + bytes(4)
    entries = data[index + 8 :]
    entry = b"00dc" + struct.pack("<III", 0x10, after - movi, 0)
    later = bytearray(entries[16:])
    for at in range(0, len(later) - 15, 16):
        place = struct.unpack_from("<I", later, at + 8)[0]
        struct.pack_into("<I", later, at + 8, place + 8)
    table = entries[:16] + entry + bytes(later)
    body = (
        data[:after] + empty + data[after:index] + b"idx1" + struct.pack("<I", len(table)) + table
    )
    fixed = bytearray(body)
    struct.pack_into("<I", fixed, 4, len(body) - 8)
    video = VideoDecoder().decode(AssetRef("k", "m"), io.BytesIO(bytes(fixed)))
    got = list(video.frames())
    assert len(got) == 6
    assert [frame.pts for frame in got] == [0, 2, 3, 4, 5, 6]


def test_reasons_say_what_is_missing() -> None:
    """The text names the claim that was not kept."""
    for name, words in {"mp4": "moov", "webm": "18538067", "avi": "RIFF", "ogg": "page"}.items():
        data = made(name)[:-200]
        container = sniff(data[:4096])
        assert container is not None
        assert words in missing(container, io.BytesIO(data), len(data))


def test_a_tag_that_is_no_text_fails_nothing() -> None:
    """The four bytes that name a codec may be any when they are damaged."""
    data = clip(ClipSpec("avi", "mpeg4", frames=3)).replace(b"FMP4", b"\xa6MP4")
    assert outcome(data) in (3, Reason.UNSUPPORTED, Reason.NO_VIDEO, Reason.CORRUPT)


@given(st.binary(min_size=1, max_size=300), st.sampled_from(sorted(CASES)))
def test_claims_of_any_bytes_are_read(tail: bytes, name: str) -> None:
    """No bytes behind a good header make the check of the structure fail or loop."""
    data = made(name)[:60] + tail
    container = sniff(data)
    if container is not None:
        assert isinstance(missing(container, io.BytesIO(data), len(data)), str)


TIMES = st.lists(st.one_of(st.none(), st.integers(-(2**62), 2**62), st.integers(-500, 500)))


@given(TIMES, st.sampled_from([Fraction(25), Fraction(30000, 1001), None]))
def test_timestamps_always_rise(times: list[int | None], rate: Fraction | None) -> None:
    """Whatever a container states, frames come strictly one after the other."""
    timeline = Timeline(rate, Fraction(1, 90000))
    placed = [timeline.place(pts) for pts in times]
    assert all(a < b for a, b in itertools.pairwise(placed))


@given(st.lists(st.integers(-1000, 10**9), unique=True).map(sorted))
def test_rising_timestamps_are_kept(times: list[int]) -> None:
    """A sound timeline is not touched."""
    timeline = Timeline(None, Fraction(1, 1000))
    assert [timeline.place(pts) for pts in times] == times


def test_what_a_broken_timeline_becomes() -> None:
    """Missing: a frame later. Back a little: a tick later. Back a lot: a new stretch of time."""
    timeline = Timeline(Fraction(25), Fraction(1, 1000))
    got = [timeline.place(pts) for pts in (100, None, 180, 170, 181, 5000, 100, 140)]
    assert got == [100, 140, 180, 181, 182, 5000, 5040, 5080]


def test_theora_with_empty_packets() -> None:
    """Theora's empty packets (the last picture again) neither fail nor end the stream."""
    samples = Path(__file__).parents[3] / "pipelines/samples/videos"
    sound = (samples / "made/logo.ogv").read_bytes()
    video = VideoDecoder().decode(AssetRef("k", "m"), io.BytesIO(sound))
    assert [frame.pts for frame in video.frames()] == [0, *range(2, 96)]
    assert video.facts["asset.codec"] == "theora"
    blocks = io.BytesIO((samples / "bad/blocks.ogv").read_bytes())
    damaged = VideoDecoder().decode(AssetRef("k", "m"), blocks)
    with pytest.raises(AssetError, match=r"is not decoded \(FFmpeg: no reason\)") as caught:
        list(damaged.frames())
    assert caught.value.reason is Reason.CORRUPT
