"""What lies between the thread that reads an asset and the thread that takes its views.

A film has more views than fit into memory, so the reader waits whenever it is too far ahead; and
a reader that hangs must be told from one that waits.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

from tokenmill.worker.crew import DeadlineExceeded

T = TypeVar("T")

#: Bytes of views that a reader may be ahead; the view that goes beyond is still taken.
AHEAD_BYTES = 64 * 2**20
#: How often who waits looks at the time.
GLANCE_S = 0.5


class AbandonedError(Exception):
    """Nobody takes the views any longer."""


class Channel(Generic[T]):
    """A queue of one writer and one reader, bounded by the bytes of what it holds."""

    def __init__(self, weigh: Callable[[T], int], *, ahead_bytes: int = 0) -> None:
        self._weigh = weigh
        self._ahead_bytes = ahead_bytes or AHEAD_BYTES
        self._held: deque[T] = deque()
        self._bytes = 0
        self._open = True
        self._abandoned = False
        self._beat = 0.0
        self._changed = threading.Condition()

    def beat(self) -> None:
        """Say that the writer is alive: it began, or read some more of its asset."""
        self._beat = time.monotonic()

    def silent_s(self) -> float:
        """Return for how many seconds the writer has given no sign of life since it began."""
        return time.monotonic() - self._beat if self._beat else 0.0

    def put(self, item: T) -> float:
        """Add an item; returns for how many seconds there was no room for it.

        Raises:
            AbandonedError: nobody will take it.
        """
        start = time.monotonic()
        with self._changed:
            while self._bytes >= self._ahead_bytes and not self._abandoned:
                self._changed.wait()
            if self._abandoned:
                raise AbandonedError
            self._held.append(item)
            self._bytes += self._weigh(item)
            self._changed.notify_all()
        self.beat()
        return time.monotonic() - start

    def close(self) -> None:
        """Say that nothing more comes."""
        with self._changed:
            self._open = False
            self._changed.notify_all()

    def abandon(self) -> None:
        """Say that nothing more is taken; a writer that waits for room is let go."""
        with self._changed:
            self._abandoned = True
            self._held.clear()
            self._changed.notify_all()

    def take(self, deadline_s: float) -> Iterator[T]:
        """Yield the items until the writer closes.

        Raises:
            DeadlineExceeded: for ``deadline_s`` a writer that had begun neither wrote nor beat.
        """
        while True:
            start = time.monotonic()
            with self._changed:
                while self._open and not self._held:
                    self._changed.wait(min(GLANCE_S, deadline_s))
                    alive = max(start, self._beat)
                    if self._beat and time.monotonic() - alive >= deadline_s and not self._held:
                        raise DeadlineExceeded
                if not self._held:
                    return
                item = self._held.popleft()
                self._bytes -= self._weigh(item)
                self._changed.notify_all()
            yield item
