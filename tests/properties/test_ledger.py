"""The pool's laws, proved on simulated actors: no process, no clock but a number."""

# ruff: noqa: D102  (methods of a protocol that says what they do)

from __future__ import annotations

import heapq
import math
from collections import Counter
from dataclasses import dataclass, field, replace

from hypothesis import given, settings
from hypothesis import strategies as st

from tokenmill_infra.cluster.ledger import MAX_RETRIES, MAX_SEARCHES
from tokenmill_infra.cluster.pool import Pool, PoolConfig
from tokenmill_infra.cluster.search import PROOFS
from tokenmill_infra.cluster.tasks import (
    Done,
    Event,
    Failed,
    Finished,
    GaveUp,
    Lost,
    Outcome,
    Ready,
    Task,
)
from tokenmill_schemas.errors import TransientError

LEASE_S = 100.0


@dataclass(frozen=True)
class Items:
    """A task of ``items`` rows, less ``poison``; ``window`` makes it a trial."""

    task_id: str
    items: int
    poison: tuple[int, ...] = ()
    window: tuple[int, int] | None = None

    def trial(self, start: int, stop: int) -> Items:
        return replace(self, window=(start, stop))

    def without(self, row: int, error: str) -> Items:
        assert row not in self.poison
        assert "killed" in error
        return Items(self.task_id, self.items, (*self.poison, row))

    @property
    def rows(self) -> set[int]:
        return set(range(*(self.window or (0, self.items)))) - set(self.poison)


@dataclass
class World:
    """A backend of simulated actors; what goes wrong is numbered by the call in which it does."""

    killers: frozenset[tuple[str, int]] = frozenset()
    deaths: frozenset[int] = frozenset()
    hangs: frozenset[int] = frozenset()
    passing: frozenset[int] = frozenset()
    slow: frozenset[int] = frozenset()
    stillborn: frozenset[int] = frozenset()
    now: float = 0.0
    calls: int = 0
    trials: int = 0
    lost: int = 0
    alive: set[int] = field(default_factory=set)
    most: Counter[int] = field(default_factory=Counter)
    running: Counter[int] = field(default_factory=Counter)
    lonely: Counter[tuple[str, int]] = field(default_factory=Counter)
    events: list[tuple[float, int, Event]] = field(default_factory=list)
    serial: int = 0
    attempts: Counter[str] = field(default_factory=Counter)

    def clock(self) -> float:
        return self.now

    def later(self, seconds: float, event: Event) -> None:
        self.serial += 1
        heapq.heappush(self.events, (self.now + seconds, self.serial, event))

    def start(self, actor: int) -> None:
        self.alive.add(actor)
        born = actor not in self.stillborn
        self.later(1.0, Ready(actor) if born else Lost(actor, "stillborn"))

    def submit(self, actor: int, lease: int, task: Task) -> None:
        assert isinstance(task, Items)
        assert actor in self.alive, "work for a dead actor"
        number, self.calls = self.calls, self.calls + 1
        self.trials += task.window is not None
        self.attempts[task.task_id] += 1
        self.running[actor] += 1
        self.most[actor] = max(self.most[actor], self.running[actor])
        guilty = any((task.task_id, row) in self.killers for row in task.rows)
        if number in self.hangs | self.deaths and not guilty and len(task.rows) == 1:
            self.lonely[(task.task_id, *task.rows)] += 1  # type: ignore[index]  # one row only
        if guilty or number in self.deaths:
            self.later(0.5, Lost(actor, "signal 11"))
        elif number in self.passing:
            self.later(0.5, Failed(actor, lease, TransientError("come back")))
        elif number not in self.hangs:
            seconds = 60.0 if number in self.slow else 1.0
            self.later(seconds, Done(actor, lease, (tuple(sorted(task.rows)), task.poison)))

    def wait(self, timeout_s: float) -> list[Event]:
        if not self.events or self.events[0][0] > self.now + timeout_s:
            self.now += timeout_s
            return []
        self.now, _, event = heapq.heappop(self.events)
        if event.actor not in self.alive:
            return []
        if isinstance(event, Done | Failed):
            self.running[event.actor] -= 1
        if isinstance(event, Lost):
            self.lost += 1
            # A backend may tell of one loss more than once, when it looks at several calls.
            self.later(0.1, event)
        return [event]

    def kill(self, actor: int) -> None:
        self.alive.discard(actor)
        self.running.pop(actor, None)

    def close(self) -> None:
        self.alive.clear()


def run(world: World, sizes: list[int], config: PoolConfig) -> dict[str, Outcome]:
    """Run tasks of these sizes; every task has exactly one outcome."""
    tasks = [Items(f"t{index}", size) for index, size in enumerate(sizes)]
    outcomes = list(Pool(world, config, clock=world.clock).run(tasks))
    by_task = {outcome.task_id: outcome for outcome in outcomes}
    assert len(outcomes) == len(by_task) == len(tasks)
    assert max(world.most.values(), default=0) <= config.in_flight
    return by_task


CONFIGS = st.builds(
    PoolConfig,
    actors=st.integers(1, 4),
    in_flight=st.integers(1, 3),
    max_attempts=st.integers(1, 3),
    lease_s=st.just(LEASE_S),
    speculate=st.booleans(),
)
SIZES = st.lists(st.integers(1, 20), min_size=1, max_size=6)
CALLS = st.integers(0, 60)


def few(most: int) -> st.SearchStrategy[frozenset[int]]:
    """A few numbers of calls."""
    return st.frozensets(CALLS, max_size=most)


@st.composite
def guilty(draw: st.DrawFn) -> tuple[list[int], frozenset[tuple[str, int]]]:
    """Task sizes, and some items that kill."""
    sizes = draw(SIZES)
    items = [(f"t{index}", row) for index, size in enumerate(sizes) for row in range(size)]
    return sizes, draw(st.frozensets(st.sampled_from(items), max_size=4))


