"""The flow ``tokenize``: one task per stage, a progress artifact, and a report at the end.

A task is a stage and never a shard: a Prefect task run costs tens of milliseconds and rows in a
database, and the pool already knows which units are left.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

from prefect import flow, task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE

from tokenmill_infra.observe import Observer, PlainObserver
from tokenmill_pipelines.flows.artifacts import ArtifactObserver
from tokenmill_pipelines.flows.events import announce
from tokenmill_pipelines.flows.slots import store_slot
from tokenmill_pipelines.report import markdown_summary
from tokenmill_pipelines.reporting import make_record
from tokenmill_pipelines.run import Run, open_run
from tokenmill_pipelines.serving import slot_name, store_address
from tokenmill_pipelines.stages import STAGES, run_stage
from tokenmill_schemas.job import Job, job_table, parse_job


def _stage_task(name: str, stage: Callable[[Run], None]) -> Callable[[], None]:
    """Return a task without parameters: a `Run` is live state, which Prefect need not look at."""

    @task(name=name, cache_policy=NO_CACHE, persist_result=False)
    def run_one() -> None:
        run_stage(_RUN.get(), name, stage)

    return run_one


#: The run that the flow is about, while it runs.
_RUN: ContextVar[Run] = ContextVar("tokenmill_run")


@flow(name="tokenize", persist_result=False)
def tokenize_flow(job: dict[str, Any], base: str = "") -> None:
    """Run a job: its table as in a job file, and the folder that its relative paths start from.

    It runs at once, whoever else writes to the store; scheduled runs keep away while it does.
    """
    parsed = parse_job(job, base=base)
    with store_slot(slot_name(store_address(parsed))):
        if _RUN.get(None) is not None:
            _run_tasks(_RUN.get())
        else:
            run_tasks(parsed, PlainObserver(sys.stderr))


def run_tasks(job: Job, observer: Observer) -> None:
    """Run a job's stages as tasks of the flow run that this is called in."""
    with open_run(job, observer) as run:
        token = _RUN.set(run)
        try:
            _run_tasks(run)
        finally:
            _RUN.reset(token)


def _run_tasks(run: Run) -> None:
    run.observer = ArtifactObserver(run.observer, key="tokenize", description="assets done")
    for name, stage in STAGES:
        _stage_task(name, stage)()
        if name == "commit":
            announce(run)  # at once: a report that fails takes nothing back
    summary = markdown_summary(make_record(run, pictures=False))
    create_markdown_artifact(summary, key="tokenize-report")


def tokenize(run: Run) -> None:
    """Run a prepared run as a flow run that is named after its job."""
    job = run.assembly.job
    token = _RUN.set(run)
    try:
        tokenize_flow.with_options(flow_run_name=job.name)(job_table(job), job.base)
    finally:
        _RUN.reset(token)
