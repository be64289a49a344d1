"""The pool's book: which task runs where, how often it was lost, what happens to it next.

Pure: no clock, no process. Times are passed in, decisions come out, so every law below is tested
without an actor.

- A task is done once; later results of copies of it are ignored.
- A task lost with its actor runs again, alone on an actor, so that a second loss accuses it alone.
- One lost ``max_attempts`` times, the last time alone, is searched for the item that kills, which
  must do so twice by itself; it then runs without that item. A search that finds none costs one of
  ``MAX_SEARCHES`` rounds.
- A task that fails for a passing reason runs again after a growing pause, ``MAX_RETRIES`` times.
"""

from __future__ import annotations

import statistics
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from tokenmill_infra.cluster.search import Search
from tokenmill_infra.cluster.tasks import Finished, GaveUp, Outcome, Task

MAX_RETRIES = 5
MAX_SEARCHES = 3
#: Most killers that one task may hold before it is given up.
MAX_KILLERS = 64
#: A lease this many times older than the median task gets a copy when an actor is idle.
STRAGGLER = 3.0


@dataclass(frozen=True, slots=True)
class Work:
    """A task to be run; ``alone`` on an actor if it is suspected; ``trial`` if it has no effect."""

    task: Task
    alone: bool = False
    trial: bool = False
    not_before: float = 0.0


@dataclass(frozen=True, slots=True)
class Lease:
    """A work that an actor was given, until ``deadline``."""

    number: int
    actor: int
    work: Work
    started: float
    deadline: float


@dataclass(slots=True)
class State:
    """What is known of one task."""

    task: Task
    attempts: int = 0
    losses: int = 0
    retries: int = 0
    searches: int = 0
    killers: set[int] = field(default_factory=set)
    search: Search | None = None
    done: bool = False


@dataclass(slots=True)
class Ledger:
    """The book of one run of the pool; ``unfinished`` counts the tasks without an outcome."""

    in_flight: int
    max_attempts: int
    lease_s: float
    speculate: bool = True
    states: dict[str, State] = field(default_factory=dict)
    queue: deque[Work] = field(default_factory=deque)
    leases: dict[int, Lease] = field(default_factory=dict)
    durations: list[float] = field(default_factory=list)
    issued: int = 0
    unfinished: int = 0

    def add(self, tasks: Iterable[Task]) -> None:
        """Queue tasks, in order."""
        for task in tasks:
            self.states[task.task_id] = State(task)
            self.queue.append(Work(task))
            self.unfinished += 1

    def assign(self, actor: int, now: float) -> Lease | None:
        """Return the next lease for an actor, or None if it should get none now."""
        held = [lease for lease in self.leases.values() if lease.actor == actor]
        if len(held) >= self.in_flight or any(lease.work.alone for lease in held):
            return None
        work = self._next(now, idle=not held)
        if work is None and not held and self.speculate:
            work = self._straggler(actor, now)
        if work is None:
            return None
        self.issued += 1
        lease = Lease(self.issued, actor, work, now, now + self.lease_s)
        self.leases[lease.number] = lease
        self.states[work.task.task_id].attempts += not work.trial
        return lease

    def _next(self, now: float, *, idle: bool) -> Work | None:
        for index, work in enumerate(self.queue):
            if work.not_before <= now and (idle or not work.alone):
                del self.queue[index]
                return work
        return None

    def _straggler(self, actor: int, now: float) -> Work | None:
        """Pick the task that has run unusually long on another actor and has no copy yet."""
        if not self.durations:
            return None
        limit = STRAGGLER * statistics.median(self.durations)
        running: dict[str, list[Lease]] = {}
        for lease in self.leases.values():
            running.setdefault(lease.work.task.task_id, []).append(lease)
        slow = [
            leases[0]
            for leases in running.values()
            if len(leases) == 1
            and not self.states[leases[0].work.task.task_id].done
            and leases[0].actor != actor
            and not leases[0].work.alone
            and now - leases[0].started > limit
        ]
        return min(slow, key=lambda lease: lease.started).work if slow else None

    def finish(self, number: int, result: object, now: float) -> Outcome | None:
        """Note a call that returned; returns the task's outcome if this is the first."""
        lease = self.leases.pop(number, None)
        if lease is None:
            return None
        if lease.work.trial:
            return self._after_trial(lease, died=False)
        state = self.states[lease.work.task.task_id]
        if state.done:
            return None
        self._close(state)
        self.durations.append(now - lease.started)
        return Finished(lease.work.task.task_id, result, state.attempts)

    def retry(self, number: int, error: str, now: float) -> Outcome | None:
        """Note a call that failed for a passing reason; returns the outcome if it was the last."""
        lease = self.leases.pop(number, None)
        if lease is None:
            return None
        state = self.states[lease.work.task.task_id]
        state.retries += 1
        if state.done or self._has_copy(lease):
            return None
        if state.retries > MAX_RETRIES:
            return self._give_up(state, error)
        pause = min(60.0, 2.0**state.retries)
        self.queue.appendleft(replace(lease.work, not_before=now + pause))
        return None

    def lose(self, actor: int, reason: str) -> list[Outcome]:
        """Note that an actor is gone; returns the outcomes of tasks that are given up for it."""
        lost = [lease for lease in self.leases.values() if lease.actor == actor]
        for lease in lost:
            del self.leases[lease.number]
        outcomes = (self._lose_one(lease, reason, alone=len(lost) == 1) for lease in lost)
        return [outcome for outcome in outcomes if outcome is not None]

    def _lose_one(self, lease: Lease, reason: str, *, alone: bool) -> Outcome | None:
        if lease.work.trial:
            return self._after_trial(lease, died=True)
        state = self.states[lease.work.task.task_id]
        state.losses += 1
        if state.done or self._has_copy(lease):
            return None
        if alone and state.losses >= self.max_attempts:
            return self._search(state, reason)
        self.queue.appendleft(Work(state.task, alone=True))
        return None

    def _search(self, state: State, reason: str) -> Outcome | None:
        state.searches += 1
        if state.searches > MAX_SEARCHES or len(state.killers) >= MAX_KILLERS:
            return self._give_up(state, f"its actors kept dying ({reason})")
        state.search = Search(0, state.task.items)
        self._try(state)
        return None

    def _try(self, state: State) -> None:
        if state.search is not None:
            self.queue.appendleft(Work(state.task.trial(*state.search.window), True, True))

    def _after_trial(self, lease: Lease, *, died: bool) -> Outcome | None:
        state = self.states[lease.work.task.task_id]
        if state.search is None or state.done:
            return None
        state.search = state.search.after(died=died)
        if not state.search.over:
            self._try(state)
            return None
        if state.search.found in state.killers:
            return self._give_up(state, "kills its actors even without the items that do")
        if state.search.found is not None:
            state.killers.add(state.search.found)
            state.searches -= 1
            error = "killed its worker process, alone and repeatedly"
            state.task = state.task.without(state.search.found, error)
        state.search = None
        state.losses = self.max_attempts - 1
        self.queue.appendleft(Work(state.task, alone=True))
        return None

    def _has_copy(self, lease: Lease) -> bool:
        name = lease.work.task.task_id
        return any(other.work.task.task_id == name for other in self.leases.values())

    def _close(self, state: State) -> None:
        state.done = True
        self.unfinished -= 1

    def _give_up(self, state: State, error: str) -> GaveUp:
        self._close(state)
        return GaveUp(state.task.task_id, error, state.attempts)

    def expired(self, now: float) -> list[int]:
        """Return the actors that hold a lease past its deadline."""
        return sorted({le.actor for le in self.leases.values() if now > le.deadline})
