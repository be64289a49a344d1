"""The flow ``train``: one task per stage, a progress artifact, and the figures at the end."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

from prefect import flow, task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE

from tokenmill_infra.observe import PlainObserver
from tokenmill_pipelines.flows.artifacts import ArtifactObserver
from tokenmill_pipelines.train.config import parse_train_job, train_job_table
from tokenmill_pipelines.train.page import tiles
from tokenmill_pipelines.train.run import STAGES, Stage, TrainRun, open_train_run

#: The run that the flow is about, while it runs.
_RUN: ContextVar[TrainRun] = ContextVar("tokenmill_train_run")


@flow(name="train", persist_result=False)
def train_flow(job: dict[str, Any], base: str = "", resume: bool = True) -> None:
    """Train as a job says: its table as in a job file, and the folder of its relative paths.

    Scheduled, it goes on where the run before was stopped.
    """
    if _RUN.get(None) is not None:
        _run_tasks(_RUN.get())
        return
    parsed = parse_train_job(job, base=base)
    with open_train_run(parsed, PlainObserver(sys.stderr), resume=resume) as run:
        token = _RUN.set(run)
        try:
            _run_tasks(run)
        finally:
            _RUN.reset(token)


def run_as_flow(run: TrainRun) -> None:
    """Run a prepared run as a flow run that is named after its job."""
    token = _RUN.set(run)
    try:
        named = train_flow.with_options(flow_run_name=run.job.name)
        named(train_job_table(run.job), run.job.base, run.resume)
    finally:
        _RUN.reset(token)


def _run_tasks(run: TrainRun) -> None:
    run.observer = ArtifactObserver(run.observer, key="train", description="steps done")
    for name, stage in STAGES:
        _stage_task(name, stage)()
    if run.record is not None:
        rows = [f"| {label} | {value} | {remark} |" for label, value, remark in tiles(run.record)]
        table = "\n".join(["| what | how much | |", "|---|---|---|", *rows])
        create_markdown_artifact(f"{table}\n\nreport: `{run.report}`\n", key="train-report")


def _stage_task(name: str, stage: Stage) -> Callable[[], None]:
    """Return a task without parameters: a run is live state, which Prefect need not look at."""

    @task(name=name, cache_policy=NO_CACHE, persist_result=False)
    def run_one() -> None:
        run = _RUN.get()
        with run.observer.stage(name):
            stage(run)

    return run_one
