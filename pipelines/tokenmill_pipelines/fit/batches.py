"""Batches: what one step learns from, a function of the seed and the step alone.

Pictures are cut at random scales with the same filter that views are made with; a picture becomes a
clip by a camera that moves over it; volumes are cut and turned. All random numbers of a step come
from a counter-based generator (Philox) that is keyed by seed and step, so that a fit that is
resumed goes on as if it had never stopped.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from PIL import Image

from tokenmill_pipelines.fit.config import BatchConfig
from tokenmill_pipelines.fit.gather import Gathered

Pixels = npt.NDArray[np.uint8]
Volumes = npt.NDArray[np.bool_]
Kind = Literal["image", "clip", "voxels"]
Box = tuple[float, float, float, float]
#: A third of the cameras stand still, as most of a film does; the others move up to so many pixels
#: from frame to frame, slow ones more often, and zoom by up to so much.
STILL_SHARE, MAX_SPEED, MAX_ZOOM = 0.3, 12.0, 0.02
#: Share of clips that change to another scene at one of their frames.
SCENE_SHARE = 0.1


@dataclass(frozen=True, slots=True)
class Batches:
    """What batches are made of.

    Attributes:
        kind: of the views that the tokenizer takes.
        parts: views to learn from.
        shares: of every batch; they add up to one.
        config: see `BatchConfig`.
        seed: of all cuts.
    """

    kind: Kind
    parts: tuple[Gathered, ...]
    shares: tuple[float, ...]
    config: BatchConfig
    seed: int

    def at(self, step: int) -> npt.NDArray[Any]:
        """Return the samples of a step.

        Returns:
            ``uint8[B, S, S, 3]``, ``uint8[B, T, S, S, 3]`` or ``bool[B, S, S, S]``.
        """
        rng = np.random.Generator(np.random.Philox(key=(self.seed, step)))
        places = (np.arange(self.config.size) + rng.random()) / self.config.size
        chosen = np.searchsorted(np.cumsum(self.shares)[:-1], places, side="right")
        return np.stack([self._one(self.parts[part], rng) for part in chosen])

    def _one(self, part: Gathered, rng: np.random.Generator) -> npt.NDArray[Any]:
        if self.kind == "clip" and self.config.frames > 1 and rng.random() < SCENE_SHARE:
            start = int(rng.integers(1, self.config.frames))
            before, after = self._cut(part, rng), self._cut(part, rng)
            return np.concatenate([before[:start], after[start:]])
        return self._cut(part, rng)

    def _cut(self, part: Gathered, rng: np.random.Generator) -> npt.NDArray[Any]:
        """Return a cut of one of the views, turned or mirrored, perhaps in other colours."""
        view = part.views[int(rng.integers(len(part.views)))]
        if self.kind == "voxels":
            return turned(volume_cut(view, self.config.side, rng), rng)
        if self.kind == "image":
            cut = picture_cut(view, self.config, rng)
        elif view.ndim == 3:
            cut = moved_cut(view, self.config, rng)
        else:
            cut = clip_cut(view, self.config, rng)
        cut = cut[..., ::-1, :] if rng.integers(2) else cut
        return recoloured(cut, rng) if rng.random() < self.config.recoloured else cut


def turned(volume: Volumes, rng: np.random.Generator) -> Volumes:
    """Return a volume in one of the 48 positions that a cube has, mirrors included."""
    mirrors = tuple(axis for axis in range(3) if rng.integers(2))
    return np.flip(volume.transpose(rng.permutation(3)), mirrors)


def volume_cut(volume: Volumes, side: int, rng: np.random.Generator) -> Volumes:
    """Return ``bool[S, S, S]``: a random cube about an occupied cell, for most of a volume is air.

    A volume that is no larger than the cube stays whole.
    """
    sides = np.array(volume.shape)
    occupied = np.flatnonzero(volume)
    if sides.max() <= side or not len(occupied):
        return volume[:side, :side, :side]
    cell = np.array(np.unravel_index(rng.choice(occupied), volume.shape))
    corner = np.clip(cell - rng.integers(side, size=3), 0, np.maximum(0, sides - side))
    return volume[tuple(slice(low, low + side) for low in corner)]


def picture_cut(picture: Pixels, config: BatchConfig, rng: np.random.Generator) -> Pixels:
    """Return ``uint8[S, S, 3]``: a random cut of a picture at a random scale."""
    reach = config.side * scale_of(picture.shape[:2], config, rng)
    left, top = _corner(picture.shape[:2], (reach, reach), rng)
    return resized(picture, (left, top, left + reach, top + reach), config.side)


def scale_of(size: Sequence[int], config: BatchConfig, rng: np.random.Generator) -> float:
    """Return pixels of the picture per pixel of the cut, at least one unless it is too small.

    The cut shows as much of the picture as if its shorter side had a number of pixels that lies
    between the job's two, each octave as often as the next.
    """
    low, high = np.log(config.short_side)
    shown = max(float(np.exp(rng.uniform(low, high))), config.side)
    scale = max(1.0, min(size) / shown)
    return min(scale, min(size) / config.side)


def _corner(
    size: Sequence[int], reach: tuple[float, float], rng: np.random.Generator
) -> tuple[float, float]:
    """Return the left and top of a random box of ``reach`` (height, width)."""
    room = [max(0.0, side - length) for side, length in zip(size, reach, strict=True)]
    top, left = (float(rng.uniform(0, space)) for space in room)
    return left, top


def resized(picture: Pixels, box: Box, side: int) -> Pixels:
    """Return ``uint8[side, side, 3]`` of a box (left, top, right, bottom), bicubic.

    Only the pixels about the box are looked at, for most pictures are much larger.
    """
    height, width = picture.shape[:2]
    margin = 4 + 2 * (box[2] - box[0]) / side
    left, top = max(0, int(box[0] - margin)), max(0, int(box[1] - margin))
    right, bottom = min(width, int(box[2] + margin) + 1), min(height, int(box[3] + margin) + 1)
    near = Image.fromarray(np.ascontiguousarray(picture[top:bottom, left:right]))
    inside = (
        max(0.0, box[0] - left),
        max(0.0, box[1] - top),
        min(float(right - left), box[2] - left),
        min(float(bottom - top), box[3] - top),
    )
    return np.asarray(near.resize((side, side), Image.Resampling.BICUBIC, box=inside))


def clip_cut(clip: Pixels, config: BatchConfig, rng: np.random.Generator) -> Pixels:
    """Return ``uint8[T, S, S, 3]``: a random window of a film; a short film's last frame stays."""
    pace = config.paces[int(rng.integers(len(config.paces)))]
    first = int(rng.integers(max(1, len(clip) - pace * (config.frames - 1))))
    numbers = np.minimum(first + pace * np.arange(config.frames), len(clip) - 1)
    reach = config.side * scale_of(clip.shape[1:3], config, rng)
    left, top = _corner(clip.shape[1:3], (reach, reach), rng)
    box = (left, top, left + reach, top + reach)
    return np.stack([resized(clip[number], box, config.side) for number in numbers])


