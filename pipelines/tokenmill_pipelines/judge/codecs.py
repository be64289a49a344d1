"""What picture codecs make of the same views: rate-distortion curves, and figures at equal bytes.

Files are counted as they are, headers included, as Pillow writes them: JPEG with optimised Huffman
tables and chroma at half resolution, WebP with method 6, AVIF at speed 6, everything else as it is
by default. ``at equal bytes`` is the highest quality whose file has no more bytes than the packed
tokens, found by halving the range of qualities: sizes rise with quality but for rare exceptions.
"""

from __future__ import annotations

import io
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, features

from tokenmill.views.base import Pixels
from tokenmill_pipelines.judge.measuring import PIXELS, Original, Values

#: Points of a curve; the scales of codecs differ, their curves need not.
QUALITIES = (2, 5, 10, 20, 35, 50, 70, 90)


@dataclass(frozen=True, slots=True)
class Codec:
    """A way to write pictures, and its range of qualities."""

    name: str
    label: str
    lowest: int
    highest: int
    options: tuple[tuple[str, Any], ...]

    @property
    def is_there(self) -> bool:
        """Whether Pillow was built with it."""
        return self.name == "jpeg" or bool(features.check(self.name))

    def encode(self, image: Image.Image, quality: int) -> bytes:
        """Return the file of a picture."""
        buffer = io.BytesIO()
        image.save(buffer, self.label, quality=quality, **dict(self.options))
        return buffer.getvalue()


CODECS = (
    Codec("jpeg", "JPEG", 1, 95, (("optimize", True),)),
    Codec("webp", "WebP", 0, 100, (("method", 6),)),
    # One thread: the bytes must not depend on the machine's cores.
    Codec("avif", "AVIF", 0, 100, (("speed", 6), ("max_threads", 1))),
)


def decode(data: bytes) -> Pixels:
    """Return the picture of a file, ``uint8[H, W, 3]``."""
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image.convert("RGB"))


def best_within(codec: Codec, image: Image.Image, budget_bytes: int) -> tuple[bytes, bool]:
    """Return the file of the highest quality within a budget, and whether there is one.

    If not, it is the file of the lowest quality.
    """
    best, low, high = codec.encode(image, codec.lowest), codec.lowest + 1, codec.highest
    if len(best) > budget_bytes:
        return best, False
    while low <= high:
        middle = (low + high) // 2
        data = codec.encode(image, middle)
        if len(data) <= budget_bytes:
            best, low = data, middle + 1
        else:
            high = middle - 1
    return best, True


@dataclass(frozen=True, slots=True)
class Point:
    """A point of a curve: means over all views at one ``setting`` (a quality, tokens, a rate)."""

    setting: float
    bits_per_unit: float
    values: Values


@dataclass(frozen=True, slots=True)
class EqualBytes:
    """A codec held to the bytes of the tokens, means over all views.

    ``over`` views have a larger file even at the lowest quality, which stands for them here.
    """

    codec: str
    views: int
    over: int
    budget_bytes: float
    file_bytes: float
    values: Values


class CodecTally:
    """Gathers what the codecs make of views."""

    def __init__(self, *, curves: bool) -> None:
        self.codecs = tuple(codec for codec in CODECS if codec.is_there)
        self.missing = tuple(codec.label for codec in CODECS if not codec.is_there)
        self._curves = curves
        self._points: dict[tuple[str, int], list[tuple[float, Values]]] = {}
        self._equal: dict[str, list[tuple[bool, int, int, Values]]] = {}

    def add(self, original: Original, budget_bytes: int) -> None:
        """Encode one picture at every quality of the curves, and once within the budget."""
        image = Image.fromarray(original.data)
        pixels = image.width * image.height
        for codec in self.codecs:
            for quality in QUALITIES if self._curves else ():
                data = codec.encode(image, quality)
                row = 8 * len(data) / pixels, original.compare(decode(data))
                self._points.setdefault((codec.name, quality), []).append(row)
            data, fits = best_within(codec, image, budget_bytes)
            values = original.compare(decode(data))
            self._equal.setdefault(codec.name, []).append((fits, budget_bytes, len(data), values))

    def curves(self) -> dict[str, tuple[Point, ...]]:
        """Return each codec's curve, from few bits to many."""
        found: dict[str, list[Point]] = {}
        for (name, quality), rows in self._points.items():
            point = Point(quality, _mean(bits for bits, _ in rows), mean_values(v for _, v in rows))
            found.setdefault(name, []).append(point)
        return {
            name: tuple(sorted(points, key=lambda p: p.setting)) for name, points in found.items()
        }

    def equal(self) -> tuple[EqualBytes, ...]:
        """Return the figures at equal bytes."""
        return tuple(
            EqualBytes(
                name,
                len(rows),
                sum(not fits for fits, _, _, _ in rows),
                _mean(budget for _, budget, _, _ in rows),
                _mean(size for _, _, size, _ in rows),
                mean_values(values for _, _, _, values in rows),
            )
            for name, rows in self._equal.items()
        )


def _mean(values: Iterable[float]) -> float:
    return float(np.mean(list(values)))


def mean_values(rows: Iterable[Values]) -> Values:
    """Return the means of several views' figures, each over the views that have it."""
    listed = list(rows)
    keys = [one.key for one in PIXELS] + sorted({key for row in listed for key in row})
    found = {key: [row[key] for row in listed if key in row] for key in dict.fromkeys(keys)}
    return {key: _mean(values) for key, values in found.items() if values}
