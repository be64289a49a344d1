"""TransNetV2 (Soucek and Lokoc, arXiv:2008.04838): how likely a frame is part of a transition.

The network sees windows of 100 frames of 48 x 27 pixels. As in the authors' inference code, windows
start every 50 frames and only the middle 50 scores of each are kept; the first frame is repeated 25
times in front, the last one at the end until all windows are full. The authors scale frames with
FFmpeg's default filter; here it is the decoder's quick one.

Exports to ONNX differ: some end in the sigmoid, some give its input. Which one it is shows on a
still picture, whose score is next to nothing: below zero, without the sigmoid.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from tokenmill.views.base import Pixels
from tokenmill_schemas.errors import CheckpointError

#: Height and width of the frames.
SIZE = (27, 48)
WINDOW, STEP, MARGIN = 100, 50, 25
PATH = "view.weights"
_TYPES = {"tensor(uint8)": np.uint8, "tensor(float)": np.float32}

Scores = npt.NDArray[np.float32]


class Predictor(Protocol):
    """A network that scores the frames of one window."""

    def __call__(self, window: Pixels, /) -> Scores:
        """Return ``float32[100]`` in 0..1 for ``uint8[100, 27, 48, 3]``, RGB."""
        ...


@dataclass(frozen=True, slots=True)
class OnnxPredictor:
    """TransNetV2 in onnxruntime; threads may share it."""

    session: Any
    input: str
    dtype: npt.DTypeLike
    logits: bool = False

    def __call__(self, window: Pixels) -> Scores:
        """Return the probability of a transition at each frame of a window.

        Raises:
            CheckpointError: the network gives something else than one number a frame.
        """
        raw = self.raw(window)
        return (1 / (1 + np.exp(-raw))).astype(np.float32) if self.logits else raw

    def raw(self, window: Pixels) -> Scores:
        """Return what the network gives, which may be logits."""
        batch = np.ascontiguousarray(window[None].astype(self.dtype))
        result = np.asarray(self.session.run(None, {self.input: batch})[0], np.float32)
        if result.size != WINDOW:
            text = f"gives shape {list(result.shape)} for {WINDOW} frames; not TransNetV2"
            raise CheckpointError(text, path=PATH)
        return result.reshape(WINDOW)


def open_predictor(path: Path) -> OnnxPredictor:
    """Return the network of an ONNX file, one per process for a file that stays as it is.

    Raises:
        CheckpointError: the file is not TransNetV2 in ONNX form.
    """
    stat = path.stat()
    return _opened(path, stat.st_size, stat.st_mtime_ns)


@functools.lru_cache(maxsize=2)
def _opened(path: Path, _size_bytes: int, _mtime_ns: int) -> OnnxPredictor:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    # One thread: videos are read side by side, and sums keep their order.
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(
            path.read_bytes(), options, providers=["CPUExecutionProvider"]
        )
    except _refusals() as error:
        raise CheckpointError(f"{path.name} is no ONNX network: {error}", path=PATH) from error
    return predictor_of(session)


def _refusals() -> tuple[type[Exception], ...]:
    """Return what onnxruntime raises over a file; its errors have no base of their own."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    names = ("Fail", "InvalidArgument", "InvalidGraph", "InvalidProtobuf", "NotImplemented")
    return tuple(getattr(state, name) for name in names)


def predictor_of(session: Any) -> OnnxPredictor:
    """Return the predictor that runs an onnxruntime session.

    Raises:
        CheckpointError: it does not take uint8 or float32 frames ``[B, 100, 27, 48, 3]``.
    """
    (taken, *others) = session.get_inputs()
    expected = (1, WINDOW, *SIZE, 3)
    sizes_fit = len(taken.shape) == len(expected) and all(
        given == wanted
        for given, wanted in zip(taken.shape, expected, strict=True)
        if isinstance(given, int)
    )
    if others or not sizes_fit or taken.type not in _TYPES:
        text = (
            f"takes {taken.type} {taken.shape}; TransNetV2 takes uint8 or float32 "
            f"[B, {WINDOW}, {SIZE[0]}, {SIZE[1]}, 3]"
        )
        raise CheckpointError(text, path=PATH)
    plain = OnnxPredictor(session, taken.name, _TYPES[taken.type])
    still = plain.raw(np.zeros(expected[1:], np.uint8))
    return OnnxPredictor(session, plain.input, plain.dtype, logits=bool(still.min() < 0))


def windows(frames: Iterable[Pixels]) -> Iterator[tuple[Pixels, int]]:
    """Yield windows ``uint8[100, 27, 48, 3]`` and how many of their middle scores count.

    Together they count once for every frame, in order.
    """
    held: list[Pixels] = []
    counted, seen = 0, 0
    for frame in frames:
        held += [frame] * (1 if seen else MARGIN + 1)
        seen += 1
        if len(held) == WINDOW:
            yield np.stack(held), STEP
            del held[:STEP]
            counted += STEP
    while counted < seen:
        held += [held[-1]] * (WINDOW - len(held))
        yield np.stack(held), min(STEP, seen - counted)
        del held[:STEP]
        counted += STEP


def scores(frames: Iterable[Pixels], predict: Predictor) -> Iterator[float]:
    """Yield the score of every frame ``uint8[27, 48, 3]``."""
    for window, count in windows(frames):
        yield from predict(window)[MARGIN : MARGIN + count].tolist()


def stretches(above: Iterable[bool]) -> Iterator[tuple[int, int]]:
    """Yield the first and last frame of each shot, from whether each frame is in a transition.

    As in the authors' code a shot ends with the first frame of a transition and the next begins
    after its last; a video that is one transition is one shot.
    """
    start, number, was = 0, -1, False
    ended = False
    for number, now in enumerate(above):
        if was and not now:
            start = number
        if now and not was and number > 0:
            yield start, number
            ended = True
        was = now
    if number >= 0 and (not was or not ended):
        yield start, number
