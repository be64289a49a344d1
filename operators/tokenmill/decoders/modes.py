"""Every colour mode that Pillow decodes to, as 8-bit RGB over a stated background.

The arithmetic, so that another implementation can give the same pixels:

- alpha: ``out = round((c * a + background * (255 - a)) / 255)`` in integers, per channel, on
  straight (not premultiplied) 8-bit values, without any linearisation; no ties can occur;
- a transparent colour (PNG's tRNS) is alpha 0 where the stored sample equals it, else 255;
- 16-bit samples lose their low byte (``value >> 8``); nothing is stretched or clipped;
- grey is repeated three times, palettes are looked up, CMYK is ``255 - min(255, ...)`` as Pillow's
  own conversion without a profile (Adobe's inverted JPEGs are turned over first), YCbCr is JFIF's
  full-range BT.601, LAB goes to sRGB through LittleCMS.

32-bit float and 32-bit integer pictures have no stated white, so they are refused unless all
values of an integer picture lie in 0..65535, which is how 16-bit data in a wider type looks.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

_DIRECT = frozenset({"1", "L", "P", "CMYK", "YCbCr", "HSV", "LAB", "RGBX"})
_WITH_ALPHA = frozenset({"RGBA", "RGBa", "LA", "La", "PA"})
_WIDE = frozenset({"I;16", "I;16L", "I;16B", "I;16N", "I"})


class ModeError(ValueError):
    """A colour mode, or the values in it, that has no stated meaning as 8-bit RGB."""


def to_rgb(image: Image.Image, background: tuple[int, int, int], bits: int) -> Image.Image:
    """Return ``image`` (decoded) in mode RGB; the very same object if that is what it is.

    Args:
        image: any picture that Pillow's file plugins give.
        background: what shows through transparent pixels, RGB in 0..255.
        bits: bits per stored sample, which tell what a tRNS colour of a PNG is compared with.

    Raises:
        ModeError: the mode has no stated meaning as 8-bit RGB.
    """
    if image.mode in _WIDE:
        return _wide_to_rgb(image, background)
    if "transparency" in image.info and image.mode in ("L", "RGB"):
        _scale_transparency(image, bits)
    palette_alpha = image.mode == "P" and image.palette is not None and image.palette.mode == "RGBA"
    if image.mode in _WITH_ALPHA or "transparency" in image.info or palette_alpha:
        return _over(image, background)
    if image.mode == "RGB":
        return image
    if image.mode not in _DIRECT:
        raise ModeError(f"mode {image.mode} has no stated black and white")
    return image.convert("RGB")


def _over(image: Image.Image, background: tuple[int, int, int]) -> Image.Image:
    if image.mode == "La":
        image = image.convert("LA")
    straight = image if image.mode in ("RGBA", "LA") else image.convert("RGBA")
    canvas = Image.new("RGB", image.size, background)
    canvas.paste(straight.convert("RGB"), mask=straight.getchannel("A"))
    return canvas


def _scale_transparency(image: Image.Image, bits: int) -> None:
    """Bring PNG's tRNS colour, stated in stored samples, to the 8 bits that Pillow scales to."""
    key: Any = image.info.pop("transparency")
    colour = key if isinstance(key, tuple) else (key,)
    if bits == 16:
        raise ModeError("a transparent colour in 16-bit RGB is lost with the low bytes")
    if max(colour) >> bits:
        return  # no sample can equal it
    scaled = tuple(value * 255 // ((1 << bits) - 1) for value in colour)
    image.info["transparency"] = scaled if isinstance(key, tuple) else scaled[0]


def _wide_to_rgb(image: Image.Image, background: tuple[int, int, int]) -> Image.Image:
    values: npt.NDArray[Any] = np.asarray(image)
    if image.mode == "I" and values.size and (values.min() < 0 or values.max() > 0xFFFF):
        raise ModeError(f"32-bit values {values.min()}..{values.max()} reach outside 0..65535")
    grey = Image.fromarray((values >> 8).astype(np.uint8)).convert("RGB")
    if "transparency" not in image.info:
        return grey
    opaque = np.where(values == image.info["transparency"], 0, 255).astype(np.uint8)
    canvas = Image.new("RGB", image.size, background)
    canvas.paste(grey, mask=Image.fromarray(opaque))
    return canvas
