"""The authors' resize and crop rules, to the bit, as geometry first and pixels second.

A rule turns a picture's size into a `Fit`: the sizes that it is resized to, with which filter, and
the crop that is kept. `fit` is pure arithmetic, `apply` runs it in Pillow, and `source_box` maps
the kept crop back to the source, since every resize maps the whole picture onto the whole.

| rule | what | used by |
|---|---|---|
| ``adm`` | halve with BOX while both sides are at least twice the target, then short side to the target with BICUBIC; crop offset floors | ADM ``center_crop_arr``; LlamaGen, MAR, VA-VAE, GigaTok, ResTok, Hita |
| ``bicubic``, ``bilinear``, ``lanczos`` | torchvision's ``Resize(int)`` on a picture (the long side is cut to an integer) and ``CenterCrop`` (the offset rounds half to even) | TiTok, One-D-Piece; FlexTok, Open-MAGVIT2, WeTok, One-D-Piece's script |
| ``var`` | as ``lanczos``, to round(1.125 size), then the crop | VAR, UniTok's training |
| ``unitok`` | as ``bilinear``, to int(1.125 size), then the crop | UniTok's inference |
| ``squash_bicubic``, ``squash_bilinear`` | both sides to the target, aspect ratio given up | SEED |
| ``cover`` | LANCZOS to cover a height and width, the other side cut to an integer; crop offset floors | Infinity |
| ``taming`` | OpenCV's bilinear without antialiasing, short side to the target (rounded), crop offset floors | albumentations in taming-transformers, GPSToken |

Pillow's filters always antialias. They are fixed point for 8-bit pictures and the same on every
machine; OpenCV's arithmetic is in `tokenmill.views.fixed_point`.
"""  # noqa: E501 - a table row cannot be broken

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import Image

from tokenmill.views.base import Pixels
from tokenmill.views.fixed_point import resize_bilinear

Rule = Literal[
    "adm", "bicubic", "bilinear", "lanczos", "var", "unitok",
    "squash_bicubic", "squash_bilinear", "cover", "taming",
]  # fmt: skip
Filter = Literal["box", "bilinear", "bicubic", "lanczos", "opencv_bilinear"]
Size = tuple[int, int]
Box = tuple[float, float, float, float]

#: Pillow's own filters, by our names.
PILLOW = {
    "box": Image.Resampling.BOX,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}

#: Above 89 million pixels `PIL.Image.Image.crop` warns, by a process-wide setting.
_QUIET_CROP_PIXELS = 50_000_000


@dataclass(frozen=True, slots=True)
class Fit:
    """How a picture becomes a crop; sizes are (width, height) as in Pillow.

    Attributes:
        steps: resizes in order, each a size and a filter; none if the picture is left as it is.
        crop: left, top, right, bottom in the pixels of the last size.
    """

    steps: tuple[tuple[Size, Filter], ...]
    crop: tuple[int, int, int, int]


def fit(rule: Rule, target: Size, source: Size) -> Fit:
    """Return how ``rule`` brings a picture of ``source`` (w, h) to ``target`` (w, h).

    Raises:
        ValueError: the rule knows only square targets and this one is not.
    """
    if rule == "cover":
        return _cover(target, source)
    if rule in ("squash_bicubic", "squash_bilinear"):
        kind: Filter = "bicubic" if rule == "squash_bicubic" else "bilinear"
        return Fit(((target, kind),), (0, 0, *target))
    if target[0] != target[1]:
        raise ValueError(f"rule {rule!r} gives squares, not {target[0]}x{target[1]}")
    return _SQUARE[rule](target[0], source)


def check_rule(rule: Rule, size: tuple[int, int]) -> None:
    """Check that ``rule`` can give views of ``size`` (height, width).

    Raises:
        ValueError: it cannot.
    """
    fit(rule, (size[1], size[0]), (size[1], size[0]))


def apply(image: Image.Image, how: Fit) -> Image.Image:
    """Return the resized and cropped picture; the same object if there is nothing to do."""
    for size, kind in how.steps:
        if kind == "opencv_bilinear":
            image = Image.fromarray(resize_bilinear(np.asarray(image), size))
        else:
            image = image.resize(size, PILLOW[kind])
    return cut(image, how.crop)


