"""OpenCV's bilinear resize of 8-bit pictures (``INTER_LINEAR``), to the bit, in numpy.

It does not antialias: two source samples per axis whatever the scale. Positions are float32 pixel
centres, weights are rounded to 11 bits, rows are blended after the horizontal pass is cut to its
upper bits. Albumentations' ``SmallestMaxSize``, hence taming-transformers, preprocesses with it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from tokenmill.views.base import Pixels

_ONE = 2048

Ints = npt.NDArray[np.int32]


def resize_bilinear(
    pixels: Pixels, size: tuple[int, int], crop: tuple[int, int, int, int] | None = None
) -> Pixels:
    """Return ``uint8[H, W, C]`` resized to ``size`` (width, height).

    With ``crop`` (left, top, right, bottom in pixels of the result) only that part is computed.
    """
    height, width = pixels.shape[:2]
    box = crop or (0, 0, *size)
    left, right, x0, x1 = (t[box[0] : box[2]] for t in _taps(width, size[0], clamp=True))
    top, bottom, y0, y1 = (t[box[1] : box[3]] for t in _taps(height, size[1], clamp=False))
    weight0, weight1 = x0[:, None], x1[:, None]
    rows: Ints = np.unique(np.concatenate([top, bottom]))
    source = pixels[rows].astype(np.int32)
    blended: Ints = source[:, left] * weight0 + source[:, right] * weight1
    upper = blended[np.searchsorted(rows, top)] >> 4
    lower = blended[np.searchsorted(rows, bottom)] >> 4
    total = ((upper * y0[:, None, None]) >> 16) + ((lower * y1[:, None, None]) >> 16)
    result: Any = np.clip((total + 2) >> 2, 0, 255).astype(np.uint8)
    return result  # type: ignore[no-any-return]  # numpy's clip loses the type


def _taps(source: int, target: int, *, clamp: bool) -> tuple[Ints, Ints, Ints, Ints]:
    """Return both sample positions and both weights for every output position of one axis."""
    scale = 1.0 / (target / source)
    position = ((np.arange(target) + 0.5) * scale - 0.5).astype(np.float32)
    first = np.floor(position).astype(np.int32)
    fraction = position - first.astype(np.float32)
    if clamp:  # the horizontal pass moves onto the edge sample itself
        fraction[(first < 0) | (first >= source - 1)] = 0
    weight1 = np.rint(fraction * np.float32(_ONE)).astype(np.int32)
    weight0 = np.rint((np.float32(1) - fraction) * np.float32(_ONE)).astype(np.int32)
    second = np.clip(first + 1, 0, source - 1)
    return np.clip(first, 0, source - 1), second, weight0, weight1
