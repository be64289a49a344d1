"""Runs torch_dataset_cases.py in a process of its own.

Loaders fork. A process that has run other tests has the threads of Ray, gRPC and Prefect, and what
is forked from it may end with any exit code; a trainer's has not.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

CASES = Path(__file__).with_name("torch_dataset_cases.py")


@pytest.mark.timeout(600)
@pytest.mark.parametrize("which", ["not slow", pytest.param("slow", marks=pytest.mark.slow)])
def test_loaders_of_a_fresh_process(which: str) -> None:
    """All cases pass there."""
    command = [sys.executable, "-m", "pytest", "-q", "-n0", "-p", "no:cacheprovider", "-m", which]
    done = subprocess.run(
        [*command, str(CASES)],
        cwd=CASES.parents[3],
        capture_output=True,
        text=True,
        check=False,
        timeout=580,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert " passed" in done.stdout
