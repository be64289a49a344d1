"""A decoder that finds no memory, and one that fails while it holds frames back."""

from __future__ import annotations

import errno
import io
import struct
import subprocess
import sys
from collections.abc import Callable
from typing import Any, Literal

import av
import pytest
from av.error import MemoryError as NoMemory

from tokenmill.decoders import video_passes, video_source
from tokenmill.decoders.base import ClaimError
from tokenmill.decoders.video import VideoDecoder
from tokenmill.testing.clips import ClipSpec, clip
from tokenmill_schemas.asset import AssetRef
from tokenmill_schemas.errors import AssetError, Reason

SPECS = {
    "h264": ClipSpec(frames=8),
    "mpeg4": ClipSpec("3gp", "mpeg4", frames=8),
    "mpeg1": ClipSpec("mpeg", "mpeg1video", frames=8),
    "mjpeg": ClipSpec("avi", "mjpeg", pixel_format="yuvj420p", frames=8),
}


def frames(data: bytes, damaged: Literal["reject", "keep"] = "reject") -> list[Any]:
    """All frames of ``data``."""
    ref = AssetRef("k", "mem://a", modality="video", size_bytes=len(data))
    return [f.rgb() for f in VideoDecoder(damaged=damaged).decode(ref, io.BytesIO(data)).frames()]


class Poor:
    """A decoder that finds no memory for one packet."""

    def __init__(self, decoder: Any, at: int) -> None:
        self._decoder, self._left = decoder, at

    def decode(self, packet: Any) -> Any:
        """Decode, or not."""
        self._left -= 1
        if self._left == -1:
            raise NoMemory(errno.ENOMEM, "Cannot allocate memory")
        return self._decoder.decode(packet)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._decoder, name)


def poor(monkeypatch: pytest.MonkeyPatch, at: int) -> None:
    """Have every decoder find no memory for packet ``at``."""
    whole: Callable[..., Any] = video_passes._decoder
    monkeypatch.setattr(video_passes, "_decoder", lambda *a, **k: Poor(whole(*a, **k), at))


def no_room(count: int) -> None:
    """Stand for a machine that has nothing left."""
    raise MemoryError


@pytest.mark.parametrize("damaged", ["reject", "keep"])
@pytest.mark.parametrize("at", [0, 1, 4])
@pytest.mark.parametrize("name", SPECS)
def test_want_of_memory_is_no_damage(
    name: str, at: int, damaged: Literal["reject", "keep"], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither is a frame left out for it, nor is the file blamed, whatever is done with damage."""
    data = clip(SPECS[name])
    poor(monkeypatch, at)
    monkeypatch.setattr(video_source, "_require", no_room)
    with pytest.raises(MemoryError):
        frames(data, damaged)


@pytest.mark.parametrize("damaged", ["reject", "keep"])
@pytest.mark.parametrize("at", [0, 4])
def test_what_no_memory_would_do_for_is_a_claim(
    at: int, damaged: Literal["reject", "keep"], monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is room for many such films, so memory was not what it wanted; its cause is told."""
    asked: list[int] = []
    data = clip(SPECS["h264"])
    poor(monkeypatch, at)
    monkeypatch.setattr(video_source, "_require", asked.append)
    with pytest.raises(ClaimError, match="more memory than a file of its size") as caught:
        frames(data, damaged)
    assert caught.value.reason == Reason.CORRUPT
    assert isinstance(caught.value.__cause__, MemoryError)
    assert asked == [2**26 + 16 * len(data) + 8 * 8 * 48 * 64]


def claiming(data: bytes, number: int, size: int) -> bytes:
    """State another size of a sample of an MP4, in its table of sizes."""
    claims = bytearray(data)
    struct.pack_into(">I", claims, data.index(b"stsz") + 16 + 4 * number, size)
    return bytes(claims)


@pytest.mark.parametrize("damaged", ["reject", "keep"])
@pytest.mark.parametrize("number", [0, 5])
def test_a_sample_of_800_mb_in_a_file_of_3_kb_is_damage(
    number: int, damaged: Literal["reject", "keep"]
) -> None:
    """FFmpeg says that it cannot allocate memory, on every machine."""
    data = claiming(clip(SPECS["h264"]), number, 0x31000000)
    with pytest.raises(ClaimError, match="more memory than a file of its size"):
        frames(data, damaged)


def without_packet(data: bytes, number: int) -> bytes:
    """Blank one packet of an MP4, but for the length that is before its contents."""
    with av.open(io.BytesIO(data), "r") as container:
        packet = [p for p in container.demux(video=0) if p.size][number]
        at, size = packet.pos, packet.size
    assert at is not None
    return data[: at + 4] + bytes(size - 4) + data[at + size :]


@pytest.mark.parametrize("number", [1, 2])
def test_damage_is_seen_while_frames_are_held_back(number: int) -> None:
    """Before its first frame comes out, a decoder with B-frames has read further packets."""
    data = clip(SPECS["h264"])
    damaged = without_packet(data, number)
    with pytest.raises(AssetError) as caught:
        frames(damaged)
    assert caught.value.reason == Reason.CORRUPT
    assert len(frames(damaged, "keep")) == 7
    assert len(frames(data)) == 8


LIMITED = """
import io, resource, sys
from tokenmill.decoders.video import VideoDecoder
from tokenmill.worker.memory import data_bytes
from tokenmill_schemas.asset import AssetRef
data = sys.stdin.buffer.read()
video = VideoDecoder().decode(AssetRef("k", "mem://a"), io.BytesIO(data))
held = []
for frame in video.frames():
    held.append(frame)
    limit = data_bytes() + 2**20 if len(held) == int(sys.argv[1]) else resource.RLIM_INFINITY
    if limit != resource.RLIM_INFINITY:
        resource.setrlimit(resource.RLIMIT_DATA, (limit, resource.RLIM_INFINITY))
print(len(held))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux holds to RLIMIT_DATA")
@pytest.mark.parametrize("codec", ["libx264", "mpeg4"])
def test_under_the_kernels_limit_it_is_a_memory_error(codec: str) -> None:
    """H.264's decoder calls a frame that it found no memory for invalid data."""
    quick = {"preset": "ultrafast"} if codec == "libx264" else {}
    data = clip(ClipSpec("mp4", codec, frames=12, size=(480, 640), options=quick))
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, "2"], input=data, capture_output=True, check=False
    )
    assert done.returncode == 1, done
    assert b"MemoryError" in done.stderr.splitlines()[-1]
