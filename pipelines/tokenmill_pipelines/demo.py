"""``make demo``: the sample corpus through the whole way, and what came of it on the terminal."""

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
from tokenmill_schemas.job import read_job

if TYPE_CHECKING:
    from tokenmill.store import Store
    from tokenmill_pipelines.run import RunResult

ROOT = Path(__file__).parents[2]
JOB = ROOT / "pipelines" / "jobs" / "demo.toml"


def main() -> int:
    """Run the demo job through Prefect and Ray, verify the store, feed a batch."""
    os.environ.setdefault("PREFECT_HOME", str(ROOT / ".prefect"))
    console = Console()
    job = read_job(JOB)
    limit_threads(job.cluster)  # before numpy is loaded, which reads it once
    from tokenmill.store import Store
    from tokenmill.store.verify import verify_store
    from tokenmill_pipelines.jobs import run_job

    shutil.rmtree(ROOT / "stores" / "demo", ignore_errors=True)
    start = time.monotonic()
    result = run_job(job, observer=choose(json=False, stream=sys.stderr), prefect=True)
    store = Store.open(result.store_uri)
    report = verify_store(store, store.snapshot())
    _show(console, result, time.monotonic() - start)
    verdict = "[green]sound[/]" if not report.problems else f"[red]{'; '.join(report.problems)}[/]"
    console.print(f"verify: {verdict}, {report.checked_bytes:,} bytes read back")
    _show_batch(console, store)
    console.print(f"\nstore:  {result.store_uri}", soft_wrap=True)
    if result.report:
        console.print(f"report: {result.report}", soft_wrap=True)
    return 1 if report.problems else 0


def _show(console: Console, result: RunResult, wall_s: float) -> None:
    table = Table(title="What was done", title_justify="left", show_header=False)
    table.add_column()
    table.add_column(justify="right")
    for name in ("assets", "samples", "tokens", "bytes", "shards"):
        table.add_row(name, f"{result.totals[name]:,}")
    table.add_row("quarantined", str(result.quarantined))
    for key, reason, _ in result.quarantine:
        table.add_row(f"  {key}", reason)
    for stage, seconds in result.wall_s.items():
        table.add_row(f"stage {stage}", f"{seconds:.1f} s")
    table.add_row("in all, with Prefect and Ray starting", f"{wall_s:.1f} s")
    console.print(table)


def _show_batch(console: Console, store: Store) -> None:
    import numpy as np

    from tokenmill.feed import Feed

    feed = Feed(store, batch_size=8, seed=0, columns=("sample_id", "caption"))
    batch = next(iter(feed))
    console.print("\nThe first training batch")
    for name, values in batch.items():
        if isinstance(values, np.ndarray) and values.ndim > 1:
            console.print(
                f"  {name}: {values.dtype}{list(values.shape)} {values[0].ravel()[:8]} ..."
            )
        else:
            console.print(f"  {name}: {values}", overflow="ellipsis", no_wrap=True)


if __name__ == "__main__":
    leave(main())
