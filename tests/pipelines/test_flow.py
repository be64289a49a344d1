"""The Prefect flow on a server of its own, which the project itself starts and ends."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.pipelines.conftest import ask

from tokenmill.testing.faults import content_of
from tokenmill_infra.observe import SilentObserver
from tokenmill_pipelines.jobs import run_job
from tokenmill_pipelines.stages import STAGES
from tokenmill_schemas.errors import JobError, QualityError
from tokenmill_schemas.job import Job

pytestmark = pytest.mark.prefect

JobOf = Callable[..., Job]


def test_a_run_is_a_flow_run_of_the_same_stages(api: str, sample_job: JobOf) -> None:
    """Task runs are the stages in their order, artifacts tell of them, and the store is equal."""
    plain = run_job(sample_job("plain"), observer=SilentObserver())
    flowed = run_job(sample_job("flowed"), observer=SilentObserver(), prefect=True)
    assert content_of(flowed.store_uri) == content_of(plain.store_uri)
    assert flowed.content_id == plain.content_id
    assert set(flowed.wall_s) == set(plain.wall_s)
    (run,) = [run for run in ask(api, "flow_runs") if run["name"] == "tiny"]
    assert run["state_type"] == "COMPLETED"
    tasks = ask(api, "task_runs", run=run["id"])
    assert [task["name"].rsplit("-", 1)[0] for task in tasks] == [name for name, _ in STAGES]
    assert {task["state_type"] for task in tasks} == {"COMPLETED"}
    artifacts = {artifact["key"]: artifact for artifact in ask(api, "artifacts", run=run["id"])}
    assert artifacts["tokenize"]["data"] == 100.0
    assert "36" in artifacts["tokenize-report"]["data"]


def test_a_stage_that_fails_fails_its_flow_run_with_its_own_error(
    api: str, noise_job: JobOf
) -> None:
    """The caller sees what was raised; the server, which stage it was."""
    with pytest.raises(JobError, match="lists no assets"):
        run_job(noise_job(source={"count": 0}), observer=SilentObserver(), prefect=True)
    run = ask(api, "flow_runs")[-1]
    assert (run["name"], run["state_type"]) == ("noise", "FAILED")
    task = ask(api, "task_runs")[-1]
    assert (task["name"].rsplit("-", 1)[0], task["state_type"]) == ("list", "FAILED")


def test_a_breach_of_a_limit_fails_the_flow_run_before_its_commit(
    api: str, noise_job: JobOf
) -> None:
    """The server has the limit's name and the figures, and no task of a commit."""
    broken = {"tokenizer": {"kind": "patch_vq"}, "limits": {"min_psnr_db": 90}}
    tasks = len(ask(api, "task_runs"))
    with pytest.raises(QualityError, match=r"below limits\.min_psnr_db = 90"):
        run_job(noise_job(**broken), observer=SilentObserver(), prefect=True)
    run = ask(api, "flow_runs")[-1]
    assert (run["state_type"], "min_psnr_db = 90" in run["state"]["message"]) == ("FAILED", True)
    states = [task["state_type"] for task in ask(api, "task_runs")[tasks:]]
    assert states == ["COMPLETED", "COMPLETED", "COMPLETED", "FAILED"]


def nothing() -> None:
    """Do nothing."""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows forks nothing")
def test_what_is_forked_after_a_flow_ends_well(api: str) -> None:
    """Torch takes a worker's exit code of 1 for a crash; Prefect's threads are not in the child."""
    from prefect.logging.handlers import APILogWorker

    assert APILogWorker.instance().drain() is not None, "a service of Prefect was at work here"
    forked = multiprocessing.get_context("fork").Process(target=nothing)
    forked.start()
    forked.join(60)
    assert forked.exitcode == 0


def test_the_servers_home_is_the_one_it_was_given(api: str) -> None:
    """Its database and its log lie there, and nowhere else."""
    home = Path(os.environ["PREFECT_HOME"])
    assert {"prefect.db", "server.log"} <= {file.name for file in home.iterdir()}
    assert api.startswith("http://127.0.0.1:")


def test_a_server_ends_with_a_run_that_was_killed(api: str) -> None:
    """Nobody is left to end it; it sees that and goes."""
    code = (
        "import os, pathlib, time\n"
        "from tokenmill_pipelines.flows.server import temporary_server\n"
        "with temporary_server(pathlib.Path(os.environ['PREFECT_HOME'])) as url:\n"
        "    print(url, flush=True)\n"
        "    time.sleep(600)"
    )
    run = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    with run:
        url = run.stdout.readline().strip() if run.stdout else ""
        assert ask(url, "flows") == ask(api, "flows"), "another server on the same home"
        run.kill()
    deadline = time.monotonic() + 30
    while answers(url) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not answers(url)
    assert answers(api)


def answers(url: str) -> bool:
    """Whether a server is there."""
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=5):
            return True
    except OSError:
        return False
