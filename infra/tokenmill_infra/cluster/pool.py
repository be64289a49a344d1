"""The pool: keeps actors alive and busy until every task has an outcome.

It owns no policy (see `ledger`) and no processes (see the backends); it moves events between them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

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
from tokenmill_schemas.errors import TokenmillError, TransientError

#: Actors in a row that may die while they load before the run is given up.
MAX_STILLBORN = 5
#: How long the loop waits for an event before it looks at deadlines again.
TICK_S = 0.5


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
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._backend = backend
        self._config = config
        self._clock = clock
        self._ready: set[int] = set()
        self._starting: set[int] = set()
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
            for event in self._backend.wait(TICK_S):
                yield from self._handle(event, ledger)
            for actor in ledger.expired(self._clock()):
                self._backend.kill(actor)
                yield from self._bury(actor, "its lease ran out", ledger)

    def _hire(self, ledger: Ledger) -> None:
        wanted = min(self._config.actors, max(1, ledger.unfinished))
        while len(self._ready) + len(self._starting) < wanted:
            self._started += 1
            self._starting.add(self._started)
            self._backend.start(self._started)

    def _feed(self, actor: int, ledger: Ledger) -> None:
        while (lease := ledger.assign(actor, self._clock())) is not None:
            self._backend.submit(actor, lease.number, lease.work.task)

    def _handle(self, event: Event, ledger: Ledger) -> Iterator[Outcome]:
        if isinstance(event, Ready):
            self._starting.discard(event.actor)
            self._ready.add(event.actor)
            self._stillborn = 0
        elif isinstance(event, Lost):
            self._backend.kill(event.actor)
            yield from self._bury(event.actor, event.reason, ledger)
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

    def _bury(self, actor: int, reason: str, ledger: Ledger) -> Iterator[Outcome]:
        if actor in self._starting:
            self._starting.discard(actor)
            self._stillborn += 1
            if self._stillborn >= MAX_STILLBORN:
                raise ClusterError(f"{self._stillborn} actors in a row died at start: {reason}")
        elif actor in self._ready:
            self._ready.discard(actor)
            self.lost += 1
            yield from ledger.lose(actor, reason)

    def close(self) -> None:
        """End all actors."""
        self._backend.close()
