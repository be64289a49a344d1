"""Training and held-out clips for fitting: a real film, and slow pans and zooms over pictures.

Fitted on: the first four fifths of the CC-BY film of ``iscc-samples``, and motion over the pictures
that `tokenmill_pipelines.fit.codebooks.pictures` fits on. Held out: the rest of the film and motion
over the pictures that are held out there.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
from PIL import Image

from tokenmill_pipelines.fit.codebooks.pictures import (
    PHOTO_SCALES,
    Corpora,
    Pixels,
    drawings,
    photos,
    read_rgb,
    recolour,
    shrink,
)

#: Three groups of four frames: a decoder sees the groups before and after.
LENGTH = 12
SIDE = 128
FILM_SHARE = 0.8
#: Frames of the film between frames of a clip: as it is, and twice as fast.
PACES = (1, 2)
#: A third of the pans stand still, as most of a film does; the others go up to so many pixels a
#: frame, slow ones more often, and up to so much zoom a frame.
STILL_SHARE, MAX_SPEED, MAX_ZOOM = 0.3, 12.0, 0.02
MAX_DRAWINGS = 300


@dataclass(frozen=True, slots=True)
class ClipCorpora:
    """The folders that ``tokenmill samples fetch`` made, and a file with the film."""

    pictures: Corpora
    film: Path


def film_clips(path: Path, *, held_out: bool) -> Pixels:
    """Return ``uint8[N, 12, 128, 128, 3]``: clips of the film's left and right parts."""
    frames = _frames(path)
    cut = int(len(frames) * FILM_SHARE)
    frames = frames[cut:] if held_out else frames[:cut]
    height, width = frames.shape[1:3]
    corners = [(0, 0), (height - SIDE, width - SIDE)]
    clips = [
        frames[start : start + LENGTH * pace : pace, top : top + SIDE, left : left + SIDE]
        for pace in PACES
        for start in range(0, len(frames) - LENGTH * pace + 1, LENGTH * pace)
        for top, left in corners
    ]
    return np.stack(clips)


def _frames(path: Path) -> Pixels:
    with av.open(str(path)) as container:
        frames = container.decode(video=0)
        return np.stack([np.asarray(f.to_ndarray(format="rgb24"), np.uint8) for f in frames])


def camera_pans(
    corpora: Corpora, per_photo: int, rng: np.random.Generator, *, held_out: bool
) -> Pixels:
    """Return ``uint8[N, 12, 128, 128, 3]``: motion over photographs at four scales."""
    return np.stack(list(_pans(photos(corpora.photos, held_out=held_out), per_photo, rng)))


def drawn_pans(corpora: Corpora, rng: np.random.Generator, *, held_out: bool) -> Pixels:
    """Return ``uint8[N, 12, 128, 128, 3]``: motion over drawings, one each."""
    names = drawings(corpora.drawings, held_out=held_out)
    chosen = np.sort(rng.choice(len(names), min(MAX_DRAWINGS, len(names)), replace=False))
    return np.stack(list(_pans([names[i] for i in chosen], 1, rng)))


def _pans(paths: list[Path], count: int, rng: np.random.Generator) -> Iterator[Pixels]:
    for path in paths:
        scaled = [shrink(read_rgb(path), short) for short in PHOTO_SCALES]
        for number in range(count):
            clip = pan(scaled[int(rng.integers(len(scaled)))], rng)
            yield recolour(clip, rng) if number % 3 == 1 else clip


def pan(image: Image.Image, rng: np.random.Generator) -> Pixels:
    """Return ``uint8[12, 128, 128, 3]``: a camera that moves and zooms evenly, or stands still.

    Boxes have fractions of pixels; the picture is mirrored at random.
    """
    still = rng.random() < STILL_SHARE
    speed = 0.0 if still else MAX_SPEED * rng.random() ** 2
    angle, zoom = rng.uniform(0, 2 * np.pi), 0.0 if still else rng.uniform(-MAX_ZOOM, MAX_ZOOM)
    step = speed * np.array([np.cos(angle), np.sin(angle)])
    times = np.arange(LENGTH) - (LENGTH - 1) / 2
    half = SIDE / 2 * np.exp(zoom * times)
    offsets = step * times[:, None]
    room = np.array(image.size) - 2 * (np.abs(offsets).max(0) + half.max())
    if room.min() < 0:  # so fast a motion does not fit: stand still
        half, offsets, room = np.full(LENGTH, SIDE / 2), 0 * offsets, np.array(image.size) - SIDE
    centre = np.array(image.size) / 2 + (rng.random(2) - 0.5) * room
    frames = [
        image.resize((SIDE, SIDE), Image.Resampling.BICUBIC, box=_box(centre + o, h, image.size))
        for o, h in zip(offsets, half, strict=True)
    ]
    clip = np.stack([np.asarray(frame) for frame in frames])
    return np.ascontiguousarray(clip[:, :, ::-1]) if rng.integers(2) else clip


def _box(
    centre: np.ndarray[tuple[int], np.dtype[np.float64]], half: float, size: tuple[int, int]
) -> tuple[float, float, float, float]:
    """Return left, top, right, bottom; never outside the picture by rounding."""
    left, top = np.maximum(centre - half, 0)
    right, bottom = np.minimum(centre + half, size)
    return float(left), float(top), float(right), float(bottom)