def moved_cut(picture: Pixels, config: BatchConfig, rng: np.random.Generator) -> Pixels:
    """Return ``uint8[T, S, S, 3]``: a camera that moves and zooms evenly over a picture."""
    scale = scale_of(picture.shape[:2], config, rng)
    still = rng.random() < STILL_SHARE
    speed = 0.0 if still else scale * MAX_SPEED * float(rng.random()) ** 2
    angle, zoom = rng.uniform(0, 2 * np.pi), 0.0 if still else rng.uniform(-MAX_ZOOM, MAX_ZOOM)
    times = np.arange(config.frames) - (config.frames - 1) / 2
    half = config.side * scale / 2 * np.exp(zoom * times)
    offsets = speed * np.array([np.sin(angle), np.cos(angle)]) * times[:, None]
    size = np.array(picture.shape[:2], np.float64)
    room = size - 2 * (np.abs(offsets).max(0) + half.max())
    if room.min() < 0:  # so fast a motion does not fit: stand still
        reach = min(config.side * scale, float(size.min())) / 2
        half, offsets = np.full(config.frames, reach), 0 * offsets
        room = size - 2 * half[0]
    middle = size / 2 + (rng.random(2) - 0.5) * room
    frames = []
    for offset, radius in zip(offsets, half, strict=True):
        (top, left), (bottom, right) = middle + offset - radius, middle + offset + radius
        frames.append(resized(picture, (left, top, right, bottom), config.side))
    return np.stack(frames)


def recoloured(pixels: Pixels, rng: np.random.Generator) -> Pixels:
    """Exchange the channels and change contrast, brightness and balance."""
    values = pixels[..., rng.permutation(3)].astype(np.float32) - 128
    values = values * rng.uniform(0.6, 1.1) + rng.uniform(-30, 30)
    balanced = (values + 128) * rng.uniform(0.75, 1.2, 3)
    return np.clip(np.rint(balanced), 0, 255).astype(np.uint8)
