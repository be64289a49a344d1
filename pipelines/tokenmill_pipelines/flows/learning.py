"""Flows of what learns: one task per stage, a progress artifact, and the figures at the end."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from prefect import Flow, flow, task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE

from tokenmill_infra.observe import Observer, PlainObserver
from tokenmill_pipelines.flows.artifacts import ArtifactObserver

Stage = Callable[[Any], None]
LearningFlow = Flow[[dict[str, Any], str, bool], None]

#: The run that a flow is about, while it runs.
_RUN: ContextVar[Any] = ContextVar("tokenmill_learning_run")


@dataclass(frozen=True, slots=True)
class Learning:
    """A kind of job that learns, as a flow sees it.

    Attributes:
        name: of the flow, and of its artifacts.
        parse: from a job's table and the folder of its relative paths to the job.
        table: back from a job to its table.
        open_run: from a job, an observer and whether it goes on to a run that has done nothing.
        stages: what a run does, by name.
        tiles: a record's figures: label, value, and a remark.
    """

    name: str
    parse: Callable[[dict[str, Any], str], Any]
    table: Callable[[Any], dict[str, Any]]
    open_run: Callable[[Any, Observer, bool], AbstractContextManager[Any]]
    stages: Sequence[tuple[str, Stage]]
    tiles: Callable[[Any], list[tuple[str, str, str]]]


def flow_of(what: Learning) -> LearningFlow:
    """Return the flow of a kind of jobs."""

    @flow(name=what.name, persist_result=False)
    def learn(job: dict[str, Any], base: str = "", resume: bool = True) -> None:
        """Learn as a job says: its table as in a job file, and the folder of its relative paths.

        Scheduled, it goes on where the run before was stopped.
        """
        if _RUN.get(None) is not None:
            _run_tasks(what, _RUN.get())
            return
        with what.open_run(what.parse(job, base), PlainObserver(sys.stderr), resume) as run:
            token = _RUN.set(run)
            try:
                _run_tasks(what, run)
            finally:
                _RUN.reset(token)

    return learn


def run_prepared(learn: LearningFlow, what: Learning, run: Any) -> None:
    """Run a prepared run as a flow run that is named after its job."""
    token = _RUN.set(run)
    try:
        named = learn.with_options(flow_run_name=run.job.name)
        named(what.table(run.job), run.job.base, run.resume)
    finally:
        _RUN.reset(token)


def _run_tasks(what: Learning, run: Any) -> None:
    run.observer = ArtifactObserver(run.observer, key=what.name, description="steps done")
    for name, stage in what.stages:
        _stage_task(name, stage)()
    if run.record is not None:
        rows = [" | ".join(tile) for tile in what.tiles(run.record)]
        table = "\n".join(f"| {row} |" for row in ("what | how much | ", "---|---|---", *rows))
        create_markdown_artifact(f"{table}\n\nreport: `{run.report}`\n", key=f"{what.name}-report")


def _stage_task(name: str, stage: Stage) -> Callable[[], None]:
    """Return a task without parameters: a run is live state, which Prefect need not look at."""

    @task(name=name, cache_policy=NO_CACHE, persist_result=False)
    def run_one() -> None:
        run = _RUN.get()
        with run.observer.stage(name):
            stage(run)

    return run_one
