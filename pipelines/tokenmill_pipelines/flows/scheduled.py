"""The flow of a served job: ``tokenize`` with a job file, in a process of its own.

The deployment's one parameter is the path of the job file, which is read anew at each run: a
change counts from the next run on, and a file that is wrong fails that run only. Only the schedule
is the one that `tokenmill serve` read when it was started.

This module imports nothing that loads numpy, whose threads are limited by what the job says.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.states import Completed

from tokenmill_infra.cluster import limit_threads
from tokenmill_pipelines.flows.lines import named_observer
from tokenmill_pipelines.flows.slots import store_slot
from tokenmill_pipelines.serving import slot_name, store_address
from tokenmill_schemas.job import read_job

#: Seconds that a run has to clean up when it is asked to end, and its exit code after that.
END_S = 5.0
TERMINATED = 143
#: Seconds between two looks whether the runner is still there.
LOOK_S = 1.0


@flow(name="tokenize", persist_result=False)
def tokenize_file(job_file: str) -> State[None] | None:
    """Run the job of a file, unless another run is at work on its store.

    Such a run ends in the state "Skipped", whose message says who has the store. It is not queued:
    the schedule brings the next. (The state's type is Completed, for nothing went wrong; Prefect's
    events are called by names, so that nothing that waits for a "Completed" run hears of it.)
    """
    job = read_job(Path(job_file))
    limit_threads(job.cluster)
    observer = named_observer(job.name)
    address = store_address(job)
    with store_slot(slot_name(address)) as holder:
        if holder:
            message = f"{address} is being written by {holder}"
            observer.event("skip", reason=message)
            return Completed(name="Skipped", message=message)
        from tokenmill_pipelines.flows.tokenize import run_tasks

        with supervised():
            run_tasks(job, observer)
    return None


@contextlib.contextmanager
def supervised() -> Iterator[None]:
    """Have a run end in `END_S` when it is asked to, and when the runner that started it has gone.

    Else a long batch would hold it, and without a runner nobody sees or ends it any more. What it
    has finished by then is kept, as after a power failure.
    """
    ask = signal.getsignal(signal.SIGTERM)
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def handle(number: int, frame: FrameType | None) -> None:
        timer = threading.Timer(END_S, os._exit, (TERMINATED,))
        timer.daemon = True
        timer.start()
        if callable(ask):
            ask(number, frame)
        else:
            sys.exit(TERMINATED)

    signal.signal(signal.SIGTERM, handle)
    over = threading.Event()
    threading.Thread(target=_end_with_runner, args=(os.getppid(), over), daemon=True).start()
    try:
        yield
    finally:
        over.set()
        signal.signal(signal.SIGTERM, ask)


def _end_with_runner(runner: int, over: threading.Event) -> None:
    while os.getppid() == runner:
        if over.wait(LOOK_S):
            return
    os.kill(os.getpid(), signal.SIGTERM)
