"""Grids of clip tokenizers: how many frames they take, and the axes that these become.

All of it without torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tokenmill_schemas.errors import JobError
from tokenmill_schemas.tokens import Axis


@dataclass(frozen=True, slots=True)
class Frames:
    """The lengths that a tokenizer takes: ``first + k * step`` frames, which give ``1 + k`` slots.

    ``Frames(1, 8)`` is causal (1, 9, 17, ...), ``Frames(4, 4)`` groups of four, ``Frames(16, 0)``
    nothing but 16.
    """

    first: int
    step: int

    def __post_init__(self) -> None:
        if self.first < 1 or self.step < 0:
            raise ValueError(f"frames must be first + k * step, got {self.first} and {self.step}")

    def __str__(self) -> str:
        if not self.step:
            return f"exactly {self.first} frames"
        some = ", ".join(str(self.first + k * self.step) for k in range(3))
        return f"{self.first} + {self.step}k frames ({some}, ...)"

    def slots(self, frames: int) -> int:
        """Return the size of the ``t`` axis for a clip of ``frames`` frames.

        Raises:
            ValueError: the tokenizer takes no clip of that length.
        """
        extra = frames - self.first
        if extra < 0 or (extra % self.step if self.step else extra):
            raise ValueError(f"takes clips of {self}, got {frames}")
        return 1 + (extra // self.step if self.step else 0)

    def frames(self, slots: int) -> int:
        """Return the number of frames that ``slots`` positions of the ``t`` axis stand for."""
        return self.first + (slots - 1) * self.step


#: A causal clip with four, or eight, frames per slot after the first.
CAUSAL_4 = Frames(1, 4)
CAUSAL_8 = Frames(1, 8)


def clip_grid(
    shape: Any, frames: Frames, *, factors: tuple[int, int], kind: str, square: bool = False
) -> tuple[Axis, Axis, Axis]:
    """Return the axes ``t``, ``h`` and ``w`` of a tokenizer's grid for views of ``shape``.

    Args:
        shape: ``(T, H, W)`` of clips or ``(H, W)`` of images, which have one slot of time; None
            (or an entry None) varies.
        frames: the lengths that it takes.
        factors: pixels per position down and across.
        kind: the tokenizer's name, for the error.
        square: it takes squares only.

    Raises:
        JobError: the length does not fit, or a side is not a multiple of its factor.
    """
    if shape is None:
        return Axis("t"), Axis("h"), Axis("w")
    *length, height, width = shape
    _check_sides((height, width), factors, kind=kind)
    if square and height is not None and width is not None and height != width:
        raise JobError(f"{kind} takes square views, got {height} x {width}", path="view.size")
    return (
        Axis("t", _slots(length[0], frames, kind=kind) if length else 1),
        Axis("h", height and height // factors[0]),
        Axis("w", width and width // factors[1]),
    )


def _slots(length: int | None, frames: Frames, *, kind: str) -> int | None:
    if length is None:
        return None
    try:
        return frames.slots(length)
    except ValueError as error:
        raise JobError(f"{kind} {error}", path="view.frames") from error


def _check_sides(
    sides: tuple[int | None, int | None], factors: tuple[int, int], *, kind: str
) -> None:
    pairs = zip(sides, factors, strict=True)
    if any(side is not None and (side % factor or side < factor) for side, factor in pairs):
        down, across = factors
        raise JobError(
            f"{kind} takes views whose height is a multiple of {down} and whose width is one of "
            f"{across}, got {sides[0]} x {sides[1]}",
            path="view.size",
        )
