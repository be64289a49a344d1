"""``make demo``: the sample corpora through the whole way, and what came of it on the terminal.

Pictures, videos and shapes go through the same flow into a store each; a batch of each is fed.
"""

from __future__ import annotations

import os
import shutil
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from tokenmill_infra.cluster import limit_threads
from tokenmill_infra.observe import choose
from tokenmill_pipelines.cli import leave
from tokenmill_schemas.job import Job, read_job

if TYPE_CHECKING:
    from tokenmill.store import Store
    from tokenmill_pipelines.run import RunResult

ROOT = Path(__file__).parents[2]
#: What is tokenized, and its job.
JOBS = {"pictures": "demo.toml", "videos": "demo_videos.toml", "shapes": "demo_shapes.toml"}
BATCH = 8


def main() -> int:
    """Run the demo jobs through Prefect and Ray, verify their stores, feed a batch of each."""
    os.environ.setdefault("PREFECT_HOME", str(ROOT / ".prefect"))
    console = Console()
    jobs = {name: read_job(ROOT / "pipelines" / "jobs" / file) for name, file in JOBS.items()}
    limit_threads(jobs["pictures"].cluster)  # before numpy is loaded, which reads it once
    from tokenmill_pipelines.flows import api

    start = time.monotonic()
    with api():
        sound = [_run(console, name, job) for name, job in jobs.items()]
    console.print(f"\nall three, with Prefect and Ray starting: {time.monotonic() - start:.0f} s")
    return 0 if all(sound) else 1


def _run(console: Console, name: str, job: Job) -> bool:
    """Run one job and show what it made; returns whether its store is sound."""
    from tokenmill.store import Store
    from tokenmill.store.verify import verify_store
    from tokenmill_pipelines.jobs import run_job

    console.rule(f"[bold]{name}[/]: {job.tokenizer.kind}", align="left")
    shutil.rmtree(ROOT / "stores" / Path(job.store.uri).name, ignore_errors=True)
    result = run_job(job, observer=choose(json=False, stream=sys.stderr), prefect=True)
    store = Store.open(result.store_uri)
    report = verify_store(store, store.snapshot())
    _show(console, result)
    verdict = "[green]sound[/]" if not report.problems else f"[red]{'; '.join(report.problems)}[/]"
    console.print(f"verify: {verdict}, {report.checked_bytes:,} bytes read back")
    _show_batch(console, store)
    console.print(f"store:  {result.store_uri}", soft_wrap=True)
    if result.report:
        console.print(f"report: {result.report}", soft_wrap=True)
    return not report.problems


def _show(console: Console, result: RunResult) -> None:
    table = Table(title="What was done", title_justify="left", show_header=False)
    table.add_column()
    table.add_column(justify="right")
    for name in ("assets", "samples", "tokens", "bytes", "shards"):
        table.add_row(name, f"{result.totals[name]:,}")
    table.add_row("quarantined", str(result.quarantined))
    for key, reason, _ in result.quarantine:
        table.add_row(f"  {key}", reason)
    stages = ", ".join(f"{stage} {seconds:.1f}" for stage, seconds in result.wall_s.items())
    table.add_row("seconds", stages)
    console.print(table)


def _show_batch(console: Console, store: Store) -> None:
    import numpy as np

    from tokenmill.feed import Feed

    feed = Feed(store, batch_size=BATCH, seed=0, columns=("sample_id", "caption"))
    batch = next(iter(feed))
    console.print("The first training batch")
    for name, values in batch.items():
        if isinstance(values, np.ndarray) and values.ndim > 1:
            console.print(
                f"  {name}: {values.dtype}{list(values.shape)} {values[0].ravel()[:8]} ..."
            )
        else:
            console.print(f"  {name}: {values}", overflow="ellipsis", no_wrap=True)


if __name__ == "__main__":
    leave(main())
