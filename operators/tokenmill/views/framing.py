"""What every frame of a video goes through: the resize and crop of pictures, computed once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import numpy as np
import pyarrow as pa

from tokenmill.decoders.base import Frame, Video
from tokenmill.views.base import Pixels
from tokenmill.views.coordinates import Size2D, fitted, uri_of
from tokenmill.views.narrowing import Route, route
from tokenmill.views.resize import Box, Rule, source_box
from tokenmill.views.timing import as_rate, nearest
from tokenmill_schemas.arrow import CLIP_VIEW_FIELDS
from tokenmill_schemas.errors import AssetError, Reason

MAX_FPS = 1000
#: ``view.index`` is a uint16.
MAX_VIEWS = 65_535


def clip_columns() -> pa.Schema:
    """Return the ``view.*`` columns of every view of a video."""
    return pa.schema(CLIP_VIEW_FIELDS)


def check_fps(fps: float) -> None:
    """Check the option ``fps``.

    Raises:
        ValueError: it is not 0 to `MAX_FPS`.
    """
    if not 0 <= fps <= MAX_FPS:
        raise ValueError(f"fps must be 0 (every frame) to {MAX_FPS}, got {fps}")


@dataclass(frozen=True, slots=True)
class Place:
    """Which view of a video one is; ``shot`` is -1 where shots were not looked for."""

    index: int
    name: str
    fps: float
    shot: int = -1


@dataclass(slots=True)
class Framing:
    """Turns frames of one video into pixels of a view, and says where in the frame they lie.

    ``seen`` counts the frames that were chosen so far, with repetitions.
    """

    video: Video
    route: Route
    size: Size2D
    box: Box
    seen: int = 0
    _last: tuple[int, Pixels] | None = field(default=None, init=False)

    def pixels(self, frame: Frame) -> Pixels:
        """Return ``uint8[H, W, 3]`` of a frame, which owns its memory; not to be written to.

        Raises:
            AssetError: ``unsupported``: the frame has another size than the video.
        """
        if self._last is None or self._last[0] != frame.pts:
            self._last = frame.pts, self._read(frame)
        return self._last[1]

    def _read(self, frame: Frame) -> Pixels:
        rgb = frame.rgb()
        if rgb.shape[:2] != tuple(self.video.size):
            height, width = self.video.size
            text = f"a frame of {rgb.shape[1]}x{rgb.shape[0]} in a video of {width}x{height}"
            raise AssetError(Reason.UNSUPPORTED, text, uri=uri_of(self.video.facts), stage="view")
        return self.route.pixels(rgb)

    def sampled(self, fps: float) -> Iterator[tuple[Frame, int]]:
        """Yield the frames that stand for output times of ``fps``, and for how many.

        Every frame, once, with ``fps`` 0. The frame after a yielded one may have been asked for.

        Raises:
            AssetError: what the decoder raises, or timestamps are broken (``corrupt``).
        """
        if not fps:
            return ((frame, 1) for frame in self.video.frames())
        return nearest(self.video.frames(), as_rate(fps), Fraction(self.video.time_base))

    def frames(self, fps: float) -> Iterator[Frame]:
        """Yield the frame for every output time, as often as it stands for one, and count them.

        Raises:
            AssetError: as `sampled` does.
        """
        for frame, times in self.sampled(fps):
            for _ in range(times):
                self.seen += 1
                yield frame

    def coordinates(self, place: Place, pts: list[int]) -> dict[str, Any]:
        """Return the ``view.*`` values of a view of the frames ``pts``, of which there is one."""
        seconds = self.video.time_base
        return {
            "view.index": place.index,
            "view.name": place.name,
            "view.box": [float(np.float32(edge)) for edge in self.box],
            "view.size": list(self.size),
            "view.flip": False,
            "view.start_s": float(pts[0] * seconds),
            "view.end_s": float(pts[-1] * seconds),
            "view.fps": place.fps,
            "view.shot": place.shot,
            "view.pts": list(pts),
        }


def framing_of(video: Video, rule: Rule, size: Size2D, *, min_side: int) -> Framing:
    """Return how ``rule`` brings the frames of ``video`` to ``size`` (height, width).

    Raises:
        AssetError: ``too_small``, or ``too_many_pixels``, as for pictures.
    """
    height, width = video.size
    how = fitted((width, height), rule, size, min_side=min_side, uri=uri_of(video.facts))
    return Framing(video, route(how, (width, height)), size, source_box(how, (width, height)))
