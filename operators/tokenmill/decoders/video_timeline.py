"""Presentation timestamps that rise, whatever a container states."""

from __future__ import annotations

from fractions import Fraction

_MAX_PTS = 2**60
_JUMP_S = 1
_DEFAULT_RATE = 25


class Timeline:
    """Makes presentation timestamps rise strictly.

    One that is missing follows the last by a frame's duration. One that does not rise is put one
    tick behind the last; if it lies more than a second back, a new stretch of time begins (joined
    recordings) and everything from there is moved behind what came before.
    """

    def __init__(self, rate: Fraction | None, time_base: Fraction) -> None:
        self._step = max(1, round(1 / ((rate or _DEFAULT_RATE) * time_base)))
        self._jump = _JUMP_S / time_base
        self._last: int | None = None
        self._duration = 0
        self._shift = 0

    def place(self, pts: int | None, duration: int = 0) -> int:
        """Return the timestamp of the next frame, whose own are ``pts`` and ``duration``."""
        last, step = self._last, self._duration or self._step
        known = pts if pts is not None and abs(pts) < _MAX_PTS else None
        if last is None:
            placed = known or 0
        elif known is None:
            placed = last + step
        elif last - known - self._shift > self._jump:
            placed = last + step
            self._shift = placed - known
        else:
            placed = max(known + self._shift, last + 1)
        self._last, self._duration = placed, max(0, duration)
        return placed
