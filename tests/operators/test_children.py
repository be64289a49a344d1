"""What a test starts ends with it."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import time

import psutil
import pytest

from tokenmill.testing.children import tied

PARENT = """
import subprocess, sys, time
from tokenmill.testing.children import tied
child = subprocess.Popen(tied([sys.executable, "-c", "print('up', flush=True); input()"]),
                         stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
child.stdout.readline()
print(child.pid, flush=True)
time.sleep(100)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child of its parent's end")
def test_a_child_ends_with_a_parent_that_was_killed() -> None:
    """SIGKILL leaves the parent no time to end it."""
    with subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout is not None
        child = psutil.Process(int(run.stdout.readline()))
        run.kill()
    deadline = time.monotonic() + 60
    with contextlib.suppress(psutil.NoSuchProcess):
        while child.status() != psutil.STATUS_ZOMBIE:
            assert time.monotonic() < deadline
            time.sleep(0.02)


def test_a_tied_command_is_the_command() -> None:
    """Its output and its exit code are those of the program."""
    code = "import signal, sys; print(sys.argv[1]); sys.exit(3)"
    done = subprocess.run(
        tied([sys.executable, "-c", code, "a b"]), capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (3, "a b\n")
    ended = subprocess.run(
        tied([sys.executable, "-c", "import os; os.kill(os.getpid(), 15)"]), check=False
    )
    assert ended.returncode == -signal.SIGTERM
