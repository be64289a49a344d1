"""A node of the cluster dies with the actor on it: the job completes on what is left."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.conftest import RAY_ENV

from tokenmill.store import Store
from tokenmill.store.verify import verify_store
from tokenmill.testing.faults import content_of
from tokenmill_infra.observe import SilentObserver
from tokenmill_pipelines.jobs import run_job
from tokenmill_schemas.job import Job, job_table

JobOf = Callable[..., Job]
ROOT = Path(__file__).parents[2]
NODES = Path(__file__).with_name("nodes.py")


@pytest.mark.ray
def test_a_killed_node_costs_nothing_but_time(noise_job: JobOf, tmp_path: Path) -> None:
    """SIGKILL of every process of one of two nodes in the middle of a unit: the same bytes."""
    pids = tmp_path / "pids"
    pids.mkdir()
    cluster = {"backend": "ray", "actors": 2, "cpus_per_actor": 1.0}
    slow = {"source": {"open_s": 0.1}, "shards": {"unit_assets": 4}}
    job = noise_job("dying", **slow, decoder={"pids": str(pids)}, cluster=cluster)
    file = tmp_path / "job.json"
    file.write_text(json.dumps(job_table(job)))
    paths = {"PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    done = subprocess.run(
        [sys.executable, str(NODES), str(file), str(pids)],
        capture_output=True,
        text=True,
        check=False,
        timeout=180,
        env=os.environ | RAY_ENV | paths,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    told = json.loads(done.stdout.splitlines()[-1])
    assert len(told["killed"]) == 1, "one actor was on the node that died"
    assert (told["quarantined"], told["done"]["samples"]) == (0, 24)
    whole = run_job(noise_job("whole", shards={"unit_assets": 4}), observer=SilentObserver())
    assert content_of(job.store.uri) == content_of(whole.store_uri)
    store = Store.open(job.store.uri)
    assert store.snapshot().content_id == whole.content_id
    assert verify_store(store, store.snapshot()).problems == ()
    assert not list(Path(job.store.uri, "_running").glob("*"))
