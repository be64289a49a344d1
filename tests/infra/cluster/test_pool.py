# ruff: noqa: D102  (methods of protocols that say what they do)

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from tokenmill_infra.cluster import (
    ActorPlan,
    ClusterError,
    Finished,
    Pool,
    PoolConfig,
    misfit,
    open_pool,
    plan_actors,
)
from tokenmill_infra.cluster.local import LocalBackend
from tokenmill_infra.cluster.tasks import Cause, Event, Lost, PostMortem, Ready, Task
from tokenmill_schemas.errors import CheckpointError, TransientError
from tokenmill_schemas.job import ClusterConfig
from tokenmill_schemas.resources import Resources


class Word:
    """A task of one item."""

    items = 1

    def __init__(self, task_id: str) -> None:
        self.task_id = task_id

    def trial(self, start: int, stop: int) -> Word:
        raise NotImplementedError

    def without(self, row: int, cause: Cause) -> Word:
        raise NotImplementedError


class Shouter:
    """A host that runs ``call`` on each word."""

    def __init__(self, call: Callable[[str], str] = str.upper) -> None:
        self._call = call
        self.closed = threading.Event()

    def run(self, task: Word) -> str:
        return self._call(task.task_id)

    def close(self) -> None:
        self.closed.set()


class Stillborn:
    """A backend whose actors die while they load, but for the ``survivor``."""

    def __init__(self, survivor: int = -1) -> None:
        self.started: list[int] = []
        self.survivor = survivor
        self.events: list[Event] = []

    def start(self, actor: int) -> None:
        self.started.append(actor)
        self.events.append(Ready(actor) if actor == self.survivor else Lost(actor, "no memory"))

    def submit(self, actor: int, lease: int, task: Task) -> None:
        from tokenmill_infra.cluster.tasks import Done

        self.events.append(Done(actor, lease, task.task_id))

    def wait(self, timeout_s: float) -> list[Event]:
        events, self.events = self.events, []
        return events

    def post_mortem(self, actor: int) -> PostMortem:
        return PostMortem()

    def shortage(self) -> dict[str, str] | None:
        return None

    def kill(self, actor: int) -> None: ...

    def close(self) -> None: ...


def local(host: Any, **config: Any) -> Pool:
    """A pool of threads over one host."""
    settings = PoolConfig(**config)
    return Pool(LocalBackend(lambda: host, in_flight=settings.in_flight), settings)


def results(pool: Pool, *words: str) -> dict[str, str]:
    """Run words; all must finish."""
    outcomes = list(pool.run([Word(word) for word in words]))
    assert all(isinstance(outcome, Finished) for outcome in outcomes)
    return {o.task_id: o.result for o in outcomes if isinstance(o, Finished)}


def test_threads_run_every_task_and_free_their_host() -> None:
    """The pool of one process gives all results, and closes what it loaded."""
    host = Shouter()
    pool = local(host, actors=3)
    assert results(pool, *"abcdefg") == {word: word.upper() for word in "abcdefg"}
    pool.close()
    assert host.closed.is_set()


def test_what_a_task_raises_ends_the_run_as_it_was_raised() -> None:
    """An error that others would meet too is not retried."""

    def fail(word: str) -> str:
        raise ZeroDivisionError(word)

    pool = local(Shouter(fail))
    with pytest.raises(ZeroDivisionError, match="a"):
        results(pool, "a")
    pool.close()


def test_a_passing_failure_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """A TransientError costs a pause and another attempt, not the run."""
    monkeypatch.setattr("tokenmill_infra.cluster.pool.TICK_S", 0.02)
    tries: list[str] = []

    def flaky(word: str) -> str:
        tries.append(word)
        if len(tries) == 1:
            raise TransientError("storage is away")
        return word

    now = iter(range(10000))  # every look at the clock is a second later
    backend = LocalBackend(lambda: Shouter(flaky), in_flight=1)
    pool = Pool(backend, PoolConfig(in_flight=1), clock=lambda: float(next(now)))
    (outcome,) = pool.run([Word("a")])
    assert isinstance(outcome, Finished)
    assert outcome.attempts == len(tries) == 2
    pool.close()


def test_what_loading_raises_ends_the_run_as_it_was_raised() -> None:
    """A missing checkpoint is the job's fault: no actor is started in vain again."""

    def factory() -> Shouter:
        raise CheckpointError("lacks keys", path="tokenizer")

    pool = Pool(LocalBackend(factory, in_flight=1), PoolConfig())
    with pytest.raises(CheckpointError, match="lacks keys"):
        results(pool, "a")
    pool.close()


def test_actors_that_die_at_start_end_the_run_with_the_reason() -> None:
    """Five in a row are enough; one that lives in between starts the count anew."""
    backend = Stillborn()
    with pytest.raises(ClusterError, match=r"5 actors in a row died at start: no memory"):
        list(Pool(backend, PoolConfig(actors=1)).run([Word("a")]))
    assert backend.started == [1, 2, 3, 4, 5]
    assert len(list(Pool(Stillborn(5), PoolConfig(actors=1)).run([Word("a")]))) == 1


