"""``tokenmill train``: a reference generator learns from a store."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from tokenmill_pipelines.cli.guard import guard
from tokenmill_pipelines.cli.options import Debug, JobFile, Json, Sets, show


def train(
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
    """Train a small reference generator on a store's tokens, and show what it draws."""
    again = "the same command with --resume"
    with guard(as_json=as_json, debug=debug, again=again) as observer:
        from tokenmill_infra.cluster import limit_threads
        from tokenmill_pipelines.train.config import read_train_job
        from tokenmill_schemas.job import ClusterConfig

        read = read_train_job(job, overrides=tuple(sets or ()))
        # Before numpy is loaded, which reads it once.
        limit_threads(ClusterConfig(torch_threads=read.cluster.torch_threads))
        from tokenmill_pipelines.flows.settings import configured
        from tokenmill_pipelines.train.run import run_train_job

        result = run_train_job(
            read, observer=observer, resume=resume, prefect=prefect or configured()
        )
        show(asdict(result), "trained", as_json=as_json)
