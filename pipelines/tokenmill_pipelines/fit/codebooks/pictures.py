"""Training and held-out crops for fitting, from two corpora of ``tokenmill samples fetch``.

Fitted on: photographs under CC-BY and CC0, drawings in the public domain. Held out: photographs
under CC-BY-SA (so nothing of theirs enters the weights) and every twentieth drawing.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

Pixels = npt.NDArray[np.uint8]
SIDE = 256
PHOTO_SCALES = (256, 320, 448, 640)
HELD_OUT_EVERY = 20
#: Larger drawings are mostly posters that take seconds each to render.
MAX_DRAWING_BYTES = 300_000
FIT_LICENCES = ("CC-BY-4.0", "CC0-1.0", "public domain")


@dataclass(frozen=True, slots=True)
class Corpora:
    """The folders that ``tokenmill samples fetch`` made."""

    photos: Path
    drawings: Path


def photos(folder: Path, *, held_out: bool) -> list[Path]:
    """Return the photographs to fit on, or those that are held out."""
    rows = _rows(folder)
    return [folder / r["uri"] for r in rows if (r["licence"] not in FIT_LICENCES) == held_out]


def drawings(folder: Path, *, held_out: bool) -> list[Path]:
    """Return distinct public-domain drawings to fit on, or those that are held out."""
    rows = [r for r in _rows(folder) if r["licence"] == "public domain" and not r["same_as"]]
    paths = [folder / r["uri"] for r in rows]
    small = [path for path in paths if path.stat().st_size <= MAX_DRAWING_BYTES]
    return [p for i, p in enumerate(small) if (i % HELD_OUT_EVERY == 0) == held_out]


def _rows(folder: Path) -> list[dict[str, str]]:
    text = (folder / "listing.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def photo_crops(paths: list[Path], per_photo: int, rng: np.random.Generator) -> Pixels:
    """Return ``uint8[N, 256, 256, 3]``: random crops at four scales, a third of them recoloured."""
    return np.stack([crop for path in paths for crop in _crops(path, per_photo, rng)])


def _crops(path: Path, count: int, rng: np.random.Generator) -> Iterator[Pixels]:
    scaled = [shrink(read_rgb(path), short) for short in PHOTO_SCALES]
    for number in range(count):
        image = scaled[number % len(scaled)]
        left = int(rng.integers(image.width - SIDE + 1))
        top = int(rng.integers(image.height - SIDE + 1))
        pixels = np.asarray(image.crop((left, top, left + SIDE, top + SIDE)))
        pixels = pixels[:, ::-1] if rng.integers(2) else pixels
        yield recolour(pixels, rng) if number % 3 == 0 else pixels


def recolour(pixels: Pixels, rng: np.random.Generator) -> Pixels:
    """Permute the channels and change contrast, brightness and balance."""
    values = pixels[..., rng.permutation(3)].astype(np.float64) - 128
    values = values * rng.uniform(0.6, 1.1) + rng.uniform(-30, 30)
    values = (values + 128) * rng.uniform(0.75, 1.2, 3)
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


def centre_crops(paths: list[Path]) -> Pixels:
    """Return ``uint8[N, 256, 256, 3]``: short side to 256 (bicubic), centre crop."""
    return np.stack([_centre(shrink(read_rgb(path), SIDE)) for path in paths])


def _centre(image: Image.Image) -> Pixels:
    left, top = (image.width - SIDE) // 2, (image.height - SIDE) // 2
    return np.asarray(image.crop((left, top, left + SIDE, top + SIDE)))


def read_rgb(path: Path) -> Image.Image:
    """Return a picture as RGB, transparent parts white."""
    image = Image.open(path)
    if image.mode in {"RGB", "L"}:
        return image.convert("RGB")
    over = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(over, image.convert("RGBA")).convert("RGB")


def shrink(image: Image.Image, short: int) -> Image.Image:
    """Resize (bicubic) so that the shorter side has ``short`` pixels."""
    scale = short / min(image.size)
    width, height = (max(short, round(side * scale)) for side in image.size)
    return image.resize((width, height), Image.Resampling.BICUBIC)
