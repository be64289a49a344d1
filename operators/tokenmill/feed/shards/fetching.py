"""Threads that fetch: what a batch waits for first, then what was asked for ahead.

One pool serves all feeds of a process. Its threads are daemons, so that a process which is done, or
interrupted, does not wait for the rest of what it asked for ahead.
"""

from __future__ import annotations

import atexit
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from functools import lru_cache
from typing import Generic, TypeVar

from tokenmill_infra.storage.options import CONNECTIONS

T = TypeVar("T")

#: How long the end of a process waits for requests that are under way, in all.
CLOSE_S = 1.0


class Fetch(Generic[T]):
    """One call to be made by some thread of a pool, and what came of it."""

    __slots__ = ("_call", "begun", "result")

    def __init__(self, call: Callable[[], T]) -> None:
        self._call = call
        self.begun = False
        self.result: Future[T] = Future()

    def run(self) -> None:
        """Make the call."""
        try:
            self.result.set_result(self._call())
        except BaseException as error:  # noqa: BLE001  (goes to whoever asks for the result)
            self.result.set_exception(error)


class FetchPool:
    """At most ``threads`` calls at once, the urgent ones first; threads start when needed."""

    def __init__(self, threads: int = CONNECTIONS) -> None:
        self._limit = threads
        self._threads: list[threading.Thread] = []
        self._idle = 0
        self._changed = threading.Condition()
        self._urgent: deque[Fetch[object]] = deque()
        self._ahead: deque[Fetch[object]] = deque()
        self._closed = False
        self._pid = os.getpid()
        atexit.register(self.close)

    def submit(self, call: Callable[[], T], *, urgent: bool) -> Fetch[T]:
        """Have a call made by the next free thread."""
        fetch = Fetch(call)
        if self._closed:  # the process is at its end, and has no threads any more
            fetch.run()
        else:
            self._put(fetch, urgent=urgent)
        return fetch

    def hurry(self, fetch: Fetch[T]) -> None:
        """Have a call that was submitted ahead made as soon as an urgent one."""
        if not fetch.begun:
            self._put(fetch, urgent=True)

    def close(self) -> None:
        """Drop what has not begun, and wait a little for what has."""
        if os.getpid() != self._pid:  # a forked child's end is not the pool's
            return
        with self._changed:
            self._closed = True
            for fetch in (*self._urgent, *self._ahead):
                fetch.result.cancel()
            self._changed.notify_all()
        end = time.monotonic() + CLOSE_S
        for thread in self._threads:
            thread.join(max(0.0, end - time.monotonic()))

    def _put(self, fetch: Fetch[T], *, urgent: bool) -> None:
        with self._changed:
            queue = self._urgent if urgent else self._ahead
            queue.append(fetch)  # type: ignore[arg-type]  # queues take fetches of anything
            self._changed.notify()
            if self._idle < len(self._urgent) + len(self._ahead) and not self._closed:
                self._start()

    def _start(self) -> None:
        if len(self._threads) < self._limit:
            thread = threading.Thread(target=self._work, name="tokenmill-fetch", daemon=True)
            self._threads.append(thread)
            thread.start()

    def _work(self) -> None:
        while (fetch := self._next()) is not None:
            fetch.run()
            # Not kept until the next one comes: its result may be megabytes.
            del fetch

    def _next(self) -> Fetch[object] | None:
        with self._changed:
            while not self._closed:
                if (fetch := self._oldest()) is not None:
                    return fetch
                self._idle += 1
                self._changed.wait()
                self._idle -= 1
        return None

    def _oldest(self) -> Fetch[object] | None:
        for queue in (self._urgent, self._ahead):
            while queue:
                fetch = queue.popleft()
                # One that was hurried stands in both queues.
                if not fetch.begun:
                    fetch.begun = True
                    return fetch
        return None


@lru_cache(maxsize=1)
def fetch_pool(_process: int) -> FetchPool:
    """Return the pool of the process with this id; a forked child has none of its parent's."""
    return FetchPool()


def this_pool() -> FetchPool:
    """Return the pool of this process."""
    return fetch_pool(os.getpid())
