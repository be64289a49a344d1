"""A training on Ray Train, as a Prefect flow and onto an object store: the same training."""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from tests.pipelines.conftest import ask
from tests.pipelines.train.conftest import JobOf, trained

from tokenmill_infra.observe import SilentObserver
from tokenmill_infra.storage import open_storage
from tokenmill_pipelines.train import checkpoint
from tokenmill_pipelines.train.run import run_train_job


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_two_workers_of_ray_train_learn_what_one_does(train_job: JobOf) -> None:
    """The loss is the same up to the order of sums."""
    pytest.importorskip("pandas", reason="ray.train imports it")
    ray = ("cluster.backend=ray", "cluster.workers=2", "cluster.gpus_per_worker=0")
    alone = trained(train_job("alone", "optimiser.steps=8"))
    both = trained(train_job("ray", "optimiser.steps=8", *ray))
    assert both.loss == pytest.approx(alone.loss, rel=1e-5)
    assert [leg["workers"] for leg in both.legs] == [2]
    assert Path(both.report).exists()


@pytest.mark.s3
def test_checkpoints_and_the_report_may_lie_on_an_object_store(
    s3_root: str, train_job: JobOf
) -> None:
    """A training that writes there is resumed from there, and is the one on a disk."""
    steps = ("optimiser.steps=8", "output.checkpoint_every=4")
    there = train_job("there", *steps, f"output.uri={s3_root}")
    here = trained(train_job("here", *steps))
    result = trained(there)
    assert result.loss == here.loss
    assert result.report.startswith(s3_root)
    assert trained(there, resume=True).resumed_from == 8
    storage = open_storage(s3_root)
    assert checkpoint.steps_of(storage) == [4, 8]
    assert len(list(storage.list("reports"))) == 2


def as_flow(job: Any) -> Any:
    """Train as a flow, in a new process: Prefect reads its settings once in each."""
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn) as pool:
        return pool.submit(run_train_job, job, observer=SilentObserver(), prefect=True).result()


@pytest.mark.prefect
def test_a_training_is_a_flow_run_of_its_stages(api: str, train_job: JobOf) -> None:
    """Tasks are the stages, artifacts tell of them, and the loss is that of a plain run."""
    plain = trained(train_job("plain", "optimiser.steps=4"))
    flowed = as_flow(train_job("flowed", "optimiser.steps=4"))
    assert flowed.loss == plain.loss
    (run,) = [run for run in ask(api, "flow_runs") if run["name"] == "fashion_mnist"]
    assert run["state_type"] == "COMPLETED"
    tasks = [task["name"].rsplit("-", 1)[0] for task in ask(api, "task_runs", run=run["id"])]
    assert tasks == ["look", "train", "report"]
    artifacts = {artifact["key"]: artifact for artifact in ask(api, "artifacts", run=run["id"])}
    assert artifacts["train"]["data"] == 100.0
    assert flowed.report in artifacts["train-report"]["data"]
