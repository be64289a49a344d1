"""The flow ``tokenize``: one task per stage, a progress artifact, and a report at the end.

A task is a stage and never a shard: a Prefect task run costs tens of milliseconds and rows in a
database, and the pool already knows which units are left.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any
from uuid import UUID

from prefect import flow, task
from prefect.artifacts import (
    create_markdown_artifact,
    create_progress_artifact,
    update_progress_artifact,
)
from prefect.cache_policies import NO_CACHE

from tokenmill_infra.observe import Observer
from tokenmill_pipelines.stages import STAGES, Run, run_stage

#: Seconds between two updates of the progress artifact.
EVERY_S = 5.0


class ArtifactObserver:
    """Passes everything on, and keeps a progress artifact of the encode stage."""

    def __init__(self, inner: Observer) -> None:
        self._inner = inner
        self._artifact: UUID | None = None
        self._said_at = float("-inf")

    def stage(self, name: str, /) -> AbstractContextManager[None]:
        """Pass on."""
        return self._inner.stage(name)

    def event(self, name: str, /, **facts: Any) -> None:
        """Pass on."""
        self._inner.event(name, **facts)

    def warn(self, message: str, /, **facts: Any) -> None:
        """Pass on."""
        self._inner.warn(message, **facts)

    def progress(
        self, done_assets: int, total_assets: int, *, samples: int = 0, **facts: Mapping[str, Any]
    ) -> None:
        """Pass on, and update the artifact now and then."""
        self._inner.progress(done_assets, total_assets, samples=samples, **facts)
        now = time.monotonic()
        finished = done_assets == total_assets
        if not finished and now - self._said_at < EVERY_S:
            return
        self._said_at = now
        share = 100.0 * done_assets / total_assets if total_assets else 0.0
        if self._artifact is None:
            made = create_progress_artifact(share, key="tokenize", description="assets done")
            self._artifact = made if isinstance(made, UUID) else None
        else:
            update_progress_artifact(self._artifact, share)


def _stage_task(name: str, stage: Callable[[Run], None]) -> Callable[[Run], None]:
    @task(name=name, cache_policy=NO_CACHE, persist_result=False)
    def run_one(run: Run) -> None:
        run_stage(run, name, stage)

    return run_one


@flow(name="tokenize", validate_parameters=False, persist_result=False)
def tokenize_flow(run: Run) -> None:
    """Run the stages of a prepared run, one task each."""
    run.observer = ArtifactObserver(run.observer)
    for name, stage in STAGES:
        _stage_task(name, stage)(run)
    create_markdown_artifact(summary_of(run), key="tokenize-report")


def summary_of(run: Run) -> str:
    """Return the run's report in Markdown."""
    from tokenmill_pipelines.report import markdown_summary
    from tokenmill_pipelines.reporting import make_record

    return markdown_summary(make_record(run, pictures=False))


def tokenize(run: Run) -> None:
    """Run the flow, named after the job."""
    named = tokenize_flow.with_options(flow_run_name=run.assembly.job.name)
    named(run)
