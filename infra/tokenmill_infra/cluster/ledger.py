"""The pool's book: which task runs where, how often it was lost, what happens to it next.

Pure: no clock, no process. Times are passed in, decisions come out, so every law below is tested
without an actor.

- A task is done once; later results of copies of it are ignored.
- Items that a lost actor had at hand are tried first, each on an actor of its own. Tasks that it
  held and had no item of at hand run again as if nothing had been.
- A task lost with its actor runs again, alone on an actor, so that a second loss accuses it alone.
- One lost ``max_attempts`` times, the last time alone, is searched in full for the item that kills;
  it then runs without that item. A full search that finds none costs one of ``MAX_SEARCHES``.
- No item is left out that was not the only one at hand in `PROOFS` deaths.
- A task that fails for a passing reason runs again after a growing pause, ``MAX_RETRIES`` times.
"""

from __future__ import annotations

import statistics
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from tokenmill_infra.cluster.search import Search, Window
from tokenmill_infra.cluster.tasks import Finished, GaveUp, Outcome, PostMortem, Task

MAX_RETRIES = 5
MAX_SEARCHES = 3
#: Most killers that one task may hold before it is given up.
MAX_KILLERS = 64
#: Of an actor that could note nothing.
NOTHING = PostMortem()
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
    in_vain: int = 0
    in_full: bool = False
    killers: set[int] = field(default_factory=set)
    search: Search | None = None
    done: bool = False


@dataclass(frozen=True, slots=True)
class Death:
    """An actor's death as one of its tasks sees it.

    ``at_hand`` are this task's items that the actor had at hand, ``others`` whether it had any of
    other tasks, and ``alone`` whether it was given no other task.
    """

    reason: str
    left: PostMortem
    at_hand: tuple[Window, ...]
    others: bool
    alone: bool

    @property
    def proves(self) -> bool:
        """Whether one item of this task, and nothing else at all, was at hand."""
        ((start, stop),) = self.at_hand if len(self.at_hand) == 1 else ((0, 0),)
        return len(self.left.notes) == 1 and stop - start == 1


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
            return self._after_trial(lease, None)
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

    def lose(self, actor: int, reason: str, left: PostMortem = NOTHING) -> list[Outcome]:
        """Note that an actor is gone; returns the outcomes of tasks that are given up for it."""
        lost = [lease for lease in self.leases.values() if lease.actor == actor]
        for lease in lost:
            del self.leases[lease.number]
        names = {lease.work.task.task_id for lease in lost}
        outcomes: list[Outcome | None] = []
        for lease in lost:
            name = lease.work.task.task_id
            mine = tuple((n.start, n.stop) for n in left.notes if n.task_id == name)
            others = any(n.task_id in names - {name} for n in left.notes)
            outcomes.append(
                self._lose_one(lease, Death(reason, left, mine, others, len(lost) == 1))
            )
        return [outcome for outcome in outcomes if outcome is not None]

    def _lose_one(self, lease: Lease, death: Death) -> Outcome | None:
        if lease.work.trial:
            return self._after_trial(lease, death)
        state = self.states[lease.work.task.task_id]
        blamed = bool(death.at_hand) or not death.others
        state.losses += blamed
        if state.done or self._has_copy(lease):
            return None
        state.in_full = death.alone and state.losses >= self.max_attempts
        if state.in_full or death.at_hand:
            return self._search(state, death)
        self.queue.appendleft(Work(state.task, alone=blamed))
        return None

    def _search(self, state: State, death: Death) -> Outcome | None:
        if state.in_vain >= MAX_SEARCHES or len(state.killers) >= MAX_KILLERS:
            return self._give_up(state, f"its actors kept dying ({death.reason})")
        stop = state.task.items if state.in_full else 0
        state.search = Search(0, stop, deaths=int(death.proves), suspects=death.at_hand)
        self._try(state)
        return None

    def _try(self, state: State) -> None:
        if state.search is not None:
            self.queue.appendleft(Work(state.task.trial(*state.search.window), True, True))

    def _after_trial(self, lease: Lease, death: Death | None) -> Outcome | None:
        state = self.states[lease.work.task.task_id]
        if state.search is None or state.done:
            return None
        at_hand = death.at_hand if death else ()
        state.search = state.search.after(died=death is not None, at_hand=at_hand)
        if not state.search.over:
            self._try(state)
            return None
        found, state.search = state.search.found, None
        if found is None:
            state.in_vain += state.in_full
        elif found in state.killers:
            return self._give_up(state, "kills its actors even without the items that do")
        else:
            state.killers.add(found)
            state.task = state.task.without(found, death.left.cause if death else "died")
        state.losses = min(state.losses, self.max_attempts - 1)
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