def cut(image: Image.Image, box: tuple[int, int, int, int]) -> Image.Image:
    """Return the part ``box`` of a picture; the same object if that is all of it."""
    left, top, right, bottom = box
    if box == (0, 0, *image.size):
        return image
    if (right - left) * (bottom - top) < _QUIET_CROP_PIXELS:
        return image.crop(box)
    return Image.fromarray(np.asarray(image)[top:bottom, left:right])


def source_box(how: Fit, source: Size) -> Box:
    """Return the crop in pixels of the source: left, top, right, bottom."""
    width, height = how.steps[-1][0] if how.steps else source
    left, top, right, bottom = how.crop
    x, y = source[0] / width, source[1] / height
    return left * x, top * y, right * x, bottom * y


def owned(image: Image.Image) -> Pixels:
    """Return a picture's pixels as C-contiguous ``uint8[H, W, 3]`` that owns its memory."""
    return np.array(image, dtype=np.uint8)


def center(size: Size, target: Size) -> tuple[int, int, int, int]:
    """Return torchvision's ``CenterCrop`` box; the offset is rounded half to even."""
    left = round((size[0] - target[0]) / 2.0)
    top = round((size[1] - target[1]) / 2.0)
    return left, top, left + target[0], top + target[1]


def floor_center(size: Size, target: Size) -> tuple[int, int, int, int]:
    """Return the centre crop whose offset is rounded down, as in ADM and Infinity."""
    left, top = (size[0] - target[0]) // 2, (size[1] - target[1]) // 2
    return left, top, left + target[0], top + target[1]


def _adm(side: int, source: Size) -> Fit:
    steps: list[tuple[Size, Filter]] = []
    width, height = source
    while min(width, height) >= 2 * side:
        width, height = width // 2, height // 2
        steps.append(((width, height), "box"))
    scale = side / min(width, height)
    size = round(width * scale), round(height * scale)
    steps.append((size, "bicubic"))
    return Fit(tuple(steps), floor_center(size, (side, side)))


def _short_side(side: int, source: Size) -> Size:
    """Return torchvision's size after ``Resize(side)``: the long side is cut, not rounded."""
    width, height = source
    if width <= height:
        return side, int(side * height / width)
    return int(side * width / height), side


def _torchvision(side: int, source: Size, kind: Filter, *, resized: int = 0) -> Fit:
    size = _short_side(resized or side, source)
    # torchvision returns a picture whose short side already fits unchanged.
    steps: tuple[tuple[Size, Filter], ...] = ((size, kind),)
    if min(source) == min(size):
        steps = ()
    return Fit(steps, center(size if steps else source, (side, side)))


def _cover(target: Size, source: Size) -> Fit:
    width, height = source
    ratio = width / height
    if ratio <= target[0] / target[1]:
        size = target[0], int(target[0] / ratio)
    else:
        size = int(ratio * target[1]), target[1]
    # Cutting may leave the covering side one pixel short of the target by float rounding.
    size = max(size[0], target[0]), max(size[1], target[1])
    return Fit(((size, "lanczos"),), floor_center(size, target))


def _taming(side: int, source: Size) -> Fit:
    scale = side / min(source)
    size = round(source[0] * scale), round(source[1] * scale)
    steps: tuple[tuple[Size, Filter], ...] = ((size, "opencv_bilinear"),)
    return Fit(steps if scale != 1 else (), floor_center(size, (side, side)))


_SQUARE: dict[Rule, Callable[[int, Size], Fit]] = {
    "adm": _adm,
    "bicubic": lambda side, source: _torchvision(side, source, "bicubic"),
    "bilinear": lambda side, source: _torchvision(side, source, "bilinear"),
    "lanczos": lambda side, source: _torchvision(side, source, "lanczos"),
    "var": lambda side, source: _torchvision(side, source, "lanczos", resized=round(1.125 * side)),
    "unitok": lambda side, source: _torchvision(
        side, source, "bilinear", resized=int(1.125 * side)
    ),
    "taming": _taming,
}
