"""The pool's laws, proved on simulated actors: no process, no clock but a number."""

# ruff: noqa: D102  (methods of a protocol that says what they do)

from __future__ import annotations

import heapq
import math
from collections import Counter
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenmill_infra.cluster.ledger import MAX_RETRIES, MAX_SEARCHES, Ledger
from tokenmill_infra.cluster.pool import Pool, PoolConfig
from tokenmill_infra.cluster.search import PROOFS
from tokenmill_infra.cluster.tasks import (
    Cause,
    Done,
    Event,
    Failed,
    Finished,
    GaveUp,
    Lost,
    Note,
    Outcome,
    PostMortem,
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

    def without(self, row: int, cause: Cause) -> Items:
        assert row not in self.poison
        assert cause in ("died", "frozen")
        return Items(self.task_id, self.items, (*self.poison, row))

    @property
    def rows(self) -> set[int]:
        return set(range(*(self.window or (0, self.items)))) - set(self.poison)


@dataclass(frozen=True)
class Call:
    """A call that an actor was given: it goes through its rows in the course of a second."""

    task_id: str
    rows: list[int]
    killer: int | None
    started: float

    def notes(self, now: float, hands: int) -> list[Note]:
        """The last ``hands`` rows that were begun; none where all are done, or nothing is noted."""
        place = int((now - self.started) * len(self.rows)) if hands else len(self.rows)
        if hands and self.killer is not None:
            place = self.rows.index(self.killer)
        if place >= len(self.rows):
            return []
        begun = self.rows[max(0, place - hands + 1) : place + 1]
        return [Note(self.task_id, row, row + 1) for row in reversed(begun)]


@dataclass
class World:
    """A backend of simulated actors; what goes wrong is numbered by the call in which it does.

    With ``hands`` above 0 an actor notes what it has at hand: rows of a task in order, that many at
    a time, and none once its last row is done.
    """

    killers: frozenset[tuple[str, int]] = frozenset()
    deaths: frozenset[int] = frozenset()
    hangs: frozenset[int] = frozenset()
    passing: frozenset[int] = frozenset()
    slow: frozenset[int] = frozenset()
    stillborn: frozenset[int] = frozenset()
    hands: int = 0
    now: float = 0.0
    calls: int = 0
    trials: int = 0
    lost: int = 0
    alive: set[int] = field(default_factory=set)
    most: Counter[int] = field(default_factory=Counter)
    running: Counter[int] = field(default_factory=Counter)
    proofs: Counter[tuple[str, int]] = field(default_factory=Counter)
    held: dict[int, dict[int, Call]] = field(default_factory=dict)
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
        rows = sorted(task.rows)
        killer = next((row for row in rows if (task.task_id, row) in self.killers), None)
        self.held.setdefault(actor, {})[lease] = Call(task.task_id, rows, killer, self.now)
        if killer is not None or number in self.deaths:
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
            del self.held[event.actor][event.lease]
        if isinstance(event, Lost):
            self.lost += 1
            # A backend may tell of one loss more than once, when it looks at several calls.
            self.later(0.1, event)
        return [event]

    def post_mortem(self, actor: int) -> PostMortem:
        assert actor in self.alive, "a post-mortem of one that is buried"
        calls = list(self.held.get(actor, {}).values())
        notes = [note for call in calls for note in call.notes(self.now, self.hands)]
        if len(calls) == 1 and len(calls[0].rows) == 1:
            self.proofs[calls[0].task_id, calls[0].rows[0]] += 1
        elif len(notes) == 1:
            self.proofs[notes[0].task_id, notes[0].start] += 1
        return PostMortem(tuple(notes))

    def shortage(self) -> dict[str, str] | None:
        return None

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
#: How many items actors have at hand at once; 0 where they note nothing.
HANDS = st.integers(0, 3)


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
@given(guilty(), CONFIGS, few(2), few(3), few(3), HANDS)
def test_all_killers_and_only_killers_are_named(
    case: tuple[list[int], frozenset[tuple[str, int]]],
    config: PoolConfig,
    deaths: frozenset[int],
    passing: frozenset[int],
    slow: frozenset[int],
    hands: int,
) -> None:
    """Whatever dies by chance, fails for a moment or is slow: killers are out, all others done."""
    sizes, killers = case
    world = World(killers, deaths, frozenset(), passing, slow, hands=hands)
    for name, outcome in run(world, sizes, config).items():
        assert isinstance(outcome, Finished), outcome
        rows, poison = outcome.result
        own = {row for task, row in killers if task == name}
        framed = set(poison) - own
        assert own <= set(poison)
        assert all(world.proofs[(name, row)] >= PROOFS for row in framed), "an innocent is accused"
        assert set(rows) == set(range(sizes[int(name[1:])])) - set(poison)


@settings(max_examples=100, deadline=None)
@given(guilty(), CONFIGS, few(4), few(2), HANDS)
def test_the_number_of_attempts_is_bounded(
    case: tuple[list[int], frozenset[tuple[str, int]]],
    config: PoolConfig,
    deaths: frozenset[int],
    hangs: frozenset[int],
    hands: int,
) -> None:
    """Tries of a task are bounded by its killers and by what befell it; trials by its logarithm."""
    sizes, killers = case
    world = World(killers, deaths, hangs, hands=hands)
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
@given(SIZES, CONFIGS, few(30), few(10), few(20), HANDS)
def test_any_amount_of_trouble_ends(
    sizes: list[int],
    config: PoolConfig,
    deaths: frozenset[int],
    hangs: frozenset[int],
    passing: frozenset[int],
    hands: int,
) -> None:
    """However much goes wrong, each task ends in one outcome; one given up says why."""
    world = World(frozenset(), deaths, hangs, passing, hands=hands)
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


@pytest.mark.parametrize("size", [8, 1024])
@pytest.mark.parametrize(("hands", "flight", "lost"), [(1, 1, 2), (1, 2, 3), (3, 1, 3), (3, 2, 3)])
def test_an_actors_notes_make_a_killer_cost_two_or_three_actors(
    size: int, hands: int, flight: int, lost: int
) -> None:
    """However many items a task has; a second one only where another item was at hand, too."""
    world = World(frozenset({("t0", size - 3)}), hands=hands)
    outcomes = run(world, [size, size, size], PoolConfig(1, flight))
    poison = {name: o.result[1] for name, o in outcomes.items() if isinstance(o, Finished)}
    assert poison == {"t0": (size - 3,), "t1": (), "t2": ()}
    assert world.lost == lost
    assert world.attempts["t0"] <= lost + 2 * hands + 1


def test_without_notes_a_killer_costs_an_actor_per_halving() -> None:
    """What the notes spare: of 1024 items up to ten halvings."""
    world = World(frozenset({("t0", 0)}))
    run(world, [1024], PoolConfig(1, 1))
    assert world.lost == 2 + math.ceil(math.log2(1024)) + PROOFS - 1


def test_a_task_that_had_nothing_at_hand_is_not_suspected() -> None:
    """The item at hand is tried first, alone; the other task shares an actor again, uncounted."""
    ledger = Ledger(in_flight=2, max_attempts=1, lease_s=LEASE_S)
    ledger.add([Items("t0", 4), Items("t1", 4)])
    leases = [ledger.assign(1, 0.0), ledger.assign(1, 0.0)]
    assert [lease.work.task.task_id for lease in leases if lease] == ["t0", "t1"]
    assert ledger.lose(1, "signal 11", PostMortem((Note("t1", 2, 3),))) == []
    assert [ledger.states[name].losses for name in ("t0", "t1")] == [0, 1]
    trial, free = ledger.assign(2, 1.0), ledger.assign(3, 1.0)
    assert trial is not None
    assert free is not None
    assert (trial.work.task, trial.work.alone) == (Items("t1", 4, (), (2, 3)), True)
    assert (free.work.task, free.work.alone) == (Items("t0", 4), False)
