"""The pool: keeps actors alive and busy until every task has an outcome.

It owns no policy (see `ledger`) and no processes (see the backends); it moves events between them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from tokenmill_infra.cluster.ledger import Ledger
from tokenmill_infra.cluster.tasks import (
    Backend,
    Done,
    Event,
    Failed,
    Lost,
    Outcome,
    Ready,
    Task,
)
from tokenmill_infra.observe import Observer, SilentObserver
from tokenmill_schemas.errors import TokenmillError, TransientError

#: Actors in a row that may die while they load before the run is given up.
MAX_STILLBORN = 5
#: How long the loop waits for an event before it looks at deadlines again.
TICK_S = 0.5
#: How long actors may wait for a place on the cluster before it is said.
PATIENCE_S = 15.0


class ClusterError(TokenmillError):
    """Actors cannot be kept alive; says why the last one died."""


@dataclass(frozen=True, slots=True)
class PoolConfig:
    """How many actors, how much each holds, and when one is given up."""

    actors: int = 1
    in_flight: int = 2
    max_attempts: int = 2
    lease_s: float = 1800.0
    speculate: bool = True


class Pool:
    """Runs tasks on a backend's actors; close it to end them."""

    def __init__(
        self,
        backend: Backend,
        config: PoolConfig,
        *,
        observer: Observer | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._backend = backend
        self._config = config
        self._observer = observer or SilentObserver()
        self._clock = clock
        self._ready: set[int] = set()
        self._starting: dict[int, float] = {}  # since when
        self._told = False
        self._started = 0
        self._stillborn = 0
        self.lost = 0

    def run(self, tasks: Sequence[Task]) -> Iterator[Outcome]:
        """Yield one outcome per task, as they come.

        Raises:
            ClusterError: actors die before they are ready.
            Exception: what a task raised, unless it is a `TransientError`: others would, too.
        """
        config = self._config
        ledger = Ledger(config.in_flight, config.max_attempts, config.lease_s, config.speculate)
        ledger.add(tasks)
        while ledger.unfinished:
            self._hire(ledger)
            for actor in sorted(self._ready):
                self._feed(actor, ledger)
            self._look_around()
            for event in self._backend.wait(TICK_S):
                yield from self._handle(event, ledger)
            for actor in ledger.expired(self._clock()):
                yield from self._lose(Lost(actor, "its lease ran out", "frozen"), ledger)

    def _hire(self, ledger: Ledger) -> None:
        wanted = min(self._config.actors, max(1, ledger.unfinished))
        while len(self._ready) + len(self._starting) < wanted:
            self._started += 1
            self._starting[self._started] = self._clock()
            self._backend.start(self._started)

    def _feed(self, actor: int, ledger: Ledger) -> None:
        while (lease := ledger.assign(actor, self._clock())) is not None:
            self._backend.submit(actor, lease.number, lease.work.task)

    def _handle(self, event: Event, ledger: Ledger) -> Iterator[Outcome]:
        if isinstance(event, Ready):
            self._starting.pop(event.actor, None)
            self._ready.add(event.actor)
            self._stillborn = 0
        elif isinstance(event, Lost):
            yield from self._lose(event, ledger)
        elif isinstance(event, Done):
            outcome = ledger.finish(event.lease, event.result, self._clock())
            if outcome is not None:
                yield outcome
        else:
            yield from self._fail(event, ledger)

    def _fail(self, event: Failed, ledger: Ledger) -> Iterator[Outcome]:
        if not isinstance(event.error, TransientError) or event.lease < 0:
            raise event.error
        outcome = ledger.retry(event.lease, str(event.error), self._clock())
        if outcome is not None:
            yield outcome

    def _lose(self, event: Lost, ledger: Ledger) -> Iterator[Outcome]:
        actor = event.actor
        left = self._backend.post_mortem(actor)
        if event.cause != "died":
            left = replace(left, cause=event.cause)
        self._backend.kill(actor)
        if actor in self._starting:
            del self._starting[actor]
            self._stillborn += 1
            if self._stillborn >= MAX_STILLBORN:
                text = f"{self._stillborn} actors in a row died at start: {event.reason}"
                raise ClusterError(text)
        elif actor in self._ready:
            self._ready.discard(actor)
            self.lost += 1
            yield from ledger.lose(actor, event.reason, left)

    def _look_around(self) -> None:
        """Say, once, that actors wait for a place: on a cluster that others use it may be long."""
        oldest = min(self._starting.values(), default=self._clock())
        if self._told or self._clock() - oldest < PATIENCE_S:
            return
        facts = self._backend.shortage()
        if facts is not None:
            self._told = True
            self._observer.warn(
                "actors wait for room on the cluster", at_work=len(self._ready), **facts
            )

    def close(self) -> None:
        """End all actors."""
        self._backend.close()
