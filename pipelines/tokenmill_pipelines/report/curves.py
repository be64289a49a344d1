"""The geometry of line charts: points scaled to `tokenmill_pipelines.report.charts`' coordinates.

Labels are placed in percent, for the page stretches the drawing and not its text.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

#: Points drawn at most: a screen has no more columns.
MAX_POINTS = 600
TICKS = 5
WIDTH, HEIGHT = 1000.0, 260.0
#: Share of the height above the highest and below the lowest point.
MARGIN = 0.06


@dataclass(frozen=True, slots=True)
class Tick:
    """A number on an axis and its place in percent, from the left or from the top."""

    label: str
    percent: float


@dataclass(frozen=True, slots=True)
class Curve:
    """Values over steps as the ``points`` of a polyline, smoothed ones, and a level to compare."""

    points: str
    smooth: str
    level_y: float | None
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]


def curve(values: Sequence[tuple[int, float]], *, level: float | None = None) -> Curve | None:
    """Return the chart of (step, value); None where there is nothing finite to draw."""
    kept = [(step, value) for step, value in values if math.isfinite(value)]
    if not kept:
        return None
    drawn = _thinned(kept)
    averaged = _thinned(_smoothed(kept))
    heights = [value for _, value in drawn] + ([level] if level is not None else [])
    low, high = min(heights), max(heights)
    room = MARGIN * ((high - low) or 1.0)
    low, high, last = low - room, high + room, kept[-1][0]

    def x(step: float) -> float:
        return WIDTH * step / last

    def y(value: float) -> float:
        return HEIGHT * (high - value) / (high - low)

    def line(pairs: Sequence[tuple[int, float]]) -> str:
        return " ".join(f"{x(step):.1f},{y(value):.1f}" for step, value in pairs)

    x_ticks = tuple(Tick(f"{s:,.0f}", 100 * s / last) for s in ticks(0, last) if s == int(s))
    y_ticks = tuple(Tick(f"{v:g}", 100 * y(v) / HEIGHT) for v in ticks(low, high))
    level_y = None if level is None else round(y(level), 1)
    return Curve(line(drawn), line(averaged), level_y, x_ticks, y_ticks)


def ticks(low: float, high: float) -> list[float]:
    """Return about `TICKS` round numbers from ``low`` to ``high``."""
    raw = (high - low) / TICKS or 1.0
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * unit for unit in (1, 2, 2.5, 5, 10) if power * unit >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    count = math.floor(high / step + 1e-9) - first + 1
    return [round((first + i) * step, 10) for i in range(max(count, 0))]


def _thinned(values: list[tuple[int, float]]) -> list[tuple[int, float]]:
    stride = -(-len(values) // MAX_POINTS)
    return (
        values[::stride]
        if len(values) % stride == 1 or stride == 1
        else [
            *values[::stride],
            values[-1],
        ]
    )


def _smoothed(values: list[tuple[int, float]]) -> list[tuple[int, float]]:
    """Return the mean of each point and those around it, a fiftieth of the curve to either side."""
    reach = len(values) // 50
    out = []
    for index, (step, _) in enumerate(values):
        near = min(reach, index, len(values) - 1 - index)
        window = values[index - near : index + near + 1]
        out.append((step, sum(value for _, value in window) / len(window)))
    return out
