"""The geometry of the charts; the page's template draws it, so that no text becomes markup here.

Charts have a coordinate system of ``WIDTH`` by ``HEIGHT`` with y downwards, as SVG.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tokenmill_infra.observe import HOP_NAMES

WIDTH = 640.0
HEIGHT = 140.0
MAX_BARS = 128


@dataclass(frozen=True, slots=True)
class Bar:
    """A named share of a whole; ``width_percent`` is relative to the longest bar."""

    label: str
    value: float
    share: float
    width_percent: float


@dataclass(frozen=True, slots=True)
class Rect:
    """An upright rectangle with what it says when pointed at."""

    x: float
    y: float
    width: float
    height: float
    title: str


@dataclass(frozen=True, slots=True)
class Chart:
    """Rectangles, and a dashed line at ``line_y`` with its meaning."""

    rects: tuple[Rect, ...]
    line_y: float
    line_label: str
    x_label: str
    y_label: str


def bars(values: Mapping[str, float], order: Sequence[str] = HOP_NAMES) -> tuple[Bar, ...]:
    """Return a bar per entry: those of ``order`` first and in its order, zeros left out."""
    names = [n for n in order if n in values] + [n for n in values if n not in order]
    names = [name for name in names if values[name] > 0]
    total = sum(values[name] for name in names)
    top = max((values[name] for name in names), default=0.0)
    return tuple(
        Bar(name, values[name], values[name] / total, 100 * values[name] / top) for name in names
    )


def rank_frequency(counts: npt.NDArray[np.int64]) -> Chart:
    """Return ids by falling frequency, on a log scale: one by one, or in groups of ranks.

    More than `MAX_BARS` ids are grouped by the logarithm of their rank (Zipf's plot), so that the
    few that are used of a large vocabulary can be told apart. A group's height is its mean count
    relative to what every id would have if all were used alike (the line); groups without any use
    have no bar.
    """
    ordered = np.sort(counts)[::-1]
    grouped = len(ordered) > MAX_BARS
    ranks = np.geomspace(1, len(ordered), MAX_BARS) if grouped else np.arange(len(ordered) + 1)
    edges = np.unique([0, *np.rint(ranks).astype(int)])
    means = [float(ordered[a:b].mean()) for a, b in itertools.pairwise(edges)]
    uniform = max(float(ordered.mean()), 1e-12)
    ratios = [mean / uniform for mean in means]
    top = max(2.0, *ratios)
    bottom = min(0.5, *(ratio for ratio in ratios if ratio > 0))
    rects = tuple(
        _rect(i, len(means), _log_y(ratio, bottom, top), f"ranks {a + 1} to {b}: {ratio:.3g}x")
        for i, (ratio, a, b) in enumerate(zip(ratios, edges[:-1], edges[1:], strict=True))
        if ratio > 0
    )
    x_label = "ids by falling frequency" + (", log scale" if grouped else "")
    labels = ("every id alike", x_label, "frequency, log scale")
    return Chart(rects, HEIGHT - _log_y(1.0, bottom, top), *labels)


def _log_y(ratio: float, bottom: float, top: float) -> float:
    # The rarest group still shows: a twentieth of the chart lies below it.
    share = (math.log(ratio) - math.log(bottom)) / (math.log(top) - math.log(bottom))
    return HEIGHT * (0.05 + 0.9 * share)


def _rect(place: int, count: int, height: float, title: str) -> Rect:
    step = WIDTH / count
    gap = 1.0 if step >= 4 else 0.0
    return Rect(
        round(place * step, 2),
        round(HEIGHT - height, 2),
        round(step - gap, 2),
        round(height, 2),
        title,
    )


def bit_means(means: Sequence[float]) -> Chart:
    """Return each bit's share of ones; a fair bit reaches the line."""
    rects = tuple(
        _rect(i, len(means), max(1.0, 0.95 * HEIGHT * mean), f"bit {i}: {mean:.1%} ones")
        for i, mean in enumerate(means)
    )
    return Chart(rects, HEIGHT - 0.475 * HEIGHT, "one half", "bits", "share of ones")


def heights(values: Sequence[float], line: float, labels: tuple[str, str, str]) -> Chart:
    """Return rising values from zero on, in up to `MAX_BARS` groups with the least of each.

    ``labels`` are those of the line, of x and of y.
    """
    edges = np.unique(np.linspace(0, len(values), min(len(values), MAX_BARS) + 1).astype(int))
    scale = 0.95 * HEIGHT / (max(line, *values, 1e-12))
    rects = tuple(
        _rect(i, len(edges) - 1, max(1.0, scale * values[a]), f"{values[a]:.4g}")
        for i, a in enumerate(edges[:-1])
    )
    return Chart(rects, HEIGHT - scale * line, *labels)


def channel_ranges(means: Sequence[float], stds: Sequence[float]) -> Chart:
    """Return each channel's mean plus and minus one standard deviation; the line is zero."""
    low = min(0.0, *(m - s for m, s in zip(means, stds, strict=True)))
    high = max(0.0, *(m + s for m, s in zip(means, stds, strict=True)))
    scale = 0.9 * HEIGHT / ((high - low) or 1.0)
    zero = HEIGHT * 0.95 + low * scale
    step = WIDTH / len(means)
    rects = tuple(
        Rect(
            round(i * step + step * 0.15, 2),
            round(zero - (m + s) * scale, 2),
            round(step * 0.7, 2),
            round(max(1.0, 2 * s * scale), 2),
            f"channel {i}: {m:.3g} ± {s:.3g}",
        )
        for i, (m, s) in enumerate(zip(means, stds, strict=True))
    )
    return Chart(rects, zero, "zero", "channels", "mean ± standard deviation")