def test_no_more_actors_are_started_than_there_are_tasks() -> None:
    """Two tasks need no third network in memory."""
    loaded: list[Shouter] = []

    def factory() -> Shouter:
        loaded.append(Shouter())
        return loaded[-1]

    pool = Pool(LocalBackend(factory, in_flight=1), PoolConfig(actors=8, in_flight=1))
    results(pool, "a", "b")
    pool.close()
    assert len(loaded) == 2


def test_a_hanging_thread_is_left_and_its_task_done_by_another() -> None:
    """A lease that runs out does not end the run of one process either."""
    release = threading.Event()
    calls: list[str] = []

    def hang_once(word: str) -> str:
        calls.append(word)
        if len(calls) == 1:
            release.wait(20)
        return word

    backend = LocalBackend(lambda: Shouter(hang_once), in_flight=1)
    pool = Pool(backend, PoolConfig(in_flight=1, lease_s=0.1))
    start = time.monotonic()
    assert results(pool, "a") == {"a": "a"}
    assert time.monotonic() - start < 15, "nobody waits for the call that hangs"
    assert pool.lost == 1
    pool.close()
    release.set()


def test_closing_tells_hosts_before_it_waits_for_their_calls() -> None:
    """After Ctrl-C a unit in flight ends at its next step, not at its own end."""
    host = Shouter()
    entered = threading.Event()

    def until_closed(word: str) -> str:
        entered.set()
        assert host.closed.wait(20)
        return word

    host._call = until_closed
    pool = local(host)
    run = pool.run([Word("a"), Word("b")])
    consumer = threading.Thread(target=lambda: next(run, None))
    consumer.start()
    assert entered.wait(10)
    start = time.monotonic()
    pool.close()
    assert time.monotonic() - start < 15, "the call has not waited until its own end"
    consumer.join(10)


@pytest.mark.parametrize(
    ("config", "needs", "cpus", "gpus", "plan"),
    [
        ({}, 1.0, 8, 4, ActorPlan(4, 1.0, 1.0)),
        ({}, 1.0, 8, 0, ActorPlan(8, 1.0, 0.0)),
        ({}, 0.0, 8, 4, ActorPlan(8, 1.0, 0.0)),
        ({"cpus_per_actor": 3.0}, 0.0, 8, 0, ActorPlan(2, 3.0, 0.0)),
        ({"cpus_per_actor": 0.1}, 0.0, 1, 0, ActorPlan(10, 0.1, 0.0)),
        ({"gpus_per_actor": 0.5}, 1.0, 8, 2, ActorPlan(4, 1.0, 0.5)),
        ({"gpus_per_actor": 0.0}, 1.0, 8, 2, ActorPlan(8, 1.0, 0.0)),
        ({"gpus_per_actor": 0.1}, 1.0, 8, 1, ActorPlan(10, 1.0, 0.1)),
        ({"actors": 3}, 1.0, 8, 8, ActorPlan(3, 1.0, 1.0)),
        ({"cpus_per_actor": 4.0}, 0.0, 2, 0, ActorPlan(1, 4.0, 0.0)),
    ],
)
def test_actors_are_one_per_gpu_or_as_many_as_cores_allow(
    config: dict[str, Any], needs: float, cpus: float, gpus: float, plan: ActorPlan
) -> None:
    """The number of actors follows the machine unless the job says it."""
    assert plan_actors(ClusterConfig(**config), Resources(gpus=needs), cpus=cpus, gpus=gpus) == plan


def test_an_actor_that_can_never_fit_is_an_error_and_no_wait() -> None:
    """Asking for more cores or devices than there are says so, with the key at fault."""
    there = {"CPU": 2.0}
    assert misfit(ActorPlan(1, 2.0, 0.0), there) is None
    too_many = misfit(ActorPlan(1, 4.0, 0.0), there)
    assert too_many is not None
    assert str(too_many) == "cluster.cpus_per_actor: an actor wants 4 cpus and this machine has 2"
    no_gpu = misfit(ActorPlan(1, 1.0, 1.0), there)
    assert no_gpu is not None
    assert no_gpu.path == "cluster.gpus_per_actor"


def test_the_local_pool_is_opened_by_its_name() -> None:
    """``backend = "local"`` needs no Ray, and takes its plan from this machine."""
    config = ClusterConfig(backend="local", actors=2)
    given: list[float] = []

    def factory_of(gpus: float) -> Callable[[], Shouter]:
        given.append(gpus)
        return Shouter

    pool, plan = open_pool(config, Resources(gpus=0.0), factory_of)
    assert results(pool, "x") == {"x": "X"}
    assert plan == ActorPlan(2, 1.0, 0.0)
    assert given == [0.0]
    pool.close()
