"""A fit as a Prefect flow and onto an object store: the same weights."""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace

import pytest
from tests.pipelines.conftest import ask
from tests.pipelines.fit.conftest import JobOf, fitted

from tokenmill_infra.observe import SilentObserver
from tokenmill_infra.storage import open_storage
from tokenmill_pipelines.fit.config import FitJob
from tokenmill_pipelines.fit.run import FitResult, run_fit_job


@pytest.mark.s3
def test_a_fit_may_lie_on_an_object_store(s3_root: str, fit_job: JobOf) -> None:
    """Weights are tried from there, and are those of a disk."""
    here = fitted(fit_job("here"))
    job = fit_job("there")
    there = fitted(replace(job, output=replace(job.output, uri=s3_root)))
    assert there.sha256 == here.sha256
    assert there.scores == here.scores
    assert there.weights == f"{s3_root.rstrip('/')}/tiny.safetensors"
    assert open_storage(s3_root).exists("tiny.md")


def as_flow(job: FitJob) -> FitResult:
    """Fit as a flow, in a new process: Prefect reads its settings once in each."""
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn) as pool:
        return pool.submit(run_fit_job, job, observer=SilentObserver(), prefect=True).result()


@pytest.mark.prefect
def test_a_fit_is_a_flow_run_of_its_stages(api: str, fit_job: JobOf) -> None:
    """Tasks are the stages, artifacts tell of them, and the weights are those of a plain run."""
    plain = fitted(fit_job("plain", name="flowed"))
    flowed = as_flow(fit_job("flowed", name="flowed"))
    assert flowed.scores == plain.scores
    assert flowed.sha256 == plain.sha256
    (run,) = (run for run in ask(api, "flow_runs") if run["name"] == "flowed")
    assert run["state_type"] == "COMPLETED"
    tasks = [task["name"].rsplit("-", 1)[0] for task in ask(api, "task_runs", run=run["id"])]
    assert tasks == ["gather", "fit", "weights", "try", "report"]
    artifacts = {each["key"]: each for each in ask(api, "artifacts", run=run["id"])}
    assert flowed.report in artifacts["fit-report"]["data"]
    assert "PSNR" in artifacts["fit-report"]["data"]
    assert artifacts["fit"]["data"] == 100.0
