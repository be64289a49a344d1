"""Faces in pictures: which of those that a detector finds before it finds again, and how like.

The detector is scikit-image's cascade of local binary patterns, which carries its own weights. It
looks for upright faces from the front and misses many, so it tells tokenizers apart by the faces
that it does find; it is no recogniser, so nothing is said of whose face it is.
"""

from __future__ import annotations

import importlib
import importlib.util
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from tokenmill.measures import PSNR_CAP_DB, psnr_db, ssim
from tokenmill.views.base import Pixels

WEIGHTS = "data/lbpcascade_frontalface_opencv.xml"
LEAST_SIDE = 32
#: Overlap (intersection over union) from which two boxes are one face.
SAME = 0.4

#: Top, left, height, width.
Box = tuple[int, int, int, int]


@dataclass(frozen=True, slots=True)
class FaceScore:
    """How faces fare, over all views.

    ``found_again`` is the share of the original's faces that the detector finds at the same place;
    the means are of the pixels inside of the original's boxes.
    """

    detector: str
    views: int
    faces: int
    found_again: float
    psnr_db: float
    ssim: float


def is_installed() -> bool:
    """Whether scikit-image and its weights are there."""
    return _weights() is not None


def _weights() -> Path | None:
    spec = importlib.util.find_spec("skimage")
    if spec is None or not spec.origin:
        return None
    path = Path(spec.origin).parent / WEIGHTS
    return path if path.is_file() else None


class FaceTally:
    """Gathers how faces fare."""

    def __init__(self) -> None:
        skimage: Any = importlib.import_module("skimage.feature")
        self._cascade = skimage.Cascade(str(_weights()))
        self.detector = f"scikit-image {metadata.version('scikit-image')} LBP cascade"
        self._views = 0
        self._rows: list[tuple[bool, float, float]] = []

    def add(self, original: Pixels, decoded: Pixels) -> int:
        """Look for faces before and after; returns how many the original has."""
        before = self._boxes(original)
        if not before:
            return 0
        after = self._boxes(decoded)
        self._views += 1
        for box in before:
            again = any(overlap(box, other) >= SAME for other in after)
            one, other = _inside(original, box), _inside(decoded, box)
            psnr = psnr_db(one, other, cap_db=PSNR_CAP_DB)
            self._rows.append((again, psnr, ssim(one, other) or 0.0))
        return len(before)

    def _boxes(self, picture: Pixels) -> list[Box]:
        side = min(picture.shape[:2])
        if side < LEAST_SIDE:
            return []
        found = self._cascade.detect_multi_scale(
            img=picture,
            scale_factor=1.2,
            step_ratio=1,
            min_size=(LEAST_SIDE, LEAST_SIDE),
            max_size=(side, side),
        )
        return [(box["r"], box["c"], box["height"], box["width"]) for box in found]

    def score(self) -> FaceScore | None:
        """Return what all views come to; None where no face was found in any."""
        if not self._rows:
            return None
        again, psnr, alike = (float(np.mean(column)) for column in zip(*self._rows, strict=True))
        return FaceScore(self.detector, self._views, len(self._rows), again, psnr, alike)


def _inside(picture: Pixels, box: Box) -> Pixels:
    top, left, height, width = box
    return picture[top : top + height, left : left + width]


def overlap(one: Box, other: Box) -> float:
    """Return the intersection over union of two boxes."""
    sides = [
        max(0, min(one[a] + one[a + 2], other[a] + other[a + 2]) - max(one[a], other[a]))
        for a in (0, 1)
    ]
    shared = sides[0] * sides[1]
    return shared / (one[2] * one[3] + other[2] * other[3] - shared)
