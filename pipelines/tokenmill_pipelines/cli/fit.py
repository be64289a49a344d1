"""``tokenmill fit``: a tokenizer of this project learns its weights."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from tokenmill_pipelines.cli.guard import guard
from tokenmill_pipelines.cli.options import Debug, JobFile, Json, Sets, show


def fit(
    job: JobFile,
    sets: Sets = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the newest checkpoint, if there is one.")
    ] = False,
    prefect: Annotated[
        bool, typer.Option("--prefect", help="Run as a Prefect flow, also without an API.")
    ] = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Learn a tokenizer's weights, try them on held-out assets, and write their model card."""
    again = "the same command with --resume"
    with guard(as_json=as_json, debug=debug, again=again) as observer:
        from tokenmill_infra.cluster import limit_threads
        from tokenmill_pipelines.fit.config import read_fit_job
        from tokenmill_schemas.job import ClusterConfig

        read = read_fit_job(job, overrides=tuple(sets or ()))
        # Before numpy is loaded, which reads it once.
        limit_threads(ClusterConfig(torch_threads=read.machine.threads))
        from tokenmill_pipelines.fit.run import run_fit_job
        from tokenmill_pipelines.flows.settings import configured

        result = run_fit_job(
            read, observer=observer, resume=resume, prefect=prefect or configured()
        )
        show(asdict(result), "fitted", as_json=as_json)
