"""A gate that many pass together and one passes alone, when what it does must be told from others.

A readers-writer lock with two additions: who waits says that it is alive, and who is inside and
gives no more sign of life loses its pass, for it would keep all others waiting.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Literal

#: How often who waits says that it lives.
GLANCE_S = 0.25

Mode = Literal["out", "shared", "alone"]


class Gate:
    """Who asks to pass alone goes before all that come later, or it would wait for ever."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._inside: set[Hold] = set()
        self._asking = 0

    def enter(self, hold: Hold, mode: Mode) -> None:
        """Wait until ``hold`` may pass; one that has been taken away passes at once, as nobody."""
        with self._changed:
            self._asking += mode == "alone"
            try:
                while not hold.taken and not self._open(mode):
                    self._changed.wait(GLANCE_S)
                    hold.beat()
                    self._expel()
                if not hold.taken:
                    hold.mode = mode
                    self._inside.add(hold)
            finally:
                self._asking -= mode == "alone"

    def _open(self, mode: Mode) -> bool:
        if mode == "alone":
            return not self._inside
        return not self._asking and all(hold.mode != "alone" for hold in self._inside)

    def _expel(self) -> None:
        for hold in [hold for hold in self._inside if hold.is_stuck()]:
            self._leave(hold, for_good=True)

    def leave(self, hold: Hold, *, for_good: bool = False) -> None:
        """Let ``hold`` out, if it is in; ``for_good`` takes it away."""
        with self._changed:
            self._leave(hold, for_good=for_good)

    def _leave(self, hold: Hold, *, for_good: bool) -> None:
        hold.taken |= for_good
        hold.mode = "out"
        self._inside.discard(hold)
        self._changed.notify_all()


class Hold:
    """One thread's pass through a gate; without a gate it is none and costs nothing.

    ``beat`` is called while it waits; ``is_stuck`` is asked, while others wait, whether its thread
    has stopped giving signs of life.
    """

    def __init__(
        self,
        gate: Gate | None,
        beat: Callable[[], None] = lambda: None,
        is_stuck: Callable[[], bool] = lambda: False,
    ) -> None:
        self._gate = gate
        self.beat = beat
        self.is_stuck = is_stuck
        self.mode: Mode = "out"
        self.taken = False

    @contextlib.contextmanager
    def shared(self) -> Iterator[None]:
        """Be inside with others for the time of a block."""
        with self._inside("shared"):
            yield

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Be inside with nobody else for the time of a block."""
        with self._inside("alone"):
            yield

    @contextlib.contextmanager
    def _inside(self, mode: Mode) -> Iterator[None]:
        if self._gate is None:
            yield
            return
        self._gate.enter(self, mode)
        try:
            yield
        finally:
            self._gate.leave(self)

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Be outside for the time of a block in which one waits for others; then in as before."""
        before = self.mode
        if self._gate is None or before == "out":
            yield
            return
        self._gate.leave(self)
        yield
        self._gate.enter(self, before)

    def take_away(self) -> None:
        """Let the others go on without the thread that holds it; called by another thread."""
        if self._gate is not None:
            self._gate.leave(self, for_good=True)
