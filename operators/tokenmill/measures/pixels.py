"""Peak signal-to-noise ratio of 8-bit pixels."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.uint8]

#: What pictures without any difference count as where values are averaged: a single value of a
#: 256 x 256 picture that is off by one gives 101 dB, so only such pictures are capped.
PSNR_CAP_DB = 100.0
PEAK = 255.0


def mean_squared_error(original: npt.NDArray[Any], decoded: npt.NDArray[Any]) -> float:
    """Return the mean squared difference of two arrays of one shape.

    Raises:
        ValueError: their shapes differ.
    """
    if original.shape != decoded.shape:
        raise ValueError(f"shapes differ: {list(original.shape)} and {list(decoded.shape)}")
    apart = original.astype(np.float64) - decoded.astype(np.float64)
    return float(np.mean(apart * apart))


def psnr_db(original: Pixels, decoded: Pixels, *, cap_db: float = math.inf) -> float:
    """Return ``10 log10(255^2 / mse)`` over all of ``uint8[..., 3]``, at most ``cap_db``.

    Equal arrays give ``cap_db``, which is infinite unless told otherwise.

    Raises:
        ValueError: the shapes differ.
    """
    error = mean_squared_error(original, decoded)
    return min(10 * math.log10(PEAK**2 / error), cap_db) if error else cap_db


def frames_of(pixels: Pixels) -> Pixels:
    """Return ``uint8[T, H, W, 3]``: a clip as it is, a picture ``uint8[H, W, 3]`` as one frame.

    Raises:
        ValueError: it is neither.
    """
    if pixels.ndim not in (3, 4) or pixels.shape[-1] != 3:
        raise ValueError(f"pictures and clips are uint8[..., H, W, 3], got {list(pixels.shape)}")
    return pixels if pixels.ndim == 4 else pixels[None]
