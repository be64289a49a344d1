"""Text in pictures: which characters that could be read before can still be read.

As TokBench does (arXiv:2505.18142), lines are cut from both pictures at one place and read by one
recogniser. TokBench has lines that people wrote down; here the recogniser's own reading of the
original stands for them, so what it cannot read there counts for nothing.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
from dataclasses import dataclass
from importlib import metadata
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from tokenmill.measures import common_length, edit_distance
from tokenmill.views.base import Pixels

#: Lines that the recogniser is less sure of in the original are left out.
LEAST_SCORE = 0.8
#: Shorter ones too: a single character is as often a leaf or a button.
LEAST_CHARACTERS = 2

Box = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class TextScore:
    """How much text came back, over all views.

    ``character_accuracy`` is the share of the original's recognised characters that come back in
    their order, ``line_accuracy`` that of lines without any error (TokBench's T-ACC), ``t_ned`` the
    mean over lines of one less the edit distance over the longer line.
    """

    reader: str
    views: int
    lines: int
    characters: int
    character_accuracy: float
    line_accuracy: float
    t_ned: float


def is_installed() -> bool:
    """Whether rapidocr and its runtime are there."""
    return all(importlib.util.find_spec(name) for name in ("rapidocr", "onnxruntime", "cv2"))


class TextTally:
    """Gathers how texts fare; loads the recogniser, whose networks are in its package."""

    def __init__(self) -> None:
        rapidocr: Any = importlib.import_module("rapidocr")
        settings = {
            "Global.log_level": "critical",
            "EngineConfig.onnxruntime.intra_op_num_threads": 1,
            "EngineConfig.onnxruntime.inter_op_num_threads": 1,
        }
        self._read = rapidocr.RapidOCR(params=settings)
        logging.getLogger("RapidOCR").setLevel(logging.CRITICAL)
        self.reader = f"rapidocr {metadata.version('rapidocr')}"
        self.views = 0
        self._pairs: list[tuple[str, str]] = []

    def add(self, original: Pixels, decoded: Pixels) -> int:
        """Read one view before and after; returns how many lines it has."""
        found = 0
        for box in self._boxes(original):
            before, score = self._line(original, box)
            if len(before) >= LEAST_CHARACTERS and score >= LEAST_SCORE:
                self._pairs.append((before, self._line(decoded, box)[0]))
                found += 1
        self.views += found > 0
        return found

    def _boxes(self, picture: Pixels) -> list[Box]:
        """Return the corners ``float64[4, 2]`` of every line, clockwise from the upper left."""
        found = self._read(_bgr(picture), use_det=True, use_cls=False, use_rec=False)
        boxes = found.boxes
        return [] if boxes is None else [np.asarray(box, np.float64) for box in boxes]

    def _line(self, picture: Pixels, box: Box) -> tuple[str, float]:
        """Return what a line reads, without spaces, and how sure the recogniser is of it."""
        found = self._read(_bgr(cut(picture, box)), use_det=False, use_cls=False, use_rec=True)
        texts, scores = found.txts or (), found.scores or ()
        return "".join("".join(texts).split()), min(scores, default=0.0)

    def score(self) -> TextScore | None:
        """Return what all views come to; None where no text was recognised in any."""
        if not self._pairs:
            return None
        characters = sum(len(before) for before, _ in self._pairs)
        kept = sum(common_length(before, after) for before, after in self._pairs)
        same = sum(before == after for before, after in self._pairs)
        return TextScore(
            self.reader,
            self.views,
            len(self._pairs),
            characters,
            kept / characters,
            same / len(self._pairs),
            float(np.mean([closeness(*pair) for pair in self._pairs])),
        )


def closeness(before: str, after: str) -> float:
    """Return one less the edit distance over the longer text's length; 1 for two empty ones."""
    longer = max(len(before), len(after))
    return 1 - edit_distance(before, after) / longer if longer else 1.0


def cut(picture: Pixels, box: Box) -> Pixels:
    """Return what lies in a box ``float64[4, 2]`` (clockwise from the upper left), upright."""
    upper_left, upper_right, lower_right, lower_left = box
    lengths = [
        max(np.linalg.norm(a - b), np.linalg.norm(c - d))
        for a, b, c, d in (
            (upper_right, upper_left, lower_right, lower_left),
            (lower_left, upper_left, lower_right, upper_right),
        )
    ]
    width, height = (max(1, round(float(length))) for length in lengths)
    corners = (*upper_left, *lower_left, *lower_right, *upper_right)
    image = Image.fromarray(picture).transform(
        (width, height), Image.Transform.QUAD, corners, Image.Resampling.BICUBIC
    )
    turned = image.transpose(Image.Transpose.ROTATE_90) if height > 1.5 * width else image
    return np.asarray(turned)


def _bgr(picture: Pixels) -> Pixels:
    return np.ascontiguousarray(picture[..., ::-1])
