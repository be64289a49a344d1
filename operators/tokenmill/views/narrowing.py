"""The resize and crop of `tokenmill.views.resize` without the pixels that the crop throws away.

A centre crop of a wide frame keeps little more than half of what was resized. Pillow resizes a box
of a picture just as well, but what comes out is the same to the bit only if every filter weight is.
Pillow computes weights in double precision from the distance of a source pixel to the centre of an
output pixel and rounds them to 22 bits. For output columns a to b of a resize from W to w columns,
with W / w = p / q in lowest terms and q dividing a and b:

- the box begins and ends on whole pixels and has the very scale of the whole, so distances are the
  same but for the last bits of a double;
- for q = 1 even those are the same, since all centres are halves of integers;
- otherwise no weight may lie so near to where rounding turns that those bits could matter. That is
  looked at, weight by weight; where one does (seldom), or where no such a and b are at hand, all
  columns are resized.

Rows likewise. Pillow rounds between the two passes, and which comes first depends on the sizes,
from version 13 on not in a stated way: it is tried out on noise of the size in question, and a
resize that is equal to neither order is done in full. A video asks once for all its frames.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

from tokenmill.views.base import Pixels
from tokenmill.views.fixed_point import resize_bilinear
from tokenmill.views.resize import PILLOW, Filter, Fit, Size, apply, owned

Floats = npt.NDArray[np.float64]
Span = tuple[int, int]

#: How near a weight, in units of its last bit, may come to where rounding turns, for each pixel of
#: the source: centres are off by at most a few 2^-52 of their size, and weights by 1.5 times that.
_DOUBT = 2**22 * 1.5 * 8 * 2**-52

#: Larger frames are resized in full, not to hold several copies of them.
_MAX_TRIED_PIXELS = 2**24


def _cubic(x: Floats) -> Floats:
    near = (1.5 * x - 2.5) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * -0.5
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))


def _lanczos(x: Floats) -> Floats:
    return np.where(x < 3, np.sinc(x) * np.sinc(x / 3), 0.0)


#: Reach of a filter in output pixels, and its weight by distance.
_FILTERS: dict[Filter, tuple[float, Callable[[Floats], Floats]]] = {
    "bilinear": (1.0, lambda x: np.maximum(0.0, 1 - x)),
    "bicubic": (2.0, _cubic),
    "lanczos": (3.0, _lanczos),
}


@dataclass(frozen=True, slots=True)
class Narrowed:
    """One axis of a resize: output pixels ``out`` of all, from source pixels ``taken`` of all."""

    out: Span
    taken: Span
    box: tuple[float, float]


@dataclass(frozen=True, slots=True)
class Step:
    """One resize of a part of a picture, one axis after the other."""

    across: Narrowed
    down: Narrowed
    kind: Filter
    rows_first: bool


@dataclass(frozen=True, slots=True)
class Route:
    """A `Fit` for pictures of one size, over as few pixels as give the same result."""

    how: Fit
    steps: tuple[Step, ...]

    def pixels(self, rgb: Pixels) -> Pixels:
        """Return what ``owned(apply(Image.fromarray(rgb), how))`` returns."""
        if len(self.how.steps) == 1 and self.how.steps[0][1] == "opencv_bilinear":
            return resize_bilinear(rgb, self.how.steps[0][0], self.how.crop)
        if not self.steps:
            return owned(apply(Image.fromarray(rgb), self.how))
        first = self.steps[0]
        left, top = first.across.taken[0], first.down.taken[0]
        part = rgb[top : first.down.taken[1], left : first.across.taken[1]]
        image = Image.fromarray(np.ascontiguousarray(part))
        for step in self.steps:
            image = _cut(image, (left, top), step.across.taken, step.down.taken)
            image = _resized(image, step)
            left, top = step.across.out[0], step.down.out[0]
        crop = self.how.crop
        return owned(_cut(image, (left, top), (crop[0], crop[2]), (crop[1], crop[3])))


def _cut(image: Image.Image, corner: Span, across: Span, down: Span) -> Image.Image:
    left, top = corner
    box = across[0] - left, down[0] - top, across[1] - left, down[1] - top
    return image if box == (0, 0, *image.size) else image.crop(box)


def _resized(image: Image.Image, step: Step) -> Image.Image:
    for rows in (step.rows_first, not step.rows_first):
        (width, height), axis = image.size, step.down if rows else step.across
        size = axis.out[1] - axis.out[0]
        start, stop = axis.box
        if rows:
            image = image.resize((width, size), PILLOW[step.kind], (0, start, width, stop))
        else:
            image = image.resize((size, height), PILLOW[step.kind], (start, 0, stop, height))
    return image


@functools.lru_cache(maxsize=256)
def route(how: Fit, source: Size) -> Route:
    """Return how to run ``how`` on pictures of ``source`` (w, h) over fewer pixels."""
    whole = Route(how, ())
    if any(kind not in PILLOW for _, kind in how.steps):
        return whole
    sizes = [source, *(size for size, _ in how.steps)]
    across, down = (how.crop[0], how.crop[2]), (how.crop[1], how.crop[3])
    steps: list[Step] = []
    for before, (size, kind) in reversed(list(zip(sizes, how.steps, strict=False))):
        columns = narrowed(across, before[0], size[0], kind)
        rows = narrowed(down, before[1], size[1], kind)
        across, down = columns.taken, rows.taken
        rows_first = _rows_first(before, size, kind)
        if rows_first is None:
            return whole
        steps.insert(0, Step(columns, rows, kind, rows_first))
    return whole if (across, down) == ((0, source[0]), (0, source[1])) else Route(how, tuple(steps))


@functools.lru_cache(maxsize=256)
def _rows_first(source: Size, size: Size, kind: Filter) -> bool | None:
    """Return whether Pillow resizes the rows before the columns; None if that does not tell."""
    if source[0] * source[1] > _MAX_TRIED_PIXELS:
        return None
    noise = np.random.default_rng(0).integers(0, 256, (source[1], source[0], 3), dtype=np.uint8)
    picture = Image.fromarray(noise)
    whole = picture.resize(size, PILLOW[kind]).tobytes()
    for rows_first in (False, True):
        between = (source[0], size[1]) if rows_first else (size[0], source[1])
        if picture.resize(between, PILLOW[kind]).resize(size, PILLOW[kind]).tobytes() == whole:
            return rows_first
    return None


def narrowed(wanted: Span, source: int, target: int, kind: Filter) -> Narrowed:
    """Return the smallest part of a resize of one axis that surely gives the pixels ``wanted``."""
    whole = Narrowed((0, target), (0, source), (0.0, float(source)))
    shared = math.gcd(source, target)
    p, q = source // shared, target // shared
    start, stop = wanted[0] // q * q, -(-wanted[1] // q) * q
    if (start, stop) == (0, target):
        return whole
    if p == q:
        return Narrowed(wanted, wanted, (0.0, float(wanted[1] - wanted[0])))
    if kind == "box":
        # Its weight jumps at the edge, which only exact centres hit alike.
        reach = 0.5
        if q != 1:
            return whole
    else:
        reach = _FILTERS[kind][0]
        if q != 1 and _in_doubt((start, stop), source, target, kind):
            return whole
    margin = math.ceil(reach * max(1.0, source / target)) + 1
    first, last = start // q * p, stop // q * p
    taken = max(0, first - margin), min(source, last + margin)
    return Narrowed((start, stop), taken, (float(first - taken[0]), float(last - taken[0])))


def _in_doubt(out: Span, source: int, target: int, kind: Filter) -> bool:
    """Return whether a weight of the output pixels ``out`` may round either way."""
    reach, weight = _FILTERS[kind]
    scale = source / target
    width = max(1.0, scale)
    centers = (np.arange(*out) + 0.5) * scale
    first = np.floor(centers - reach * width + 0.5)
    taps = first[:, None] + np.arange(2 * math.ceil(reach * width) + 1)
    weights = weight(np.abs(taps - centers[:, None] + 0.5) / width)
    weights[(taps < 0) | (taps >= source)] = 0
    units = np.abs(weights / weights.sum(axis=1, keepdims=True)) * 2**22
    return bool((np.abs(units % 1 - 0.5) <= _DOUBT * source).any())
