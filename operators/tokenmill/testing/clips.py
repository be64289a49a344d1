"""Small clips for tests, made of nothing: each frame carries its number where it can be read back.

The left half of a frame is a grid of four by four cells, black or white: the sixteen bits of the
frame's number, most significant first. The right half is a moving gradient. The number survives
lossy codecs, any size from 32 pixels and any stretching; turned frames are turned back first.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction

import av
import numpy as np
import numpy.typing as npt
from av.audio.stream import AudioStream
from av.stream import Disposition
from av.video.stream import VideoStream

Pixels = npt.NDArray[np.uint8]
_BITS = 16
_LEVELS = (24, 232)
_SAMPLES = 1024
#: 16.16 and 2.30 fixed point: the display matrices of ISO 14496-12 that turn clockwise.
_TURNS = {0: (1, 0, 0, 1), 90: (0, 1, -1, 0), 180: (-1, 0, 0, -1), 270: (0, -1, 1, 0)}


@dataclass(frozen=True, slots=True)
class ClipSpec:
    """What a clip shall be.

    Attributes:
        container: FFmpeg's name of the format (``mp4``, ``matroska``, ``avi``, ...).
        codec: an encoder of FFmpeg (``libx264``, ``mpeg4``, ``libvpx-vp9``, ...).
        frames: number of frames.
        size: height and width.
        pixel_format: what the encoder is given.
        rate: frames per second; also the unit of ``pts``.
        pts: presentation timestamp of each frame in units of ``1 / rate``; None counts from 0.
        options: of the encoder.
        mux: options of the container's writer.
        attributes: set on the encoder's context (``sample_aspect_ratio``, ``color_range``, ...).
        audio: ``pcm_s16le``, ``aac``, ...: a second of silence per second; "" = none.
        first: number of the first frame.
    """

    container: str = "mp4"
    codec: str = "libx264"
    frames: int = 12
    size: tuple[int, int] = (48, 64)
    pixel_format: str = "yuv420p"
    rate: int = 25
    pts: Sequence[int] | None = None
    options: Mapping[str, str] = field(default_factory=dict)
    mux: Mapping[str, str] = field(default_factory=dict)
    attributes: Mapping[str, object] = field(default_factory=dict)
    audio: str = ""
    first: int = 0


def pattern(number: int, size: tuple[int, int]) -> Pixels:
    """Return frame ``number`` as ``uint8[H, W, 3]``."""
    height, width = size
    rows = np.arange(height) * 4 // height
    columns = np.arange(width) * 8 // width
    cell = rows[:, None] * 4 + np.minimum(columns, 3)[None, :]
    code = np.where(number >> (_BITS - 1 - cell) & 1, _LEVELS[1], _LEVELS[0])
    across = (np.arange(width)[None, :] * 3 + number * 5) % 256
    down = (np.arange(height)[:, None] * 4 + number * 3) % 256
    picture = np.stack(np.broadcast_arrays(across, down, 255 - across), axis=-1)
    left = (columns < 4)[None, :, None]
    return np.where(left, code[..., None], picture).astype(np.uint8)


def number_of(frame: Pixels) -> int:
    """Return the number that a frame of `pattern`, perhaps coded and stretched, carries."""
    height, width = frame.shape[:2]
    number = 0
    for cell in range(_BITS):
        y, x = int((cell // 4 + 0.5) * height / 4), int((cell % 4 + 0.5) * width / 8)
        number = number << 1 | int(frame[y - 1 : y + 1, x - 1 : x + 1].mean() > 128)
    return number


def clip(spec: ClipSpec) -> bytes:
    """Return the bytes of a clip; the same for the same spec and libraries."""
    out = io.BytesIO()
    options = {"fflags": "+bitexact", **spec.mux}
    with av.open(out, "w", format=spec.container, options=options) as container:
        stream = _video_stream(container, spec)
        sound = _audio_stream(container, spec)
        if sound is not None:
            _mux_silence(container, sound, spec)
        for i in range(spec.frames):
            frame = av.VideoFrame.from_ndarray(pattern(spec.first + i, spec.size), format="rgb24")
            frame = frame.reformat(format=spec.pixel_format, threads=1)
            frame.pts = i if spec.pts is None else spec.pts[i]
            frame.time_base = Fraction(1, spec.rate)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return out.getvalue()


def _video_stream(container: av.container.OutputContainer, spec: ClipSpec) -> VideoStream:
    quiet = {"libx265": {"x265-params": "log-level=none:pools=none:frame-threads=1"}}
    options = {"flags": "+bitexact", "threads": "1", **quiet.get(spec.codec, {}), **spec.options}
    stream = container.add_stream(spec.codec, rate=spec.rate, options=options)
    if not isinstance(stream, VideoStream):
        raise TypeError(f"{spec.codec} does not code video")
    stream.height, stream.width = spec.size
    stream.pix_fmt = spec.pixel_format
    stream.codec_context.time_base = Fraction(1, spec.rate)
    for name, value in spec.attributes.items():
        setattr(stream.codec_context, name, value)
    return stream


def _audio_stream(container: av.container.OutputContainer, spec: ClipSpec) -> AudioStream | None:
    if not spec.audio:
        return None
    stream = container.add_stream(spec.audio, rate=16000)
    if not isinstance(stream, AudioStream):
        raise TypeError(f"{spec.audio} does not code sound")
    stream.codec_context.layout = "mono"
    return stream


def _mux_silence(
    container: av.container.OutputContainer, stream: AudioStream, spec: ClipSpec
) -> None:
    kind = stream.codec_context.format.name
    for at in range(0, max(1, spec.frames) * 16000 // spec.rate, _SAMPLES):
        frame = av.AudioFrame(format=kind, layout="mono", samples=_SAMPLES)
        for plane in frame.planes:
            plane.update(bytes(plane.buffer_size))
        frame.sample_rate, frame.pts = 16000, at
        container.mux(stream.encode(frame))
    container.mux(stream.encode())


def sound(container: str = "mp4", codec: str = "aac", *, cover: bool = False) -> bytes:
    """Return a container that holds a second of silence, and perhaps a cover picture."""
    out = io.BytesIO()
    with av.open(out, "w", format=container, options={"fflags": "+bitexact"}) as opened:
        spec = ClipSpec(codec="mjpeg", pixel_format="yuvj420p", audio=codec, frames=25)
        stream = _audio_stream(opened, spec)
        picture = _video_stream(opened, spec) if cover else None
        if picture is not None:
            picture.disposition = Disposition.attached_pic
            frame = av.VideoFrame.from_ndarray(pattern(0, spec.size), format="rgb24")
            frame = frame.reformat(format=spec.pixel_format)
            frame.pts, frame.time_base = 0, Fraction(1, spec.rate)
            opened.mux(picture.encode(frame))
            opened.mux(picture.encode())
        if stream is not None:
            _mux_silence(opened, stream, spec)
    return out.getvalue()


def turned(mp4: bytes, degrees: int, *, mirrored: bool = False) -> bytes:
    """Return an MP4 whose player shall turn its video clockwise by ``degrees``.

    ``mirrored`` shall mirror it left to right before that.
    """
    a, b, c, d = _TURNS[degrees]
    if mirrored:
        a, b = -a, -b
    one = 1 << 16
    matrix = struct.pack(">9i", a * one, b * one, 0, c * one, d * one, 0, 0, 0, 1 << 30)
    at = mp4.index(b"tkhd")
    at += 4 + (40 if mp4[at + 4] == 0 else 52)
    return mp4[:at] + matrix + mp4[at + len(matrix) :]
