"""Line plots with axes, drawn twice from one geometry: as SVG and as PNG.

Coordinates are pixels of a canvas of `WIDTH` by `HEIGHT` with y downwards.
"""

from __future__ import annotations

import io
import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from PIL import Image, ImageDraw, ImageFont

from tokenmill_pipelines.report.curves import ticks

WIDTH, HEIGHT = 600, 360
LEFT, TOP, BOTTOM = 72, 14, 52
#: Width of the legend: of its lines, and of each character of its longest label.
LEGEND, CHARACTER = 48, 7
#: Share of an axis that is left free beyond the outermost points.
ROOM = 0.05
#: Pixels of the PNG for each of the canvas, and of the drawing that it is averaged from.
SCALE, OVERSAMPLING = 2, 2
DASHES: dict[str, tuple[float, ...]] = {"solid": (), "dashed": (7, 4), "dotted": (2, 4)}

XY = tuple[float, float]
Line = Literal["solid", "dashed", "dotted"]


@dataclass(frozen=True, slots=True)
class Series:
    """Named points, joined in their order; ``colour`` is ``#rrggbb``, ``radius`` of their dots."""

    label: str
    points: tuple[XY, ...]
    colour: str
    line: Line = "solid"
    radius: float = 3.0


@dataclass(frozen=True, slots=True)
class Plot:
    """A plot: ``name`` is its file's; ``log_x`` doubles x from one tick to the next."""

    name: str
    title: str
    x_label: str
    y_label: str
    series: tuple[Series, ...]
    log_x: bool = False


@dataclass(frozen=True, slots=True)
class Tick:
    """A number on an axis, and where on the canvas it stands."""

    label: str
    place: float


@dataclass(frozen=True, slots=True)
class Drawn:
    """A series in the canvas's coordinates; ``legend_y`` is the height of its entry."""

    label: str
    points: tuple[XY, ...]
    colour: str
    line: Line
    radius: float
    legend_y: float

    @property
    def path(self) -> str:
        """The points as SVG writes them."""
        return " ".join(f"{x:.1f},{y:.1f}" for x, y in self.points)

    @property
    def dashes(self) -> str:
        """The line's pattern as SVG writes it, "" for a solid one."""
        return " ".join(f"{length:g}" for length in DASHES[self.line])


@dataclass(frozen=True, slots=True)
class Canvas:
    """A plot laid out; the legend stands right of ``right``."""

    plot: Plot
    right: float
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    series: tuple[Drawn, ...]

    left, top, bottom = float(LEFT), float(TOP), float(HEIGHT - BOTTOM)


def layout(plot: Plot) -> Canvas | None:
    """Return where everything of a plot stands; None where there is nothing finite to draw."""
    kept = [(s, tuple(p for p in s.points if all(map(math.isfinite, p)))) for s in plot.series]
    kept = [(series, points) for series, points in kept if points]
    if not kept:
        return None
    x_values = [x for _, points in kept for x, _ in points]
    y_values = [y for _, points in kept for _, y in points]
    right = WIDTH - LEGEND - CHARACTER * max(len(series.label) for series, _ in kept)
    x, x_ticks = (_log_axis if plot.log_x else _axis)(x_values, LEFT, right)
    y, y_ticks = _axis(y_values, HEIGHT - BOTTOM, TOP)
    drawn = tuple(
        Drawn(
            series.label,
            tuple((round(x(a), 2), round(y(b), 2)) for a, b in points),
            series.colour,
            series.line,
            series.radius,
            TOP + 12 + 22 * number,
        )
        for number, (series, points) in enumerate(kept)
    )
    return Canvas(plot, float(right), x_ticks, y_ticks, drawn)


def _axis(
    values: Sequence[float], start: float, stop: float
) -> tuple[Callable[[float], float], tuple[Tick, ...]]:
    low, high = min(values), max(values)
    room = ROOM * ((high - low) or abs(high) or 1.0)
    low, high = low - room, high + room

    def place(value: float) -> float:
        return start + (stop - start) * (value - low) / (high - low)

    return place, tuple(Tick(f"{value:g}", round(place(value), 2)) for value in ticks(low, high))


def _log_axis(
    values: Sequence[float], start: float, stop: float
) -> tuple[Callable[[float], float], tuple[Tick, ...]]:
    place, _ = _axis([math.log2(value) for value in values], start, stop)
    powers = range(math.floor(math.log2(min(values))), math.ceil(math.log2(max(values))) + 1)
    found = [Tick(f"{2.0**power:.3g}", round(place(power), 2)) for power in powers]
    inside = tuple(tick for tick in found if start <= tick.place <= stop)
    return lambda value: place(math.log2(value)), inside


