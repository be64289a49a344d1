"""Single frames of a video, as pictures: what lets a tokenizer of images eat videos."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import pyarrow as pa

from tokenmill.decoders.base import Video
from tokenmill.views.base import ViewKind, ViewOf, ViewShape
from tokenmill.views.coordinates import as_size, identity_of, require_positive, uri_of
from tokenmill.views.framing import (
    MAX_VIEWS,
    Place,
    check_fps,
    clip_columns,
    framing_of,
)
from tokenmill.views.resize import Rule, check_rule
from tokenmill_schemas.asset import Modality
from tokenmill_schemas.errors import AssetError, Reason


@dataclass(frozen=True, slots=True)
class Frames:
    """Frames ``uint8[H, W, 3]`` of a video, each by itself.

    Attributes:
        size: side of the views in pixels, or [height, width] for the rules that allow it; held as
            (height, width).
        rule: how a frame is resized and cropped, as a picture is.
        min_side: videos with a shorter side are filtered; 0 takes all.
        fps: frames per second by nearest timestamp, counted from the first frame. 0: every frame.
            A frame is never taken twice, so a slower video gives fewer.
        max_frames: of one video at most; what comes after is not read.
    """

    size: Any = 256
    rule: Rule = "adm"
    min_side: int = 0
    fps: float = 1.0
    max_frames: int = 10_000

    gives: ClassVar[ViewKind] = "image"
    modalities: ClassVar[tuple[Modality, ...]] = ("video",)

    def __post_init__(self) -> None:
        object.__setattr__(self, "size", as_size(self.size))
        check_rule(self.rule, self.size)
        check_fps(self.fps)
        require_positive(max_frames=self.max_frames)
        if self.max_frames > MAX_VIEWS:
            raise ValueError(f"max_frames is at most {MAX_VIEWS}, got {self.max_frames}")

    @property
    def identity(self) -> dict[str, Any]:
        """Kind, options and Pillow's version."""
        return identity_of(self, "frames")

    @property
    def shape(self) -> ViewShape | None:
        """Height and width of every view in pixels."""
        height, width = self.size
        return height, width

    def columns(self) -> pa.Schema:
        """Return `tokenmill_schemas.arrow.CLIP_VIEW_FIELDS`; ``view.pts`` has one entry."""
        return clip_columns()

    def views(self, video: Video, key: str) -> Iterator[ViewOf]:  # noqa: ARG002 - nothing random
        """Yield ``frame_0``, ``frame_1``, ... in order of time.

        Raises:
            AssetError: ``too_short`` when there are none; ``too_small``, ``too_many_pixels``; and
                whatever decoding brings to light, at any frame.
        """
        framing = framing_of(video, self.rule, self.size, min_side=self.min_side)
        once = (frame for frame, _ in framing.sampled(self.fps))
        index = -1
        for index, frame in enumerate(itertools.islice(once, self.max_frames)):
            place = Place(index, f"frame_{index}", self.fps)
            yield ViewOf(framing.pixels(frame), framing.coordinates(place, [frame.pts]))
        if index < 0:
            text = "the video has no frames"
            raise AssetError(Reason.TOO_SHORT, text, uri=uri_of(video.facts), stage="view")


PLUGIN = Frames
