"""Actors that are threads of this process: for laptops and tests, with nothing to start.

What an asset does to its process it does to the whole run. Errors, a decoder that hangs and lets
other threads run, and memory beyond ``limits.asset_memory_bytes`` cost the asset alone, as over
Ray. A crash of C code ends the run, and so does the kernel for want of memory (the next run goes on
from the receipts, and meets the asset again); C code that hangs with the interpreter's lock stops
it for good. Only Ray's actors, which have processes of their own, survive those.
"""

from __future__ import annotations

import contextlib
import queue
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from tokenmill_infra.cluster.tasks import (
    Done,
    Event,
    Factory,
    Failed,
    Host,
    PostMortem,
    Ready,
    Task,
)


class LocalBackend:
    """Runs each actor's calls in threads."""

    def __init__(self, factory: Factory, *, in_flight: int) -> None:
        self._factory = factory
        self._in_flight = in_flight
        self._events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self._threads: dict[int, ThreadPoolExecutor] = {}
        self._hosts: dict[int, Host] = {}

    def start(self, actor: int) -> None:
        """Load a host in a thread of its own."""
        threads = ThreadPoolExecutor(self._in_flight, thread_name_prefix=f"tokenmill-actor-{actor}")
        self._threads[actor] = threads
        threads.submit(self._tell, actor, -1, lambda: self._load(actor))

    def _load(self, actor: int) -> Event:
        self._hosts[actor] = self._factory()
        return Ready(actor)

    def submit(self, actor: int, lease: int, task: Task) -> None:
        """Run a task in one of the actor's threads."""
        host = self._hosts[actor]
        call = lambda: Done(actor, lease, host.run(task))  # noqa: E731  (two lines less)
        self._threads[actor].submit(self._tell, actor, lease, call)

    def _tell(self, actor: int, lease: int, call: Callable[[], Event]) -> None:
        try:
            event = call()
        except Exception as error:  # noqa: BLE001  (the actor's boundary: the pool decides)
            event = Failed(actor, lease, error)
        self._events.put(event)

    def wait(self, timeout_s: float) -> list[Event]:
        """Return what happened."""
        events: list[Event] = []
        with contextlib.suppress(queue.Empty):
            events.append(self._events.get(timeout=timeout_s))
            while True:
                events.append(self._events.get_nowait())
        return events

    def post_mortem(self, actor: int) -> PostMortem:
        """Return nothing: what would leave a note takes this process with it."""
        del actor
        return PostMortem()

    def shortage(self) -> dict[str, str] | None:
        """Return None: there is always room for another thread."""
        return None

    def kill(self, actor: int) -> None:
        """Forget an actor; its threads cannot be stopped, only left."""
        threads = self._threads.pop(actor, None)
        self._hosts.pop(actor, None)
        if threads is not None:
            threads.shutdown(wait=False, cancel_futures=True)

    def close(self) -> None:
        """Free every actor; what it was still doing ends at its next use of the host."""
        # The hosts first: after Ctrl-C nobody wants to wait for the units in flight.
        for host in self._hosts.values():
            host.close()
        for threads in self._threads.values():
            threads.shutdown(wait=True, cancel_futures=True)
        self._threads.clear()
        self._hosts.clear()
