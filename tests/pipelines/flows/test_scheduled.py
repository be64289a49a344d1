"""A run's process: it ends when it is asked to, and when nobody is left to ask."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import time
from json import loads
from typing import IO, cast

import psutil
import pytest
from tests.pipelines.cli.conftest import environment
from tests.pipelines.flows.conftest import until

from tokenmill_infra.observe import JsonObserver, PlainObserver
from tokenmill_pipelines.flows.lines import LabelledStream

pytestmark = pytest.mark.prefect

#: Stands for a run amid a long batch: what it is asked to do, it does not do.
RUN = """
import os, signal, time
from tokenmill_pipelines.flows import scheduled
signal.signal(signal.SIGTERM, lambda *_: None)
scheduled.END_S = scheduled.LOOK_S = 0.2
with scheduled.supervised():
    print(os.getpid(), flush=True)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        time.sleep(0.1)
"""
RUNNER = f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', {RUN!r}], check=False)"


def first_line(stream: IO[str] | None) -> int:
    """Return the process id that a program prints."""
    return int(stream.readline()) if stream is not None else 0


def test_a_run_that_does_not_stop_is_stopped() -> None:
    """It has a time to clean up; then it ends with the code of a SIGTERM."""
    with subprocess.Popen(
        [sys.executable, "-c", RUN], stdout=subprocess.PIPE, text=True, env=environment()
    ) as run:
        first_line(run.stdout)
        start = time.monotonic()
        run.terminate()
        assert run.wait(30) == 143
        assert 0.1 < time.monotonic() - start < 30


def test_a_run_does_not_outlive_its_runner() -> None:
    """Also not one that was killed and could end nothing."""
    with subprocess.Popen(
        [sys.executable, "-c", RUNNER], stdout=subprocess.PIPE, text=True, env=environment()
    ) as runner:
        run = psutil.Process(first_line(runner.stdout))
        os.kill(runner.pid, signal.SIGKILL)
        until(lambda: not run.is_running() or run.status() == psutil.STATUS_ZOMBIE, "its end")


def test_lines_of_runs_name_their_jobs() -> None:
    """Several runs write to one place, for people or as JSON."""
    plain, lines = io.StringIO(), io.StringIO()
    PlainObserver(cast("io.StringIO", LabelledStream(plain, "cats", as_json=False))).event("commit")
    JsonObserver(cast("io.StringIO", LabelledStream(lines, 'c"s', as_json=True))).event("commit")
    assert plain.getvalue().startswith("cats: ")
    assert plain.getvalue().endswith(" commit\n")
    assert loads(lines.getvalue())["job"] == 'c"s'
    assert loads(lines.getvalue())["event"] == "commit"
