"""Videos through torchcodec, where it is installed (it needs FFmpeg's own libraries beside it).

An option for those whose other tools decode with it. It converts every frame it decodes, tells
times as seconds, and neither stretches pixels to square nor gives the same colours for every format
as `tokenmill.decoders.video`: ids of the two must not be mixed, and its name and version in the
fingerprint see to that. Recognition of the container, its claims and the limits are those of
`tokenmill.decoders.video`.

Without the library this module does not import, and looking the kind up says so.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from importlib.metadata import version
from typing import Any, BinaryIO, ClassVar

import numpy as np
import pyarrow as pa

try:
    from torchcodec import (  # type: ignore[import-not-found, unused-ignore]  # optional
        ffmpeg_major_version,
    )
    from torchcodec.decoders import (  # type: ignore[import-not-found, unused-ignore]  # optional
        VideoDecoder as TorchVideo,
    )
except RuntimeError as error:  # it is there, and the FFmpeg that it loads is not
    raise ImportError(f"torchcodec finds no FFmpeg: {error}", name="torchcodec") from error

from tokenmill.decoders.base import DecodeLimits
from tokenmill.decoders.video_colour import Pixels
from tokenmill.decoders.video_containers import Container
from tokenmill.decoders.video_opening import blaming, recognise
from tokenmill_schemas.arrow import VIDEO_FACT_FIELDS
from tokenmill_schemas.asset import AssetRef, Modality
from tokenmill_schemas.errors import AssetError, Reason

#: Its seconds are stored as microseconds.
_TIME_BASE = Fraction(1, 1_000_000)
_BAD = (RuntimeError, ValueError, IndexError)
#: What it says of a file without a video stream.
_NO_VIDEO = "best video stream is unknown"


@dataclass(frozen=True, slots=True)
class TorchcodecDecoder:
    """Decodes one video to 8-bit RGB frames, turned as torchcodec turns them.

    Attributes:
        limits: what a file may weigh and claim before it is decoded.
    """

    limits: DecodeLimits = field(default_factory=DecodeLimits)

    modalities: ClassVar[tuple[Modality, ...]] = ("video",)

    @property
    def identity(self) -> dict[str, Any]:
        """Name, rules' version, and the versions of torchcodec, torch and the system's FFmpeg."""
        libraries = {name: version(name) for name in ("torchcodec", "torch")}
        libraries["ffmpeg"] = str(ffmpeg_major_version)
        return {"decoder": "torchcodec", "rules": 1, "libraries": libraries}

    def facts(self) -> pa.Schema:
        """Return the ``asset.*`` columns of a video."""
        return pa.schema(VIDEO_FACT_FIELDS)

    def decode(self, ref: AssetRef, stream: BinaryIO) -> TorchcodecVideo:
        """Open one video.

        Raises:
            AssetError: ``empty``, ``too_many_bytes``, ``too_many_pixels``, ``unknown_format``,
                ``unsupported``, ``truncated``, ``corrupt`` or ``unreadable``.
        """
        with blaming(ref):
            container, lost = recognise(ref, stream, self.limits)
            if lost:
                raise AssetError(Reason.TRUNCATED, lost)
            return TorchcodecVideo(ref, stream, container, self.limits)


class TorchcodecVideo:
    """An open video; see `tokenmill.decoders.base.Video`."""

    time_base = _TIME_BASE

    def __init__(
        self, ref: AssetRef, stream: BinaryIO, container: Container, limits: DecodeLimits
    ) -> None:
        self._ref = ref
        self.decode_s = 0.0
        stream.seek(0)
        with self._working():
            self._video = TorchVideo(stream, dimension_order="NHWC", num_ffmpeg_threads=1)
        meta = self._video.metadata
        height, width = meta.height or 0, meta.width or 0
        if height * width > limits.max_pixels:
            text = f"claims {width}x{height} pixels; the limit is {limits.max_pixels}"
            raise AssetError(Reason.TOO_MANY_PIXELS, text)
        self.size = height, width
        self.fps = float(meta.average_fps or 0)
        self.facts: dict[str, Any] = {
            "asset.uri": ref.uri,
            "asset.width": width,
            "asset.height": height,
            "asset.format": container.name,
            "asset.codec": meta.codec or "",
            "asset.pixel_format": "",
            "asset.rotation": 0,
            "asset.fps": self.fps,
            "asset.time_base": [_TIME_BASE.numerator, _TIME_BASE.denominator],
            "asset.duration_s": meta.duration_seconds_from_header,
            "asset.frames": meta.num_frames_from_header,
        }

    @contextmanager
    def _working(self) -> Iterator[None]:
        start = time.perf_counter()
        try:
            with blaming(self._ref):
                yield
        except _BAD as error:
            text = f"torchcodec: {str(error)[:500]}"
            reason = Reason.NO_VIDEO if _NO_VIDEO in str(error) else Reason.CORRUPT
            raise AssetError(reason, text, uri=self._ref.uri, stage="decode") from error
        finally:
            self.decode_s += time.perf_counter() - start

    def frames(self) -> Iterator[TorchcodecFrame]:
        """Yield the frames in order of presentation, from the first; may be called again.

        Raises:
            AssetError: ``corrupt``, where it turns out.
        """
        last = None
        with self._working():
            count = len(self._video)
        for index in range(count):
            with self._working():
                frame = self._video.get_frame_at(index)
            pts = round(frame.pts_seconds / _TIME_BASE)
            last = pts if last is None else max(pts, last + 1)
            yield TorchcodecFrame(last, frame.data.numpy())

    def close(self) -> None:
        """Free the decoder; the stream stays open."""
        del self._video


@dataclass(frozen=True, slots=True)
class TorchcodecFrame:
    """One frame, already converted; see `tokenmill.decoders.base.Frame`."""

    pts: int
    pixels: Pixels

    def rgb(self, size: tuple[int, int] | None = None) -> Pixels:
        """Return the frame ``uint8[H, W, 3]``; with ``size`` by its nearest pixels."""
        if size is None:
            return self.pixels
        rows, columns = (
            (2 * np.arange(small) + 1) * whole // (2 * small)
            for small, whole in zip(size, self.pixels.shape[:2], strict=True)
        )
        return np.ascontiguousarray(self.pixels[rows[:, None], columns[None, :]])


PLUGIN = TorchcodecDecoder
