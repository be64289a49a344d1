"""Serving jobs: a Prefect deployment each, and a runner that starts what is due.

A deployment is called ``tokenize/<job>`` and can be run by hand (``prefect deployment run``). What
was due while nobody served is not caught up on: the next run does the work of all.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID

import httpx
from prefect.client.orchestration import PrefectClient, get_client
from prefect.runner import Runner
from prefect.schedules import Cron
from prefect.server.schemas.schedules import CronSchedule
from prefect.types.entrypoint import EntrypointType
from pydantic import ValidationError

from tokenmill_infra.storage.paths import without_credentials
from tokenmill_pipelines.flows.scheduled import tokenize_file
from tokenmill_pipelines.flows.server import PrefectServerError
from tokenmill_pipelines.serving import ServedJob
from tokenmill_schemas.errors import JobError

#: Seconds between two looks whether the runner has come up, so that it can be ended.
LOOK_S = 0.05


@dataclass(frozen=True, slots=True)
class Served:
    """A job that is served: its deployment, and when its next run is due."""

    entry: ServedJob
    deployment: str
    next_run: datetime


def serve(jobs: Sequence[ServedJob], ready: Callable[[Sequence[Served]], None]) -> None:
    """Serve jobs until the main thread is interrupted; then end their runs and pause them.

    The runner has a thread of its own: it would take over the signals of the main thread. Its runs
    are deaf to a Ctrl-C, which a terminal sends to all processes; the runner ends them in order.

    Raises:
        JobError: Prefect refuses a job's schedule.
        PrefectServerError: the API does not answer, or has not for some while.
    """
    service = _Service(jobs, ready)
    with ThreadPoolExecutor(1, thread_name_prefix="tokenmill-serve") as thread:
        running = thread.submit(_run_deaf, service)
        try:
            running.result()
        except (httpx.TransportError, RuntimeError, ExceptionGroup) as error:
            # The runner gives up when its last three polls have failed.
            api = without_credentials(os.environ["PREFECT_API_URL"])
            raise PrefectServerError(
                f"the Prefect API at {api} does not answer: {error}"
            ) from error
        finally:
            service.stop()


def _run_deaf(service: _Service) -> None:
    # A process starts with the blocked signals of the thread that starts it.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    asyncio.run(service.run())


@dataclass(slots=True)
class _Service:
    jobs: Sequence[ServedJob]
    ready: Callable[[Sequence[Served]], None]
    _loop: asyncio.AbstractEventLoop | None = None
    _stop: asyncio.Event = field(default_factory=asyncio.Event)

    def stop(self) -> None:
        """Let `run` end; may be called from any thread."""
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._stop.set)

    async def run(self) -> None:
        """Register the jobs, then start what is due until `stop` is called."""
        self._loop = asyncio.get_running_loop()
        for entry in self.jobs:
            await _next_run(entry)  # all schedules are understood before the first is served
        # No limit: a run that waits for its turn would be queued, and then start much too late.
        runner = Runner(name="tokenmill", limit=None, pause_on_shutdown=True)
        async with get_client() as client:
            names = [await _register(runner, client, entry) for entry in self.jobs]
        rows = zip(self.jobs, names, strict=True)
        self.ready([Served(entry, name, await _next_run(entry)) for entry, name in rows])
        running = asyncio.create_task(runner.start())
        stopping = asyncio.create_task(self._stop.wait())
        await asyncio.wait({running, stopping}, return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        while not running.done():
            if runner.started:
                await runner.astop()
                break
            await asyncio.sleep(LOOK_S)
        await running


async def _next_run(entry: ServedJob) -> datetime:
    """Return when a job is due next, as Prefect's scheduler sees it.

    Raises:
        JobError: Prefect does not take the schedule.
    """
    schedule = entry.job.schedule
    try:
        cron = CronSchedule(cron=schedule.cron, timezone=schedule.timezone)
        (due,) = await cron.get_dates(1)
    except (ValidationError, ValueError) as error:
        reason = str(error).splitlines()[0]
        text = f"{entry.file}: schedule: {schedule.cron!r} is never due or not understood: {reason}"
        raise JobError(text, path="schedule.cron") from error
    return due


async def _register(runner: Runner, client: PrefectClient, entry: ServedJob) -> str:
    """Make or update a job's deployment; returns its name."""
    job = entry.job
    deployment = await tokenize_file.ato_deployment(
        job.name,
        schedule=Cron(job.schedule.cron, timezone=job.schedule.timezone),
        parameters={"job_file": str(entry.file)},
        description=f"{entry.file} into {entry.store}",
        tags=["tokenmill"],
        paused=True,
        # A module and not a file, which would be loaded under another name, away from its package.
        entrypoint_type=EntrypointType.MODULE_PATH,
    )
    identifier: UUID = await runner.aadd_deployment(deployment)
    # Pausing drops the runs that came due while nobody served; else they would all start now.
    await client.pause_deployment(identifier)
    await client.resume_deployment(identifier)
    return f"{tokenize_file.name}/{job.name}"
