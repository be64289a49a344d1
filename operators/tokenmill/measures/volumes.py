"""Overlap of occupancies."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt


def iou(original: npt.NDArray[Any], decoded: npt.NDArray[Any]) -> float:
    """Return the intersection over union of two occupancies; 1 when both are empty."""
    union = int(np.logical_or(original, decoded).sum())
    return int(np.logical_and(original, decoded).sum()) / union if union else 1.0
