"""Runs a job in a process of its own, to be killed: ``drive.py JOB.json``."""

import json
import signal
import sys
from pathlib import Path

from tokenmill_infra.observe import PlainObserver
from tokenmill_pipelines.jobs import run_job
from tokenmill_schemas.job import parse_job


def main() -> int:
    """Run the job; Ctrl-C ends it with the code that shells give to it."""
    # Whoever starts the suite in the background of a script has it ignore Ctrl-C, and us with it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    job = parse_job(json.loads(Path(sys.argv[1]).read_text()))
    try:
        run_job(job, observer=PlainObserver(sys.stderr))
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
