"""Read-ahead: a few results computed in background threads, taken in order.

Threads, not processes: gathering copies memory outside the interpreter's lock. They start with the
second item and are joined when the iterator is closed, dropped or exhausted.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

T = TypeVar("T")
K = TypeVar("K")


def prefetch(
    make: Callable[[K], T],
    keys: Iterator[K],
    *,
    threads: int,
    after_fork: Callable[[], None],
) -> Generator[T, None, None]:
    """Yield ``make(key)`` for each of ``keys``, in order, up to ``threads + 1`` of them ahead.

    The first is given out before any other is begun, for someone waits for it: opening its files
    takes several times as long where the next ones share the interpreter.

    ``threads`` 0 computes each when it is asked for. A process that was forked from one with a
    running iterator has none of its threads: there ``after_fork`` is called first, and what was
    under way is computed anew.
    """
    if threads == 0:
        yield from map(make, keys)
        return
    for key in keys:
        yield make(key)
        break
    window = _Window(make, threads, after_fork)
    try:
        while window.fill(keys):
            yield window.take()
    finally:
        window.close()


class _Window(Generic[K, T]):
    """Results under way, oldest first, and the threads of the process that this runs in."""

    def __init__(
        self, make: Callable[[K], T], threads: int, after_fork: Callable[[], None]
    ) -> None:
        self._make = make
        self._after_fork = after_fork
        self._threads = threads
        self._pending: deque[tuple[K, Future[T]]] = deque()
        self._start()

    def fill(self, keys: Iterator[K]) -> bool:
        """Put as many keys under way as there is room for; whether anything is."""
        if os.getpid() != self._pid:
            self._restart()
        while len(self._pending) <= self._threads:
            try:
                key = next(keys)
            except StopIteration:
                break
            self._pending.append((key, self._executor.submit(self._make, key)))
        return bool(self._pending)

    def take(self) -> T:
        """Wait for the oldest result."""
        return self._pending.popleft()[1].result()

    def close(self) -> None:
        """Stop and join the threads."""
        if os.getpid() == self._pid:
            self._executor.shutdown(wait=True, cancel_futures=True)

    def _start(self) -> None:
        self._pid = os.getpid()
        self._executor = ThreadPoolExecutor(self._threads, thread_name_prefix="tokenmill-feed")

    def _restart(self) -> None:
        self._after_fork()
        keys = [key for key, _ in self._pending]
        self._start()
        self._pending = deque((key, self._executor.submit(self._make, key)) for key in keys)
