"""Assets that crash, freeze, hang or eat memory: each alone in quarantine, at a bounded cost."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import ray

from tokenmill.store import Store
from tokenmill.store.verify import verify_store
from tokenmill.testing.faults import FaultName, content_of
from tokenmill_infra.cluster import ActorPlan, Pool, open_pool
from tokenmill_infra.cluster.blackbox import BlackBox
from tokenmill_infra.cluster.ray_backend import Box, _ended_by
from tokenmill_infra.cluster.search import PROOFS
from tokenmill_infra.cluster.tasks import Note
from tokenmill_infra.observe import SilentObserver
from tokenmill_pipelines.jobs import run_job
from tokenmill_pipelines.run import RunResult
from tokenmill_schemas.job import Job

pytestmark = [
    pytest.mark.ray,
    pytest.mark.usefixtures("ray_cluster"),
]

JobOf = Callable[..., Job]

#: Two that end their process, in one unit and in another, and three that can be told in place.
KILLERS: dict[str, FaultName] = {"picture-0003": "segfault", "picture-0008": "freeze"}
OTHERS: dict[str, FaultName] = {
    "picture-0004": "hoard",
    "picture-0013": "gulp",
    "picture-0021": "hang",
}
REASONS = {
    "picture-0003": "killed_worker",
    "picture-0004": "too_much_memory",
    "picture-0008": "deadline",
    "picture-0013": "too_much_memory",
    "picture-0021": "deadline",
}
#: To fill the memory takes a small part of the deadline, on a busy machine too: an asset that goes
#: beyond both has the reason of the one that it meets first.
LIMITS = {"asset_memory_bytes": 64 * 2**20, "asset_deadline_s": 4.0}


def run(job: Job, monkeypatch: pytest.MonkeyPatch) -> tuple[RunResult, int]:
    """Run a job, whose store must be sound; returns how many actors it lost, too."""
    pools: list[Pool] = []

    def opened(*args: Any, **more: Any) -> tuple[Pool, ActorPlan]:
        pool, plan = open_pool(*args, **more)
        pools.append(pool)
        return pool, plan

    monkeypatch.setattr("tokenmill_pipelines.encoding.open_pool", opened)
    result = run_job(job, observer=SilentObserver())
    store = Store.open(result.store_uri)
    assert verify_store(store, store.snapshot()).problems == ()
    (pool,) = pools
    return result, pool.lost


def rows(result: RunResult) -> dict[str, Any]:
    """All samples by key."""
    store = Store.open(result.store_uri)
    paths = store.segments(store.snapshot(), ["path"]).column("path").to_pylist()
    found: dict[str, Any] = {}
    for path in paths:
        with store.shard(path) as shard:
            found |= {row["asset_key"]: row for b in shard.batches() for row in b.to_pylist()}
    return found


def cluster(actors: int, **more: Any) -> dict[str, Any]:
    """A ``[cluster]`` section."""
    return {"backend": "ray", "cpus_per_actor": 1.0, "actors": actors, **more}


def test_every_kind_of_poison_in_one_job_costs_itself_alone(
    noise_job: JobOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same bytes from one and two actors, the right reasons, and two or three actors a kill."""
    faults = {"decoder": {"faults": KILLERS | OTHERS}, "limits": LIMITS}
    whole, none_lost = run(noise_job("whole", limits=LIMITS), monkeypatch)
    one, lost_of_one = run(noise_job("one", **faults, cluster=cluster(1)), monkeypatch)
    two, lost_of_two = run(noise_job("two", **faults, cluster=cluster(2)), monkeypatch)
    assert content_of(one.store_uri) == content_of(two.store_uri)
    assert one.content_id == two.content_id
    assert {key: reason for key, reason, _ in one.quarantine} == REASONS
    clean = rows(whole)
    assert rows(one) == {key: row for key, row in clean.items() if key not in REASONS}
    assert len(clean) == 24
    least, most = PROOFS * len(KILLERS), (PROOFS + 1) * len(KILLERS)
    assert none_lost == 0
    assert least <= lost_of_one <= most
    assert least <= lost_of_two <= most


def test_an_asset_that_the_kernel_kills_its_actor_for_is_found_among_four_at_hand(
    noise_job: JobOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SIGKILL, as for want of memory: no endless loop of restarts, and no neighbour is accused."""
    job = noise_job(
        source={"count": 12},
        decoder={"faults": {"picture-0008": "kill"}},
        cluster=cluster(1, decode_threads=4),
    )
    result, lost = run(job, monkeypatch)
    assert [(key, reason) for key, reason, _ in result.quarantine] == [
        ("picture-0008", "killed_worker")
    ]
    assert result.done["samples"] == 11
    assert PROOFS <= lost <= PROOFS + 1


def test_actors_that_find_no_room_say_so_once(
    noise_job: JobOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What each asks for and what the cluster has; the actor that found room does all the work."""
    told: list[tuple[str, dict[str, Any]]] = []

    class Listener(SilentObserver):
        def warn(self, message: str, /, **facts: Any) -> None:
            told.append((message, facts))

    monkeypatch.setattr("tokenmill_infra.cluster.pool.PATIENCE_S", 0.5)
    job = noise_job(source={"open_s": 0.1}, cluster=cluster(2, cpus_per_actor=3.0, speculate=False))
    assert run_job(job, observer=Listener()).done["samples"] == 24
    waiting = [facts for message, facts in told if message == "actors wait for room on the cluster"]
    assert len(waiting) == 1
    assert waiting[0]["each_asks_for"] == "3 CPU"
    assert waiting[0]["cluster_has"].startswith("4 CPU, ")


def test_a_black_box_is_fetched_from_the_node_where_it_is(tmp_path: Path) -> None:
    """By a task there, which removes it; one whose node is gone tells nothing."""
    box = BlackBox(tmp_path)
    node = ray.get_runtime_context().get_node_id()
    with box.at("unit", 7, 8):
        far = Box(node, box.path)
        assert far.read().notes == (Note("unit", 7, 8),)
    assert not Path(box.path).exists()
    assert far.read().notes == ()
    assert Box("0" * len(node), box.path).read().notes == ()


def test_what_rays_memory_monitor_ends_is_told_from_a_crash() -> None:
    """It says so; the kernel does not."""
    low = ray.exceptions.OutOfMemoryError("low")  # type: ignore[no-untyped-call]  # Ray's
    assert _ended_by(low) == "memory"
    assert _ended_by(ray.exceptions.ActorDiedError()) == "died"
