"""Many committers at the same instant: ``racing.py JOB.json...``, each job in a fork.

All have encoded what they list, against a store as it was before any of them, when they commit.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
import traceback
from multiprocessing.synchronize import Barrier
from pathlib import Path

from tokenmill_infra.observe import SilentObserver
from tokenmill_pipelines.run import open_run
from tokenmill_pipelines.stages import STAGES, run_stage
from tokenmill_schemas.job import parse_job

TIMEOUT_S = 60.0


def commit_at_once(file: str, barrier: Barrier) -> int:
    """Run a job; before it commits, wait until the others want to."""
    job = parse_job(json.loads(Path(file).read_text()))
    with open_run(job, SilentObserver()) as run:
        for name, stage in STAGES:
            if name == "commit":
                barrier.wait(TIMEOUT_S)
            run_stage(run, name, stage)
    return 0 if run.committed else 3


def main() -> int:
    """Race; 0 if all have committed."""
    context = multiprocessing.get_context("fork")
    barrier = context.Barrier(len(sys.argv) - 1)
    children = []
    for file in sys.argv[1:]:
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                code = commit_at_once(file, barrier)
            except BaseException:  # noqa: BLE001 - the process ends here, whatever it was
                traceback.print_exc()
            finally:
                sys.stderr.flush()
                os._exit(code)
        children.append(pid)
    return max(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children)


if __name__ == "__main__":
    sys.exit(main())
