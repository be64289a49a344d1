"""Prefect: a run's stages as the tasks of a flow run, on a server of the user's or a quiet one."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from tokenmill_infra.storage.paths import without_credentials
from tokenmill_pipelines.flows.forks import mend_forks
from tokenmill_pipelines.flows.server import temporary_server
from tokenmill_pipelines.flows.settings import configure, configured, home

if TYPE_CHECKING:
    from tokenmill_pipelines.fit.run import FitRun
    from tokenmill_pipelines.flows.deployments import Served
    from tokenmill_pipelines.run import Run
    from tokenmill_pipelines.serving import ServedJob
    from tokenmill_pipelines.train.run import TrainRun

__all__ = ["api", "configured", "run_fit_flow", "run_flow", "run_train_flow", "serve_jobs"]


def run_flow(run: Run) -> None:
    """Run all stages as a Prefect flow run.

    Raises:
        PrefectServerError: no API is configured and no temporary server came up.
    """
    with api():
        from tokenmill_pipelines.flows.tokenize import tokenize

        tokenize(run)


def run_train_flow(run: TrainRun) -> None:
    """Run all stages of a training as a Prefect flow run.

    Raises:
        PrefectServerError: no API is configured and no temporary server came up.
    """
    with api():
        from tokenmill_pipelines.flows.train import run_as_flow

        run_as_flow(run)


def run_fit_flow(run: FitRun) -> None:
    """Run all stages of a fit as a Prefect flow run.

    Raises:
        PrefectServerError: no API is configured and no temporary server came up.
    """
    with api():
        from tokenmill_pipelines.flows.fit import run_as_flow

        run_as_flow(run)


def serve_jobs(
    jobs: Sequence[ServedJob], *, ready: Callable[[str, Sequence[Served]], None]
) -> None:
    """Run jobs on their schedules until the main thread is interrupted.

    ``ready`` is told the API's URL and what is served, when it is.

    Raises:
        JobError: Prefect refuses a job's schedule; nothing is served then.
        PrefectServerError: no API is configured and no server of ours came up, or the API does not
            answer, or has not for some while.
    """
    with api(lasting=True):
        from tokenmill_pipelines.flows.deployments import serve

        url = without_credentials(os.environ["PREFECT_API_URL"])
        serve(jobs, lambda served: ready(url, served))


@contextlib.contextmanager
def api(*, lasting: bool = False) -> Iterator[None]:
    """Have a Prefect API inside the block: the configured one, or a quiet server for it alone.

    Several runs inside one block share the server. ``lasting`` asks for one that also schedules.

    Raises:
        PrefectServerError: no API is configured and no temporary server came up.
    """
    configure()
    mend_forks()
    if configured():
        yield
        return
    with temporary_server(home(), lasting=lasting) as url:
        os.environ["PREFECT_API_URL"] = url
        try:
            yield
        finally:
            _drain()
            del os.environ["PREFECT_API_URL"]


def _drain() -> None:
    """Send what Prefect's threads still hold while there is a server to take it."""
    from prefect.events.worker import EventsWorker
    from prefect.logging.handlers import APILogWorker

    for worker in (APILogWorker, EventsWorker):
        worker.drain_all(timeout=10)
