"""``tokenmill serve``: the jobs of a folder on their schedules."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tokenmill_pipelines.cli import output
from tokenmill_pipelines.cli.guard import guard

if TYPE_CHECKING:
    from tokenmill_pipelines.flows.deployments import Served

COLUMNS = ("job", "store", "cron", "timezone", "next run", "deployment")


def serve(
    folder: Annotated[
        Path, typer.Argument(metavar="JOBS_DIR", help="A folder of job files (*.toml).")
    ],
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON document, and nothing else.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Run the jobs of a folder on their schedules until interrupted, one run per store at a time.

    Serves those whose [schedule] sets cron, as Prefect deployments: on the server of
    PREFECT_API_URL, or on one of its own.
    """
    with guard(as_json=as_json, debug=debug):
        from tokenmill_pipelines.flows import serve_jobs
        from tokenmill_pipelines.flows.settings import JSON_LINES
        from tokenmill_pipelines.serving import scheduled_jobs

        if as_json:
            os.environ[JSON_LINES] = "1"

        def ready(api: str, served: Sequence[Served]) -> None:
            _show(_describe(api, served), as_json=as_json)

        serve_jobs(scheduled_jobs(folder), ready=ready)


def _describe(api: str, served: Sequence[Served]) -> dict[str, Any]:
    return {
        "api": api,
        "jobs": [
            {
                "job": one.entry.job.name,
                "file": str(one.entry.file),
                "store": one.entry.store,
                "cron": one.entry.job.schedule.cron,
                "timezone": one.entry.job.schedule.timezone,
                "next run": one.next_run.isoformat(timespec="minutes"),
                "deployment": one.deployment,
            }
            for one in served
        ],
    }


def _show(value: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        output.document(value)
    else:
        output.table("", COLUMNS, [[row[name] for name in COLUMNS] for row in value["jobs"]])
        output.facts([("Prefect API", value["api"]), ("serving", "until Ctrl-C")])
    # Nothing else is printed for hours, perhaps, and who reads may wait for this.
    print(end="", flush=True)
