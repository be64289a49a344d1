"""Shots of a video: a pass over small frames that finds the cuts, before the pass that reads clips.

| detector | what | default threshold |
|---|---|---|
| ``content`` | PySceneDetect's ContentDetector: mean change of hue, saturation and value between two frames | 27 |
| ``adaptive`` | its AdaptiveDetector: that change as a multiple of its mean over two frames on either side, so that a moving camera does not cut | 3 |
| ``transnetv2`` | TransNetV2 (arXiv:2008.04838), `tokenmill.views.transnet`; frames of a slow transition belong to no shot | 0.5 |

Frames are made small by the decoder's quick filter, to 256 pixels on the longer side as PySceneDetect
does, or to the 48 x 27 of TransNetV2.
"""  # noqa: E501 - a table row cannot be broken

from __future__ import annotations

import bisect
import contextlib
import importlib.metadata
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

import numpy as np

from tokenmill.decoders.base import Frame, Video
from tokenmill.tokenizers.locate import file_digest, local_file
from tokenmill.views import transnet
from tokenmill.views.base import Pixels
from tokenmill_schemas.errors import CheckpointError, JobError

Detector = Literal["content", "adaptive", "transnetv2"]

_SIDE = 256
_THRESHOLDS: dict[Detector, float] = {"content": 27.0, "adaptive": 3.0, "transnetv2": 0.5}
_LIBRARIES: dict[Detector, tuple[str, tuple[str, ...]]] = {
    "content": ("scenedetect", ("scenedetect-headless", "scenedetect")),
    "adaptive": ("scenedetect", ("scenedetect-headless", "scenedetect")),
    "transnetv2": ("onnxruntime", ("onnxruntime", "onnxruntime-gpu")),
}
#: PySceneDetect wants a frame rate beside the timestamps; with lengths in seconds nothing asks it.
_RATE = Fraction(25)


@dataclass(frozen=True, slots=True)
class Shot:
    """The frames whose timestamps are ``start`` or later, and before ``stop``."""

    number: int
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class ShotRule:
    """How shots are found.

    Attributes:
        detector: see the module.
        threshold: of its score; 0: its own default.
        min_s: seconds; what is shorter is joined to a neighbour by PySceneDetect (but for the last
            shot), and left out with TransNetV2.
        weights: TransNetV2's ONNX file: a path, URL or ``hf://owner/repo/file``.
    """

    detector: Detector
    threshold: float = 0.0
    min_s: float = 0.6
    weights: str = ""

    def __post_init__(self) -> None:
        if not (math.isfinite(self.threshold) and self.threshold >= 0):
            raise ValueError(f"shot_threshold must be 0 or more, got {self.threshold}")
        if not (math.isfinite(self.min_s) and self.min_s >= 0):
            raise ValueError(f"min_shot_s must be 0 or more, got {self.min_s}")
        if bool(self.weights) != (self.detector == "transnetv2"):
            raise ValueError("weights go with shots = 'transnetv2', which needs them")

    @property
    def identity(self) -> dict[str, Any]:
        """The detector's library and version, the threshold in use, and the weights' sha256.

        Raises:
            JobError: the library or the weights are missing.
        """
        name, version = _library(self.detector)
        own = {"threshold": self._level(), name: version}
        if self.detector == "transnetv2":
            own["weights_sha256"] = file_digest(_weights(self.weights))
        return own

    def _level(self) -> float:
        return self.threshold or _THRESHOLDS[self.detector]

    def find(self, video: Video) -> tuple[Shot, ...]:
        """Return the shots in order; read from the video's first frame to its last.

        Raises:
            AssetError: what the decoder raises.
            JobError: the library or the weights are missing, or they are of another network.
        """
        _library(self.detector)
        if self.detector == "transnetv2":
            return self._by_transnet(video)
        return self._by_change(video)

    def _by_transnet(self, video: Video) -> tuple[Shot, ...]:
        times: list[int] = []
        predict = transnet.open_predictor(_weights(self.weights))
        scores = transnet.scores(_small_frames(video, times), predict)
        level = self._level()
        spans = [
            (times[first], times[last] + 1)
            for first, last in transnet.stretches([score > level for score in scores])
            if (times[last] - times[first]) * video.time_base >= self.min_s
        ]
        return tuple(Shot(number, *span) for number, span in enumerate(spans))

    def _by_change(self, video: Video) -> tuple[Shot, ...]:
        first = last = -1
        cuts: list[int] = []
        push = self._scenedetect(Fraction(video.time_base))
        size = small_size(video.size)
        for number, frame in enumerate(video.frames()):
            last = frame.pts
            first = first if number else last
            # PySceneDetect knows no times below zero, so they are counted from the first frame.
            cuts += [first + cut for cut in push(last - first, frame.rgb(size))]
        bounds = sorted({first, *cuts, last + 1})
        return tuple(Shot(number, *pair) for number, pair in enumerate(itertools.pairwise(bounds)))

    def _scenedetect(self, time_base: Fraction) -> Callable[[int, Pixels], list[int]]:
        """Return what takes a frame's time and pixels and gives the times of cuts found so far."""
        from scenedetect import AdaptiveDetector, ContentDetector, FrameTimecode
        from scenedetect.common import Timecode

        detector: Any
        if self.detector == "content":
            detector = ContentDetector(self._level(), min_scene_len=self.min_s)
        else:
            detector = AdaptiveDetector(self._level(), min_scene_len=self.min_s)

        def push(time: int, rgb: Pixels) -> list[int]:
            at = FrameTimecode(Timecode(time, time_base), _RATE)
            bgr = np.ascontiguousarray(rgb[..., ::-1])
            return [cut.pts for cut in detector.process_frame(at, bgr)]

        return push


def in_shots(
    frames: Iterable[Frame], shots: Sequence[Shot]
) -> Iterator[tuple[int, Iterator[Frame]]]:
    """Yield the number of each shot that has frames, with them; the others are passed over.

    The frames of a shot that are not taken before the next shot is asked for are lost.
    """
    starts = [shot.start for shot in shots]

    def number_of(frame: Frame) -> int:
        place = bisect.bisect_right(starts, frame.pts) - 1
        return shots[place].number if place >= 0 and frame.pts < shots[place].stop else -1

    for number, inside in itertools.groupby(frames, number_of):
        if number >= 0:
            yield number, inside


def small_size(size: tuple[int, int]) -> tuple[int, int]:
    """Return the height and width at which frames are compared, 256 on the longer side."""
    scale = min(1.0, _SIDE / max(size))
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def _small_frames(video: Video, times: list[int]) -> Iterator[Pixels]:
    for frame in video.frames():
        times.append(frame.pts)
        yield frame.rgb(transnet.SIZE)


def _library(detector: Detector) -> tuple[str, str]:
    """Return the name and version of the library that a detector needs.

    Raises:
        JobError: it is not installed.
    """
    module, packages = _LIBRARIES[detector]
    for package in packages:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            return module, importlib.metadata.version(package)
    text = f"{detector!r} needs {module}, which is not installed: pip install {packages[0]}"
    raise JobError(text, path="view.shots")


def _weights(name: str) -> Path:
    try:
        return local_file(name)
    except CheckpointError as error:
        raise JobError(f"there is no file {name}: {error}", path=transnet.PATH) from error
