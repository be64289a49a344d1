"""Videos through PyAV, which brings FFmpeg with it.

One object decodes any number of videos in any number of threads; each open video is one thread's.
A file is read by the demuxer that its signature names (`tokenmill.decoders.video_containers`), is
asked what it claims to hold (`video_claims`), and gives its frames one after the other
(`video_passes`), converted only where a view wants them (`video_colour`).

Stated choices: frames stand upright (display matrix of the container); pixels that are not square
are stretched to squares unless ``pixel_aspect = "stored"``; every frame has the size of the first,
scaled where a stream changes it; edit lists apply; interlaced frames stay as they are.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, BinaryIO, ClassVar, Literal, cast

import av
import pyarrow as pa
from av.error import FFmpegError
from av.sidedata.sidedata import Type
from av.video.frame import VideoFrame

from tokenmill.decoders.base import DecodeLimits
from tokenmill.decoders.video_colour import (
    Chroma,
    ColourError,
    Converter,
    Pixels,
    Turn,
    square_size,
    turn_of,
)
from tokenmill.decoders.video_containers import Container
from tokenmill.decoders.video_opening import blaming, recognise
from tokenmill.decoders.video_passes import Pass
from tokenmill.decoders.video_timeline import Timeline
from tokenmill_schemas.arrow import VIDEO_FACT_FIELDS
from tokenmill_schemas.asset import AssetRef, Modality
from tokenmill_schemas.errors import AssetError, Reason

_LIBRARIES = ("libavutil", "libavcodec", "libavformat", "libswscale")
_PROBE_SIZE = (16, 16)
#: What a loss that the container's structure tells of looks like from inside.
_FROM_LOSS = (Reason.CORRUPT, Reason.NO_VIDEO)


@dataclass(frozen=True, slots=True)
class VideoDecoder:
    """Decodes one video to upright 8-bit RGB frames, streamed.

    Attributes:
        background: RGB that shows through transparent pixels.
        pixel_aspect: ``square`` stretches pixels that are not square, as players do; ``stored``
            leaves them.
        chroma: ``nearest`` or ``bilinear``, see `tokenmill.decoders.video_colour`.
        damaged: ``reject`` refuses a file that was cut short or is damaged; ``keep`` gives what
            can be decoded of it, patched frames included.
        limits: what a file may weigh and claim before it is decoded.
    """

    background: tuple[int, int, int] = (255, 255, 255)
    pixel_aspect: Literal["square", "stored"] = "square"
    chroma: Chroma = "nearest"
    damaged: Literal["reject", "keep"] = "reject"
    limits: DecodeLimits = field(default_factory=DecodeLimits)

    modalities: ClassVar[tuple[Modality, ...]] = ("video",)

    def __post_init__(self) -> None:
        if not all(0 <= value <= 255 for value in self.background):
            raise ValueError(f"background must be three values in 0..255, got {self.background}")

    @property
    def identity(self) -> dict[str, Any]:
        """Name, rules' version, options, and the libraries that can change a pixel or a time."""
        versions = {n: ".".join(map(str, av.library_versions[n])) for n in _LIBRARIES}
        return {
            "decoder": "video",
            "rules": 1,
            "background": list(self.background),
            "pixel_aspect": self.pixel_aspect,
            "chroma": self.chroma,
            # swscale's direct converter is written for each family of processors.
            "machine": platform.machine() if self.chroma == "nearest" else "any",
            "damaged": self.damaged,
            "pyav": av.__version__,
            "libraries": {"ffmpeg": av.ffmpeg_version_info, **versions},
        }

    def facts(self) -> pa.Schema:
        """Return the ``asset.*`` columns of a video."""
        return pa.schema(VIDEO_FACT_FIELDS)

    def decode(self, ref: AssetRef, stream: BinaryIO) -> AvVideo:
        """Open one video and decode its first frame.

        Raises:
            AssetError: ``empty``, ``too_many_bytes``, ``too_many_pixels``, ``unknown_format``,
                ``unsupported``, ``no_video``, ``truncated``, ``corrupt`` or ``unreadable``.
            MemoryError: the machine, not the asset, is short of memory.
        """
        with blaming(ref):
            container, lost = recognise(ref, stream, self.limits)
            if lost and self.damaged == "reject":
                raise AssetError(Reason.TRUNCATED, lost)
            try:
                return AvVideo(self, container, ref, stream)
            except AssetError as error:
                if lost and error.reason in _FROM_LOSS:
                    raise type(error)(Reason.TRUNCATED, f"{lost}; {error}") from error
                raise


