"""A video in memory, for tests of views: strict about what the protocol promises no more than."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import numpy as np
from PIL import Image

from tokenmill.views.base import Pixels


@dataclass(slots=True)
class MemoryFrame:
    """A frame that notes when it is converted, and cannot be once it is no longer valid."""

    video: MemoryVideo
    number: int
    pts: int

    def rgb(self, size: tuple[int, int] | None = None) -> Pixels:
        """Return ``uint8[H, W, 3]``, scaled to ``size`` (height, width) if that is given.

        Raises:
            RuntimeError: the second frame after this one has been asked for.
        """
        if self.video.asked > self.number + 1:
            raise RuntimeError(f"frame {self.number} is read when {self.video.asked} is there")
        pixels = self.video.pixels(self.number)
        if size is None:
            self.video.converted.append(self.number)
            return pixels
        return np.asarray(Image.fromarray(pixels).resize((size[1], size[0]), Image.Resampling.BOX))


@dataclass(slots=True)
class MemoryVideo:
    """An open video (`tokenmill.decoders.base.Video`) made of nothing.

    Attributes:
        times: the frames' timestamps, strictly rising.
        size: height and width.
        time_base: seconds of one unit of ``times``.
        look: what the frames show, a number each: frames of one look are alike; empty: all differ.
        fails: raised in place of the frame ``fails_at``.
        converted: numbers of the frames whose full pixels were asked for.
        asked: number of the last frame that was asked for.
    """

    times: Sequence[int]
    size: tuple[int, int] = (48, 64)
    time_base: Fraction = Fraction(1, 1000)
    look: Sequence[int] = ()
    fails: Exception | None = None
    fails_at: int = -1
    converted: list[int] = field(default_factory=list)
    asked: int = -1
    passes: int = 0
    fps: float = 0.0
    decode_s: float = 0.0
    facts: dict[str, Any] = field(default_factory=lambda: {"asset.uri": "mem://video"})

    def pixels(self, number: int) -> Pixels:
        """Return frame ``number``: noise over a colour of its own."""
        look = self.look[number] if self.look else number
        rng = np.random.default_rng(look)
        colour = rng.integers(0, 200, 3)
        noise = rng.integers(0, 56, (*self.size, 3))
        return (colour + noise).astype(np.uint8)

    def frames(self) -> Iterator[MemoryFrame]:
        """Yield the frames; may be called again."""
        self.passes += 1
        for number, time in enumerate(self.times):
            self.asked = number
            if number == self.fails_at and self.fails is not None:
                raise self.fails
            yield MemoryFrame(self, number, time)

    def close(self) -> None:
        """Do nothing."""