INK, SOFT, RULE, PAPER = "#1d2126", "#5b636d", "#dfe1e0", "#ffffff"
TEXT_SIZE = 12.5


def png(canvas: Canvas) -> bytes:
    """Return a plot as a PNG file of twice the canvas's size."""
    factor = SCALE * OVERSAMPLING
    image = Image.new("RGB", (WIDTH * factor, HEIGHT * factor), PAPER)
    pen = _Pen(ImageDraw.Draw(image), factor)
    _draw_axes(pen, canvas)
    for series in canvas.series:
        pen.line(series.points, series.colour, DASHES[series.line])
        for point in series.points:
            pen.dot(point, series.radius, series.colour)
        x, y = canvas.right + 14, series.legend_y
        pen.line(((x, y), (x + 22, y)), series.colour, DASHES[series.line])
        pen.dot((x + 11, y), series.radius, series.colour)
        pen.text((x + 30, y), series.label, INK, "lm")
    small = image.resize((WIDTH * SCALE, HEIGHT * SCALE), Image.Resampling.BOX)
    buffer = io.BytesIO()
    small.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def _draw_axes(pen: _Pen, canvas: Canvas) -> None:
    for tick in canvas.y_ticks:
        pen.line(((canvas.left, tick.place), (canvas.right, tick.place)), RULE, ())
        pen.text((canvas.left - 8, tick.place), tick.label, SOFT, "rm")
    for tick in canvas.x_ticks:
        pen.line(((tick.place, canvas.bottom), (tick.place, canvas.bottom + 5)), SOFT, ())
        pen.text((tick.place, canvas.bottom + 9), tick.label, SOFT, "ma")
    pen.line(((canvas.left, canvas.bottom), (canvas.right, canvas.bottom)), SOFT, ())
    middle = (canvas.left + canvas.right) / 2
    pen.text((middle, HEIGHT - 18), canvas.plot.x_label, INK, "ma")
    pen.sideways((12, (canvas.top + canvas.bottom) / 2), canvas.plot.y_label)


class _Pen:
    """Draws in the canvas's coordinates onto a larger picture."""

    def __init__(self, draw: ImageDraw.ImageDraw, factor: int) -> None:
        self._draw = draw
        self._factor = factor
        self._font = ImageFont.load_default(TEXT_SIZE * factor)

    def line(self, points: Sequence[XY], colour: str, dashes: tuple[float, ...]) -> None:
        """Join points; ``dashes`` are lengths of strokes and gaps."""
        width = round(1.8 * self._factor)
        for piece in _dashed(points, dashes) if dashes else [points]:
            scaled = [(x * self._factor, y * self._factor) for x, y in piece]
            self._draw.line(scaled, colour, width, joint="curve")

    def dot(self, point: XY, radius: float, colour: str) -> None:
        """Draw a disc."""
        x, y, r = (value * self._factor for value in (*point, radius))
        self._draw.ellipse((x - r, y - r, x + r, y + r), colour)

    def text(self, place: XY, words: str, colour: str, anchor: str) -> None:
        """Write words; ``anchor`` is Pillow's."""
        x, y = (value * self._factor for value in place)
        self._draw.text((x, y), words, colour, self._font, anchor)

    def sideways(self, place: XY, words: str) -> None:
        """Write words upwards, centred."""
        left, top, right, bottom = self._font.getbbox(words)
        size = (math.ceil(right - left) + 4, math.ceil(bottom - top) + 4)
        label = Image.new("L", size)
        ImageDraw.Draw(label).text((2 - left, 2 - top), words, 255, self._font)
        turned = label.transpose(Image.Transpose.ROTATE_90)
        x, y = (round(value * self._factor) for value in place)
        at = (x - turned.width // 2, y - turned.height // 2)
        self._draw.bitmap(at, turned, INK)


def _dashed(points: Sequence[XY], dashes: tuple[float, ...]) -> list[list[XY]]:
    """Return the strokes of a dashed line, which go on round its corners."""
    strokes: list[list[XY]] = []
    index, left, down = 0, dashes[0], True
    for (ax, ay), (bx, by) in itertools.pairwise(points):
        length, done = math.dist((ax, ay), (bx, by)), 0.0
        while length > 0 and done < length:
            reach = min(left, length - done)
            ends = [done / length, (done + reach) / length]
            if down:
                strokes.append([(ax + (bx - ax) * t, ay + (by - ay) * t) for t in ends])
            done, left = done + reach, left - reach
            if left <= 1e-9:
                index = (index + 1) % len(dashes)
                left, down = dashes[index], not down
    return strokes
