"""The flow of a served job: ``tokenize`` with a job file, in a process of its own.

The deployment's one parameter is the path of the job file, which is read anew at each run: a
change counts from the next run on, and a file that is wrong fails that run only. Only the schedule
is the one that `tokenmill serve` read when it was started.

This module imports nothing that loads numpy, whose threads are limited by what the job says.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import TextIO, cast

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.states import Completed

from tokenmill_infra.cluster import limit_threads
from tokenmill_infra.observe import JsonObserver, Observer, PlainObserver
from tokenmill_pipelines.flows.settings import JSON_LINES
from tokenmill_pipelines.flows.slots import store_slot
from tokenmill_pipelines.serving import slot_name, store_address
from tokenmill_schemas.job import read_job

#: Seconds that a run has to clean up when it is asked to end, and its exit code after that.
END_S = 5.0
TERMINATED = 143


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

        with ended_in_time():
            run_tasks(job, observer)
    return None


@contextlib.contextmanager
def ended_in_time() -> Iterator[None]:
    """Have a run that was asked to end do so in `END_S`, even amid a long batch.

    What it has finished by then is kept, as after a power failure.
    """
    before = signal.getsignal(signal.SIGTERM)
    if threading.current_thread() is not threading.main_thread() or not callable(before):
        yield
        return
    ask = before

    def handle(number: int, frame: FrameType | None) -> None:
        timer = threading.Timer(END_S, os._exit, (TERMINATED,))
        timer.daemon = True
        timer.start()
        ask(number, frame)

    signal.signal(signal.SIGTERM, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


class LabelledStream:
    """Writes lines with their job's name: what several runs say goes to one place."""

    def __init__(self, stream: TextIO, label: str, *, as_json: bool) -> None:
        self._stream = stream
        self._head = f'{{"job": {json.dumps(label)}, ' if as_json else f"{label}: "
        self._cut = int(as_json)

    def write(self, text: str) -> int:
        """Write a line, or the end of one."""
        return self._stream.write(self._head + text[self._cut :] if text.strip() else text)

    def flush(self) -> None:
        """Flush the stream."""
        self._stream.flush()


def named_observer(name: str) -> Observer:
    """Return an observer whose lines name the job, as JSON if `tokenmill serve` was asked to."""
    as_json = bool(os.environ.get(JSON_LINES))
    stream = cast("TextIO", LabelledStream(sys.stderr, name, as_json=as_json))
    return JsonObserver(stream) if as_json else PlainObserver(stream)
