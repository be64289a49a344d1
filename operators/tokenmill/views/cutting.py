"""How the frames of a span of video, a shot or all of it, become clips; one pass, bounded memory.

A clip is held while it may still turn out too short, and until it is known which of its frames
belong to an allowed length; frames that no clip wants are never read.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from tokenmill.decoders.base import Frame
from tokenmill.views.base import Pixels
from tokenmill.views.timing import Lengths

#: Reads the pixels of a frame while it is valid.
Load = Callable[[Frame], Pixels]
#: What becomes of frames that do not fill a clip: nothing, or their last one is repeated.
Remainder = Literal["drop", "repeat_last"]


@dataclass(frozen=True, slots=True)
class Cut:
    """A clip: its pixels as parts ``uint8[t, H, W, 3]``, and the timestamps of the frames so far.

    ``long`` says that there may be more than one part, each made when it is asked for.
    """

    parts: Iterator[Pixels]
    pts: list[int]
    long: bool = False


@dataclass(slots=True)
class _Held:
    """Frames that wait for the others of their clip."""

    pixels: deque[Pixels] = field(default_factory=deque)
    pts: deque[int] = field(default_factory=deque)

    def add(self, frame: Frame, load: Load) -> None:
        self.pixels.append(load(frame))
        self.pts.append(frame.pts)

    def pad(self, frames: int) -> None:
        while len(self.pts) < frames:
            self.pixels.append(self.pixels[-1])
            self.pts.append(self.pts[-1])

    def first(self, frames: int) -> tuple[Pixels, list[int]]:
        """Return a copy of the first frames."""
        pixels = np.stack(list(itertools.islice(self.pixels, frames)))
        return pixels, list(itertools.islice(self.pts, frames))

    def drop(self, frames: int) -> None:
        for _ in range(min(frames, len(self.pts))):
            self.pixels.popleft()
            self.pts.popleft()


@dataclass(frozen=True, slots=True)
class Windows:
    """Clips of exactly ``frames``, the next one beginning ``stride`` frames later."""

    frames: int
    stride: int
    short: Remainder
    tail: Remainder

    def cut(self, frames: Iterable[Frame], load: Load) -> Iterator[Cut]:
        """Yield the windows of a span; frames between two windows are not read."""
        held, fresh, windows = _Held(), 0, 0
        for number, frame in enumerate(frames):
            if number % self.stride >= self.frames:
                continue
            held.add(frame, load)
            fresh += 1
            if len(held.pts) == self.frames:
                yield self._clip(held)
                held.drop(self.stride)
                fresh, windows = 0, windows + 1
        if fresh and (self.tail if windows else self.short) == "repeat_last":
            held.pad(self.frames)
            yield self._clip(held)

    def _clip(self, held: _Held) -> Cut:
        pixels, pts = held.first(self.frames)
        return Cut(iter([pixels]), pts)


@dataclass(frozen=True, slots=True)
class Pieces:
    """Clips that are as long as their span, or as ``most`` frames of it, cut down to a length.

    Attributes:
        lengths: the counts of frames that are allowed.
        least: the smallest of them that is wanted.
        most: the largest that is wanted; a longer span gives several clips; 0: no end.
        part: frames of a part; longer clips come in parts.
    """

    lengths: Lengths
    least: int
    most: int
    part: int
    short: Remainder
    tail: Remainder

    def cut(self, frames: Iterable[Frame], load: Load) -> Iterator[Cut]:
        """Yield the pieces of a span; each must be read to its end before the next."""
        rest = iter(frames)
        remainder = self.short
        for first in rest:
            piece = itertools.islice(itertools.chain([first], rest), self.most or None)
            yield from self._piece(piece, load, remainder)
            for _ in piece:
                pass  # frames of a clip that was not read to its end
            remainder = self.tail

    def _piece(self, frames: Iterator[Frame], load: Load, remainder: Remainder) -> Iterator[Cut]:
        held = _Held()
        hold = max(self.least, self.part) + self.lengths.step
        for frame in itertools.islice(frames, hold):
            held.add(frame, load)
        if len(held.pts) == hold:
            pts: list[int] = []
            yield Cut(self._parts(held, frames, load, pts), pts, long=True)
            return
        if len(held.pts) < self.least and remainder == "repeat_last":
            held.pad(self.least)
        length = self.lengths.down(len(held.pts))
        if length >= self.least:
            pixels, taken = held.first(length)
            yield Cut(iter([pixels]), taken)

    def _parts(
        self, held: _Held, frames: Iterator[Frame], load: Load, pts: list[int]
    ) -> Iterator[Pixels]:
        """Yield parts, holding one step of the lengths back: what is out may be all of the clip."""
        for frame in itertools.chain([None], frames):
            if frame is not None:
                held.add(frame, load)
            while len(held.pts) >= self.part + self.lengths.step:
                yield self._take(held, self.part, pts)
        rest = self.lengths.down(len(pts) + len(held.pts)) - len(pts)
        while rest > 0:
            size = min(rest, self.part)
            yield self._take(held, size, pts)
            rest -= size

    def _take(self, held: _Held, frames: int, pts: list[int]) -> Pixels:
        pixels, taken = held.first(frames)
        held.drop(frames)
        pts.extend(taken)
        return pixels
