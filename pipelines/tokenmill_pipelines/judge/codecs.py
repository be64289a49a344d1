"""What picture codecs make of the same views: rate-distortion curves, and figures at equal bytes.

Files are counted as they are, headers included; `tokenmill_pipelines.judge.codec_files` says how
they are written. ``at equal bytes`` is the highest quality whose files have no more bytes than the
packed tokens, found by halving the range of qualities: sizes rise with quality but for rare
exceptions.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from tokenmill_pipelines.judge.codec_files import CODECS, Files, best_within, decode, size_bytes
from tokenmill_pipelines.judge.measuring import PIXELS, Original, Values, units_of

#: Points of a curve; the scales of codecs differ, their curves need not.
QUALITIES = (2, 5, 10, 20, 35, 50, 70, 90)


@dataclass(frozen=True, slots=True)
class Point:
    """A point of a curve: means over all views at one ``setting`` (a quality, tokens, a rate)."""

    setting: float
    bits_per_unit: float
    values: Values


@dataclass(frozen=True, slots=True)
class EqualBytes:
    """A codec held to the bytes of the tokens, means over all views.

    ``over`` views take more bytes even at the lowest quality, which stands for them here.
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
        """Encode a picture or clip at every quality of the curves, and once within the budget."""
        view, units = original.data, units_of(original.kind, original.data)
        for codec in self.codecs:
            written = {q: codec.encode(view, q) for q in (QUALITIES if self._curves else ())}
            for quality, files in written.items():
                size, values = _measured(files, original)
                row = 8 * size / units, values
                self._points.setdefault((codec.name, quality), []).append(row)
            files, fits = best_within(codec, view, budget_bytes, known=written)
            equal = fits, budget_bytes, *_measured(files, original)
            self._equal.setdefault(codec.name, []).append(equal)

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


def _measured(files: Files, original: Original) -> tuple[int, Values]:
    """Return the bytes of a view's files, and the figures of what they give back."""
    return size_bytes(files), original.compare(decode(files, original.data.shape))


def _mean(values: Iterable[float]) -> float:
    return float(np.mean(list(values)))


def mean_values(rows: Iterable[Values]) -> Values:
    """Return the means of several views' figures, each over the views that have it."""
    listed = list(rows)
    keys = [one.key for one in PIXELS] + sorted({key for row in listed for key in row})
    found = {key: [row[key] for row in listed if key in row] for key in dict.fromkeys(keys)}
    return {key: _mean(values) for key, values in found.items() if values}
