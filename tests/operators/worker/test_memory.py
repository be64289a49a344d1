"""Ceilings of memory, each in force for a whole process, so tried in one of its own."""

import os
import subprocess
import sys
from pathlib import Path

CASES = Path(__file__).with_name("memory_cases.py")


def test_ceilings_hold_in_a_fresh_process() -> None:
    """What a suite has allocated and freed before would be in their way."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(CASES)]
    kept = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=kept)
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout
