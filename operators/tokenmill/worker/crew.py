"""A crew of daemon threads whose members can be left behind when they hang.

The standard executor joins its threads at exit, so one decoder that never returns would keep the
process alive for ever; and it cannot replace a thread that hangs.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

from tokenmill_infra.storage import carried

T = TypeVar("T")


class DeadlineExceeded(Exception):  # noqa: N818  (an event, told to the caller, not a failure of ours)
    """A job ran longer than it may."""


class Job(Generic[T]):
    """One call on its way through a crew."""

    __slots__ = ("_call", "_done", "_error", "_result", "_started", "abandoned")

    def __init__(self, call: Callable[[], T]) -> None:
        self._call = call
        self._done = threading.Event()
        self._started = 0.0
        self._result: T | None = None
        self._error: BaseException | None = None
        #: Nobody waits any longer, and the thread that runs the call has been replaced.
        self.abandoned = False

    def run(self) -> None:
        """Make the call and keep what comes of it."""
        self._started = time.monotonic()
        try:
            self._result = self._call()
        except BaseException as error:  # noqa: BLE001  (carried to the thread that waits)
            self._error = error
        self._done.set()

    def wait(self, deadline_s: float) -> T:
        """Return the call's result, or raise its error.

        Raises:
            DeadlineExceeded: the call has been running for ``deadline_s``; time in the queue does
                not count.
        """
        while not self._done.wait(timeout=self._patience(deadline_s)):
            if self._started and time.monotonic() - self._started >= deadline_s:
                self.abandoned = True
                raise DeadlineExceeded
        if self._error is not None:
            raise self._error
        return self._result  # type: ignore[return-value]  # done without error: it is a T

    def _patience(self, deadline_s: float) -> float:
        if not self._started:
            return min(0.5, deadline_s)
        return max(0.001, deadline_s - (time.monotonic() - self._started))


class Crew:
    """``size`` threads that run jobs in the order of their submission."""

    def __init__(self, size: int, name: str) -> None:
        self._queue: queue.SimpleQueue[Job[object] | None] = queue.SimpleQueue()
        self._name = name
        self._lock = threading.Lock()
        self._closed = False
        self.size = size
        for _ in range(size):
            self._hire()

    def _hire(self) -> None:
        threading.Thread(target=self._work, name=self._name, daemon=True).start()

    def _work(self) -> None:
        while (job := self._queue.get()) is not None:
            job.run()
            if job.abandoned:
                return

    def submit(self, call: Callable[[], T]) -> Job[T]:
        """Queue a call.

        Raises:
            RuntimeError: the crew is closed; nobody would ever run the call.
        """
        job: Job[T] = Job(carried(call))
        with self._lock:
            if self._closed:
                raise RuntimeError(f"the crew {self._name} is closed")
            self._queue.put(job)  # type: ignore[arg-type]  # a Job of T is run like any other
        return job

    def replace(self) -> None:
        """Hire a thread in the place of one whose job was abandoned; that one goes if it returns.

        A job may return in the very moment in which it is given up; the crew is one larger then.
        """
        self._hire()

    def close(self) -> None:
        """Let the threads go once what is queued is done; those that hang are left behind."""
        with self._lock:
            self._closed = True
            for _ in range(self.size):
                self._queue.put(None)
