"""Structural similarity, at one scale and at five.

SSIM: Wang, Bovik, Sheikh and Simoncelli (2004): a Gaussian window of 11 x 11 with a deviation of
1.5 pixels, population variances, K1 = 0.01, K2 = 0.03, a range of 255, averaged over the positions
where the window lies inside the picture, and over the three channels. MS-SSIM: Wang, Simoncelli and
Bovik (2003): contrast and structure at five scales, each half of the one before by means of 2 x 2
pixels, luminance at the coarsest, with the weights of that paper; negative terms count as zero.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float64]

TAPS, DEVIATION = 11, 1.5
C1, C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
#: Shortest sides, in pixels, that have a value at one scale and at five.
LEAST_SIDE = TAPS
LEAST_SIDE_5 = TAPS * 2 ** (len(WEIGHTS) - 1)


def _window() -> Floats:
    places = np.arange(TAPS) - TAPS // 2
    values = np.exp(-(places**2) / (2 * DEVIATION**2))
    return np.asarray(values / values.sum(), np.float64)


@dataclass(frozen=True, slots=True)
class _Scale:
    """What one scale of one channel of the original gives every comparison."""

    values: Floats
    mean: Floats
    variance: Floats


class Structure:
    """An original picture ``uint8[H, W, 3]``, to compare several others with at less cost.

    Raises:
        ValueError: it is no such array.
    """

    def __init__(self, original: Pixels) -> None:
        if original.ndim != 3 or original.shape[2] != 3:
            raise ValueError(f"a picture is uint8[H, W, 3], got {list(original.shape)}")
        self.shape = original.shape
        short = min(original.shape[:2])
        count = len(WEIGHTS) if short >= LEAST_SIDE_5 else 1 if short >= LEAST_SIDE else 0
        self._channels = [_pyramid(plane, count) for plane in _planes(original)]

    def compare(self, decoded: Pixels) -> tuple[float | None, float | None]:
        """Return SSIM and MS-SSIM of another picture; None where a side is too short for it.

        Raises:
            ValueError: it has another shape.
        """
        if decoded.shape != self.shape:
            raise ValueError(f"shapes differ: {list(self.shape)} and {list(decoded.shape)}")
        pairs = zip(self._channels, _planes(decoded), strict=True)
        # [channel, scale, whole or contrast] -> means over the channels
        parts = np.array([_compared(scales, plane) for scales, plane in pairs]).mean(axis=0)
        if not len(parts):
            return None, None
        if len(parts) < len(WEIGHTS):
            return float(parts[0, 0]), None
        terms = np.maximum([*parts[:-1, 1], parts[-1, 0]], 0.0)
        return float(parts[0, 0]), float(np.prod(terms ** np.array(WEIGHTS)))


def ssim(original: Pixels, decoded: Pixels) -> float | None:
    """Return the mean structural similarity of two pictures ``uint8[H, W, 3]``, 1 when equal.

    None where a side has fewer than 11 pixels.

    Raises:
        ValueError: the shapes differ.
    """
    return Structure(original).compare(decoded)[0]


def ms_ssim(original: Pixels, decoded: Pixels) -> float | None:
    """Return the multi-scale structural similarity of two pictures ``uint8[H, W, 3]``.

    None where a side has fewer than 176 pixels: the coarsest of five scales has no window then.

    Raises:
        ValueError: the shapes differ.
    """
    return Structure(original).compare(decoded)[1]


def _planes(pixels: Pixels) -> Floats:
    # One channel at a time: what is computed of it then stays in the processor's cache.
    return np.ascontiguousarray(pixels.transpose(2, 0, 1), np.float64)


def _pyramid(plane: Floats, count: int) -> list[_Scale]:
    scales = []
    for _ in range(count):
        mean = _blurred(plane)
        scales.append(_Scale(plane, mean, _blurred(plane**2) - mean**2))
        plane = _halved(plane)
    return scales


def _compared(scales: list[_Scale], plane: Floats) -> list[tuple[float, float]]:
    """Return, scale by scale, the means of similarity and of its part without luminance."""
    found = []
    for scale in scales:
        mean = _blurred(plane)
        both = scale.mean * mean
        variance = _blurred(plane**2) - mean**2
        covariance = _blurred(scale.values * plane) - both
        contrast = (2 * covariance + C2) / (scale.variance + variance + C2)
        whole = (2 * both + C1) / (scale.mean**2 + mean**2 + C1) * contrast
        found.append((float(whole.mean()), float(contrast.mean())))
        plane = _halved(plane)
    return found


def _blurred(plane: Floats) -> Floats:
    """Return ``float64[H - 10, W - 10]`` of ``float64[H, W]``."""
    return _down(_down(plane).T).T


def _down(plane: Floats) -> Floats:
    """Return the weighted means of 11 rows each; pairs share a product, the window is symmetric."""
    weights, last = _window(), TAPS - 1
    size = len(plane) - last
    out = plane[last // 2 : last // 2 + size] * weights[last // 2]
    for tap in range(last // 2):
        pair = plane[tap : tap + size] + plane[last - tap : last - tap + size]
        pair *= weights[tap]
        out += pair
    return np.asarray(out)


def _halved(plane: Floats) -> Floats:
    """Return the means of 2 x 2 pixels; a last odd row or column is left out."""
    height, width = (side // 2 * 2 for side in plane.shape)
    even = plane[:height, :width]
    return np.asarray((even[::2, ::2] + even[1::2, ::2] + even[::2, 1::2] + even[1::2, 1::2]) / 4)