@settings(max_examples=200, deadline=None)
@given(guilty(), CONFIGS, few(2), few(3), few(3))
def test_all_killers_and_only_killers_are_named(
    case: tuple[list[int], frozenset[tuple[str, int]]],
    config: PoolConfig,
    deaths: frozenset[int],
    passing: frozenset[int],
    slow: frozenset[int],
) -> None:
    """Whatever dies by chance, fails for a moment or is slow: killers are out, all others done."""
    sizes, killers = case
    world = World(killers, deaths, frozenset(), passing, slow)
    for name, outcome in run(world, sizes, config).items():
        assert isinstance(outcome, Finished), outcome
        rows, poison = outcome.result
        own = {row for task, row in killers if task == name}
        framed = set(poison) - own
        assert own <= set(poison)
        assert all(world.lonely[(name, row)] >= PROOFS for row in framed), "an innocent is accused"
        assert set(rows) == set(range(sizes[int(name[1:])])) - set(poison)


@settings(max_examples=100, deadline=None)
@given(guilty(), CONFIGS, few(4), few(2))
def test_the_number_of_attempts_is_bounded(
    case: tuple[list[int], frozenset[tuple[str, int]]],
    config: PoolConfig,
    deaths: frozenset[int],
    hangs: frozenset[int],
) -> None:
    """Tries of a task are bounded by its killers and by what befell it; trials by its logarithm."""
    sizes, killers = case
    world = World(killers, deaths, hangs)
    run(world, sizes, config)
    chance = len(deaths) + len(hangs)
    for index, size in enumerate(sizes):
        guilt = sum(name == f"t{index}" for name, _ in killers)
        search = math.ceil(math.log2(size)) + PROOFS + 1
        searches = guilt + MAX_SEARCHES
        # Twice for its first run: a loss beside a neighbour's killer does not count against it.
        runs = config.max_attempts + 2 + guilt + chance + len(killers) * (config.max_attempts + 2)
        assert world.attempts[f"t{index}"] <= runs + searches * search + chance * PROOFS


@settings(max_examples=100, deadline=None)
@given(SIZES, CONFIGS, few(30), few(10), few(20))
def test_any_amount_of_trouble_ends(
    sizes: list[int],
    config: PoolConfig,
    deaths: frozenset[int],
    hangs: frozenset[int],
    passing: frozenset[int],
) -> None:
    """However much goes wrong, each task ends in one outcome; one given up says why."""
    world = World(frozenset(), deaths, hangs, passing)
    for outcome in run(world, sizes, config).values():
        if isinstance(outcome, GaveUp):
            assert outcome.error
            assert len(deaths) + len(hangs) > MAX_SEARCHES or len(passing) > MAX_RETRIES


@given(CONFIGS, st.integers(1, 5))
def test_a_fault_free_run_does_each_task_once(config: PoolConfig, count: int) -> None:
    """Without trouble there is no second attempt, no trial and no lost actor."""
    world = World()
    run(world, [3] * count, config)
    assert (world.calls, world.trials, world.lost) == (count, 0, 0)


def test_a_straggler_gets_one_copy_on_an_idle_actor() -> None:
    """The copy's result ends the run long before the slow call would have; it counts as a try."""
    for speculate, most in ((True, 10.0), (False, 65.0)):
        world = World(slow=frozenset({3}))
        config = PoolConfig(2, 1, lease_s=LEASE_S, speculate=speculate)
        outcomes = run(world, [1] * 8, config)
        assert world.now < most
        assert world.now > most / 2 - 1
        assert world.calls == 8 + speculate
        assert sorted(o.attempts for o in outcomes.values()) == [1] * 7 + [1 + speculate]


def test_a_task_that_keeps_failing_is_given_up_after_growing_pauses() -> None:
    """Pauses double: 2, 4, 8, 16, 32 seconds; the others go on meanwhile."""
    world = World(passing=frozenset({0, *range(3, 100)}))
    outcomes = run(world, [1, 1, 1], PoolConfig(1, 1, speculate=False))
    assert isinstance(outcomes["t0"], GaveUp)
    assert outcomes["t0"].attempts == MAX_RETRIES + 1
    assert isinstance(outcomes["t1"], Finished)
    assert isinstance(outcomes["t2"], Finished)
    assert 62 <= world.now <= 62 + 20


def test_a_hanging_call_loses_its_lease_and_runs_elsewhere() -> None:
    """After its deadline the actor is replaced, and the task done by another."""
    world = World(hangs=frozenset({0}))
    outcomes = run(world, [1], PoolConfig(1, 1, lease_s=LEASE_S))
    assert isinstance(outcomes["t0"], Finished)
    assert outcomes["t0"].attempts == 2
    assert LEASE_S < world.now < LEASE_S + 5


def test_a_task_that_dies_whatever_it_is_given_is_given_up_soon() -> None:
    """When an item that was taken out seems to kill again, it is not the items."""
    world = World(deaths=frozenset(range(1000)))
    (outcome,) = run(world, [16], PoolConfig(1, 1)).values()
    assert isinstance(outcome, GaveUp)
    assert "even without the items" in outcome.error
    assert world.lost == 2 + 2 * (math.ceil(math.log2(16)) + PROOFS - 1) + 1


def test_a_task_that_its_copy_has_done_is_not_copied_again() -> None:
    """Its first call may hang on beside others for as long as a lease; nobody waits for it."""
    world = World(hangs=frozenset({0, 1}))
    run(world, [1, 1, 1], PoolConfig(2, 2, lease_s=LEASE_S))
    assert max(world.attempts.values()) <= 3
