"""Actors over Ray: the same store from any number of them, whatever becomes of their processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tokenmill.store import Store
from tokenmill.store.verify import verify_store
from tokenmill.testing.faults import content_of
from tokenmill_infra.cluster.ray_backend import RayBackend
from tokenmill_infra.observe import SilentObserver
from tokenmill_pipelines.jobs import run_job
from tokenmill_pipelines.run import RunResult
from tokenmill_schemas.errors import CheckpointError
from tokenmill_schemas.job import Job

pytestmark = [
    pytest.mark.ray,
    pytest.mark.usefixtures("ray_cluster"),
]

JobOf = Callable[..., Job]
RAY = {"backend": "ray", "cpus_per_actor": 1.0}


def ray(actors: int, **more: Any) -> dict[str, Any]:
    """A ``[cluster]`` section."""
    return {**RAY, "actors": actors, **more}


def run(job: Job) -> RunResult:
    """Run a job; its store must be sound."""
    result = run_job(job, observer=SilentObserver())
    store = Store.open(result.store_uri)
    assert verify_store(store, store.snapshot()).problems == ()
    return result


def same(*results: RunResult) -> None:
    """All stores hold the same bytes under the same names, and say so."""
    first, *others = results
    content = content_of(first.store_uri)
    assert any(name.startswith("data/") for name in content)
    for other in others:
        assert content_of(other.store_uri) == content
        assert other.content_id == first.content_id


def test_one_actor_three_actors_and_no_ray_at_all_make_the_same_store(sample_job: JobOf) -> None:
    """Byte for byte, on the sample corpus with its four bad files."""
    local = run(sample_job("local", "cluster.actors=1"))
    one, three = (
        run(sample_job(f"ray-{n}", "cluster.backend=ray", f"cluster.actors={n}")) for n in (1, 3)
    )
    same(local, one, three)
    assert local.quarantined == 4


def test_a_killed_actor_costs_nothing_but_time(noise_job: JobOf, tmp_path: Path) -> None:
    """SIGKILL in the middle of a unit: its units are made again by another process."""
    pids = tmp_path / "pids"
    pids.mkdir()
    job = noise_job("killed", source={"open_s": 0.05}, decoder={"pids": str(pids)}, cluster=ray(1))
    killed: list[int] = []

    def kill() -> None:
        deadline = time.monotonic() + 60
        while not killed and time.monotonic() < deadline:
            killed.extend(int(file.name) for file in list(pids.iterdir())[:1])
            time.sleep(0.02)
        assert killed[0] != os.getpid()
        os.kill(killed[0], signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    result = run(job)
    killer.join()
    assert len(list(pids.iterdir())) == 2, "one process took over from the other"
    assert result.done["samples"] == 24
    same(run(noise_job("whole")), result)


def test_an_asset_that_kills_ends_in_quarantine_alone(noise_job: JobOf) -> None:
    """A segfault in the decoder: it is found, and all its neighbours are tokenized."""
    killers = {"picture-0006": "segfault"}
    small = {"source": {"count": 8}, "shards": {"unit_assets": 4}}
    results = [
        run(noise_job(name, **small, decoder={"faults": killers}, cluster=ray(n)))
        for name, n in (("one", 1), ("two", 2))
    ]
    found = {key: (reason, error) for key, reason, error in results[0].quarantine}
    text = "killed its worker process, alone and repeatedly"
    assert found == dict.fromkeys(killers, ("killed_worker", text))
    assert results[0].done["samples"] == 7
    same(*results)


def test_an_asset_that_kills_once_is_not_accused(noise_job: JobOf, tmp_path: Path) -> None:
    """A node that failed looks the same from afar; the second attempt shows the difference."""
    once = tmp_path / "once"
    once.mkdir()
    flaky = {"faults": {"picture-0003": "exit"}, "once": str(once)}
    result = run(noise_job("flaky", decoder=flaky, cluster=ray(2)))
    assert (result.quarantined, result.done["samples"]) == (0, 24)
    same(run(noise_job("whole")), result)


def test_kills_and_actors_leave_no_trace_in_what_is_measured(
    noise_job: JobOf, tmp_path: Path
) -> None:
    """The same samples with the same figures, from an attempt that was begun anew."""
    sections = {"tokenizer": {"kind": "patch_vq"}, "limits": {"min_psnr_db": 1}}
    faults = {"faults": {"picture-0003": "kill", "picture-0014": "exit"}, "once": str(tmp_path)}
    killed = run(noise_job("killed", decoder=faults, cluster=ray(3), **sections))
    quiet = run(noise_job("quiet", **sections))
    same(quiet, killed)
    assert {"picture-0003", "picture-0014"} <= {file.name for file in tmp_path.iterdir()}
    told, wanted = (
        {
            file.name: {name: value[name] for name in ("checks", "entropy", "statistics")}
            for file in Path(result.store_uri, "receipts").iterdir()
            for value in [json.loads(file.read_text())]
        }
        for result in (killed, quiet)
    )
    assert told == wanted
    assert all(len(value["checks"]["samples"]) == 4 for value in told.values())
    assert killed.checks == quiet.checks


def test_a_passing_failure_of_storage_is_tried_again(noise_job: JobOf, tmp_path: Path) -> None:
    """The error keeps its kind on its way from the actor, so the pool knows what it is."""
    once = tmp_path / "once"
    once.mkdir()
    source = {"count": 6, "faults": {"picture-0003": "transient"}, "once": str(once)}
    result = run(noise_job("flaky", source=source, cluster=ray(1)))
    assert (result.quarantined, result.done["samples"]) == (0, 6)


def test_what_loading_raises_is_the_jobs_error_and_no_lost_actor(
    noise_job: JobOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With its own type, message and path, from the first actors: none is tried after them."""
    started: list[int] = []
    start = RayBackend.start

    def noting(backend: RayBackend, actor: int) -> None:
        started.append(actor)
        start(backend, actor)

    monkeypatch.setattr(RayBackend, "start", noting)
    with pytest.raises(CheckpointError, match=r"lacks keys: means\.weight") as caught:
        run_job(noise_job(tokenizer={"loads": False}, cluster=ray(2)), observer=SilentObserver())
    assert caught.value.path == "tokenizer"
    assert started == [1, 2]


def test_each_actor_has_a_gpu_of_its_own(noise_job: JobOf, tmp_path: Path) -> None:
    """Two logical GPUs, two actors; where torch sees none, they encode on the CPU."""
    devices = tmp_path / "devices"
    devices.mkdir()
    job = noise_job(
        "gpus",
        tokenizer={"gpus": 1.0, "devices": str(devices), "peers": 2},
        cluster=ray(0, cpus_per_actor=0.5),
    )
    result = run(job)
    told = sorted(file.read_text() for file in devices.iterdir())
    assert told == ["0 cpu", "1 cpu"]
    same(run(noise_job("cpus")), result)


def test_an_address_where_no_cluster_answers_is_the_jobs_error() -> None:
    """Said within seconds, in a process that has joined no cluster yet."""
    code = (
        "from tokenmill_infra.cluster import ray_backend\n"
        "from tokenmill_schemas.errors import JobError\n"
        "try:\n    ray_backend.connect('127.0.0.1:1', env={})\n"
        "except JobError as error:\n    print(error)"
    )
    told = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert told.stdout.startswith("cluster.address: no Ray cluster answers at 127.0.0.1:1")
