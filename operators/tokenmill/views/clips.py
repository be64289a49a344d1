"""Clips of a video: windows with a stride, shots, or the whole of it.

Frames are chosen by time (`tokenmill.views.timing`), read by the rules for pictures
(`tokenmill.views.resize`) and cut into clips (`tokenmill.views.cutting`), in one pass over the
decoder, or two where shots are looked for first (`tokenmill.views.shots`).

``frames`` > 0: windows of that many, inside the video or inside each shot. ``frames`` = 0: one clip
for the video or each shot, cut down to a length that ``frames_rule`` allows, and into several of at
most ``max_frames`` where that is set. Names: ``clip_12``, ``whole``, ``shot_3``; in shots
``shot_3/clip_0``; with ``max_frames`` ``whole/0`` and ``shot_3/0``.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import pyarrow as pa

from tokenmill.decoders.base import Frame, Video
from tokenmill.views.base import LongView, ViewKind, ViewOf, ViewShape
from tokenmill.views.coordinates import as_size, identity_of, require_positive, uri_of
from tokenmill.views.cutting import Cut, Pieces, Remainder, Windows
from tokenmill.views.framing import (
    MAX_VIEWS,
    Framing,
    Place,
    check_fps,
    clip_columns,
    framing_of,
)
from tokenmill.views.resize import Rule, check_rule
from tokenmill.views.shots import ShotRule, in_shots
from tokenmill.views.timing import MAX_RULE, as_lengths
from tokenmill_schemas.asset import Modality
from tokenmill_schemas.errors import AssetError, Reason

#: Longer clips come in parts of so many frames, and of fewer where frames are large.
PART_FRAMES, PART_BYTES = 64, 64 * 2**20


@dataclass(frozen=True, slots=True)
class Clips:
    """Clips ``uint8[T, H, W, 3]`` of a video, of one length or of the length of what they show.

    Attributes:
        size: side of the frames in pixels, or [height, width] for the rules that allow it; held as
            (height, width).
        rule: how a frame is resized and cropped, as a picture is.
        min_side: videos with a shorter side are filtered; 0 takes all.
        fps: frames per second by nearest timestamp, counted from the first frame of the video; a
            frame of a slower video is taken more than once. 0: every frame, once.
        frames: length of a window; 0: as long as the video or shot lasts.
        stride: frames, at ``fps``, from one window's start to the next one's; 0: ``frames``.
        frames_rule: lengths that the tokenizer takes: ``any``, ``bk`` or ``a+bk`` (``1+8k``,
            ``16k``). Windows must have such a length; other clips are cut down to the largest.
        min_frames: shorter clips are dropped.
        max_frames: longer clips are cut into several of the largest length up to this; 0: they
            are not.
        max_clips: of one video at most; what comes after is not read.
        short: what a video or shot gives that is shorter than one clip: nothing, or a clip that
            repeats its last frame. A video without clips is filtered (``too_short``).
        tail: the same for what is left after the last whole window, or after the last clip of
            ``max_frames``.
        shots: clips lie within shots, found by this detector; none: the video is one span.
        shot_threshold: of the detector's score; 0: its own default.
        min_shot_s: what is shorter is no shot: see `tokenmill.views.shots.ShotRule`.
        weights: ONNX file of TransNetV2: a path, URL or ``hf://owner/repo/file``.
    """

    size: Any = 256
    rule: Rule = "adm"
    min_side: int = 0
    fps: float = 0.0
    frames: int = 16
    stride: int = 0
    frames_rule: str = "any"
    min_frames: int = 1
    max_frames: int = 0
    max_clips: int = 10_000
    short: Remainder = "drop"
    tail: Remainder = "drop"
    shots: Literal["none", "content", "adaptive", "transnetv2"] = "none"
    shot_threshold: float = 0.0
    min_shot_s: float = 0.6
    weights: str = ""

    gives: ClassVar[ViewKind] = "clip"
    modalities: ClassVar[tuple[Modality, ...]] = ("video",)

    def __post_init__(self) -> None:
        object.__setattr__(self, "size", as_size(self.size))
        check_rule(self.rule, self.size)
        check_fps(self.fps)
        require_positive(min_frames=self.min_frames, max_clips=self.max_clips)
        for name in ("frames", "stride", "max_frames", "min_side"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")
        if self.max_clips > MAX_VIEWS:
            raise ValueError(f"max_clips is at most {MAX_VIEWS}, got {self.max_clips}")
        self._check_lengths()
        self._shot_rule()

    def _check_lengths(self) -> None:
        lengths = as_lengths(self.frames_rule)
        if self.frames:
            if lengths.down(self.frames) != self.frames:
                raise ValueError(f"frames = {self.frames} is not allowed by {self.frames_rule!r}")
            if self.max_frames or self.min_frames > 1:
                raise ValueError("min_frames and max_frames are for frames = 0")
            return
        if self.stride:
            raise ValueError("stride is for windows; frames = 0 asks for none")
        if self.min_frames > MAX_RULE:
            raise ValueError(f"min_frames is at most {MAX_RULE}, got {self.min_frames}")
        if self.max_frames and lengths.down(self.max_frames) < lengths.up(self.min_frames):
            raise ValueError(
                f"no length of {self.frames_rule!r} is {self.min_frames} to {self.max_frames}"
            )

    def _shot_rule(self) -> ShotRule | None:
        if self.shots == "none":
            if self.shot_threshold or self.weights:
                raise ValueError("shot_threshold and weights are of no use with shots = 'none'")
            return None
        return ShotRule(self.shots, self.shot_threshold, self.min_shot_s, self.weights)

    @property
    def identity(self) -> dict[str, Any]:
        """Kind, options, the versions of Pillow and of what finds shots, and the weights' sha256.

        Raises:
            JobError: a library or the weights are missing.
        """
        own = identity_of(self, "clips")
        rule = self._shot_rule()
        del own["weights"]
        return own if rule is None else own | {"shot_detector": rule.identity}

    @property
    def shape(self) -> ViewShape | None:
        """Frames (None: they vary), height and width of every clip."""
        height, width = self.size
        return self.frames or None, height, width

    @property
    def some_shapes(self) -> tuple[ViewShape, ...]:
        """Shapes of its shortest clips; a tokenizer that takes these takes all.

        Its lengths are evenly spaced, and so are a tokenizer's, but for a single frame.
        """
        if self.frames:
            return ((self.frames, *self.size),)
        lengths = as_lengths(self.frames_rule)
        first = lengths.up(self.min_frames)
        probed = (first + step * lengths.step for step in range(3))
        return tuple((n, *self.size) for n in probed if n <= (self.max_frames or n))

    def columns(self) -> pa.Schema:
        """Return `tokenmill_schemas.arrow.CLIP_VIEW_FIELDS`."""
        return clip_columns()

    def views(self, video: Video, key: str) -> Iterator[ViewOf | LongView]:  # noqa: ARG002 - no chance
        """Yield the clips in order of time; those longer than a part as `LongView`.

        Raises:
            AssetError: ``too_short`` when there are none; ``too_small``, ``too_many_pixels``; and
                whatever decoding brings to light, at any clip.
            JobError: the shot detector's library or weights are missing.
        """
        framing = framing_of(video, self.rule, self.size, min_side=self.min_side)
        cuts = itertools.islice(self._cuts(framing), self.max_clips)
        index = -1
        for index, (name, shot, cut) in enumerate(cuts):
            place = Place(index, name, self.fps, shot)
            if cut.long:
                yield LongView(cut.parts, functools.partial(framing.coordinates, place, cut.pts))
            else:
                yield ViewOf(next(cut.parts), framing.coordinates(place, cut.pts))
        if index < 0:
            raise self._too_short(framing)

    def _cuts(self, framing: Framing) -> Iterator[tuple[str, int, Cut]]:
        """Yield each clip with its name and the number of its shot."""
        rule = self._shot_rule()
        if rule is None:
            spans: Iterable[tuple[int, Iterator[Frame]]] = [(-1, framing.frames(self.fps))]
        else:
            shots = rule.find(framing.video)
            spans = in_shots(framing.frames(self.fps), shots)
        cutter = self._cutter()
        for shot, frames in spans:
            for number, cut in enumerate(cutter.cut(frames, framing.pixels)):
                yield self._name(shot, number), shot, cut

    def _cutter(self) -> Windows | Pieces:
        if self.frames:
            return Windows(self.frames, self.stride or self.frames, self.short, self.tail)
        height, width = self.size
        lengths = as_lengths(self.frames_rule)
        return Pieces(
            lengths=lengths,
            least=lengths.up(self.min_frames),
            most=lengths.down(self.max_frames),
            part=max(1, min(PART_FRAMES, PART_BYTES // (3 * height * width))),
            short=self.short,
            tail=self.tail,
        )

    def _name(self, shot: int, number: int) -> str:
        if self.frames:
            return f"clip_{number}" if shot < 0 else f"shot_{shot}/clip_{number}"
        span = "whole" if shot < 0 else f"shot_{shot}"
        return f"{span}/{number}" if self.max_frames else span

    def _too_short(self, framing: Framing) -> AssetError:
        wanted = self.frames or as_lengths(self.frames_rule).up(self.min_frames)
        rate = f"at {self.fps:g} fps" if self.fps else "as they come"
        where = "" if self.shots == "none" else " in any shot"
        text = f"{framing.seen} frames {rate}; no {wanted} of them{where} for a clip"
        return AssetError(Reason.TOO_SHORT, text, uri=uri_of(framing.video.facts), stage="view")


PLUGIN = Clips