class AvVideo:
    """An open video; see `tokenmill.decoders.base.Video`. It is used by one thread at a time."""

    def __init__(
        self, decoder: VideoDecoder, container: Container, ref: AssetRef, stream: BinaryIO
    ) -> None:
        self._decoder, self._container, self._ref, self._stream = decoder, container, ref, stream
        self._pass: Pass | None = None
        self._waiting: Iterator[VideoFrame] | None = None
        self._first: VideoFrame | None = None
        self._turn = 0
        self.decode_s = 0.0
        with self._working():
            self._first = self._restart()
            try:
                self._describe(self._first)
            except (AssetError, MemoryError):
                self.close()
                raise

    @property
    def facts(self) -> dict[str, Any]:
        """The values of the decoder's fact columns."""
        return dict(self._facts)

    def _restart(self) -> VideoFrame:
        """Open the container afresh and return its first frame."""
        self.close()
        limits, strict = self._decoder.limits, self._decoder.damaged == "reject"
        opened = Pass(self._container, self._stream, max_pixels=limits.max_pixels, strict=strict)
        self._pass = opened
        self._waiting = opened.frames()
        try:
            return next(self._waiting)
        except (AssetError, MemoryError):
            self.close()
            raise

    def _describe(self, first: VideoFrame) -> None:
        opened = self._opened()
        stream, context = opened.stream, opened.stream.codec_context
        turn = _turn(first)
        stored = first.height, first.width
        if self._decoder.pixel_aspect == "square":
            stored = square_size(stored, stream.sample_aspect_ratio)
        limit = self._decoder.limits.max_pixels
        if stored[0] * stored[1] > limit:
            text = f"frames of {stored[1]}x{stored[0]} pixels; the limit is {limit}"
            raise AssetError(Reason.TOO_MANY_PIXELS, text)
        self.size = stored[::-1] if turn.swaps else stored
        self.time_base = stream.time_base or Fraction(1, av.time_base)
        self._rate = stream.average_rate or stream.guessed_rate
        self.fps = float(self._rate or 0)
        self._converter = Converter(
            stored, turn, self._decoder.background, chroma=self._decoder.chroma
        )
        self._convert(first, _PROBE_SIZE)
        self._facts = {
            "asset.uri": self._ref.uri,
            "asset.width": context.width or first.width,
            "asset.height": context.height or first.height,
            "asset.format": self._container.name,
            "asset.codec": context.codec.canonical_name,
            "asset.pixel_format": first.format.name,
            "asset.rotation": turn.degrees,
            "asset.fps": self.fps,
            "asset.time_base": [self.time_base.numerator, self.time_base.denominator],
            "asset.duration_s": self._duration_s(),
            "asset.frames": stream.frames or None,
        }

    def _duration_s(self) -> float | None:
        opened = self._opened()
        if not self._container.claims_duration:
            return None
        if opened.stream.duration:
            return float(opened.stream.duration * self.time_base)
        total = opened.container.duration
        return total / av.time_base if total else None

    def _opened(self) -> Pass:
        if self._pass is None:
            raise ValueError("the video is closed")
        return self._pass

    def frames(self) -> Iterator[AvFrame]:
        """Yield the frames in order of presentation; a second call begins again.

        Raises:
            AssetError: ``truncated``, ``corrupt`` or ``unreadable``, where it turns out.
            RuntimeError: `frames` was called again meanwhile.
        """
        self._turn += 1
        return self._frames(self._turn)

    def _frames(self, turn: int) -> Iterator[AvFrame]:
        with self._working():
            frame: VideoFrame | None = self._first or self._restart()
            self._first = None
        timeline = Timeline(self._rate, self.time_base)
        while frame is not None:
            yield AvFrame(self, frame, timeline.place(frame.pts, frame.duration or 0))
            if turn != self._turn:
                raise RuntimeError("frames() of this video was called again")
            with self._working():
                following = next(self._waiting, None) if self._waiting else None
            frame = following

    def rgb(self, frame: VideoFrame, size: tuple[int, int] | None) -> Pixels:
        """Return a frame upright, exact or (for looking at) of ``size``.

        Raises:
            AssetError: ``unsupported``: its colours have no stated conversion.
        """
        with self._working():
            return self._convert(frame, size)

    def _convert(self, frame: VideoFrame, size: tuple[int, int] | None) -> Pixels:
        try:
            if size is None:
                return self._converter.upright(frame)
            return self._converter.quick(frame, size)
        except MemoryError:
            raise
        except (ColourError, FFmpegError) as error:
            raise AssetError(Reason.UNSUPPORTED, f"{frame.format.name}: {error}") from error

    @contextmanager
    def _working(self) -> Iterator[None]:
        start = time.perf_counter()
        try:
            with blaming(self._ref):
                yield
        finally:
            self.decode_s += time.perf_counter() - start

    def close(self) -> None:
        """Free the decoder; the stream stays open."""
        self._waiting = None
        if self._pass is not None:
            self._pass.close()
            self._pass = None


@dataclass(frozen=True, slots=True)
class AvFrame:
    """One frame, not yet converted; see `tokenmill.decoders.base.Frame`."""

    video: AvVideo
    raw: VideoFrame
    pts: int

    def rgb(self, size: tuple[int, int] | None = None) -> Pixels:
        """Return the upright frame ``uint8[H, W, 3]``; with ``size`` a quick, smaller one.

        Raises:
            AssetError: ``unsupported``: its colours have no stated conversion.
        """
        return self.video.rgb(self.raw, size)


def _turn(frame: VideoFrame) -> Turn:
    try:
        side_data = cast("Mapping[Any, Any]", frame.side_data)  # PyAV's stub knows one key only
    except ValueError:
        # FFmpeg knows more kinds of side data (EXIF, ...) than PyAV, which then shows none of them.
        return Turn(-round(frame.rotation) % 360) if frame.rotation % 90 == 0 else Turn()
    matrix = side_data.get(Type.DISPLAYMATRIX)
    return turn_of(None if matrix is None else bytes(matrix))


PLUGIN = VideoDecoder
