"""SIGKILL before and after every change that an operation makes to a store, then the same again."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.faults.killing import worth_it, worth_most
from tests.faults.scenarios import SCENARIOS

KILLING = Path(__file__).with_name("killing.py")
ROOT = KILLING.parents[2]

Matrix = Callable[[str, str], dict[str, Any]]

#: Each scenario with a death before each kind of change, and (slowly) before every one.
PLAYS = [pytest.param(name, "quick", id=name) for name in SCENARIOS] + [
    pytest.param(name, "whole", id=f"{name}-whole", marks=pytest.mark.slow) for name in SCENARIOS
]


@pytest.fixture(scope="module")
def killer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Matrix]:
    """A process that forks: it has imported everything, and has no threads."""
    folder = tmp_path_factory.mktemp("killer")
    log = folder / "log"
    with (
        log.open("w") as errors,
        subprocess.Popen(
            [sys.executable, str(KILLING)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env=os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])},
        ) as process,
    ):

        def play(name: str, depth: str) -> dict[str, Any]:
            if process.stdin is None or process.stdout is None:
                raise RuntimeError("not connected")
            place = folder / f"{name}-{depth}"
            place.mkdir()
            print(name, depth, place, file=process.stdin, flush=True)
            found: dict[str, Any] = json.loads(process.stdout.readline() or '{"error": "ended"}')
            assert "error" not in found, f"{found['error']}\n{log.read_text()[-4000:]}"
            return found

        yield play


@pytest.mark.parametrize(("name", "depth"), PLAYS)
def test_killed_at_every_change_it_is_finished_by_the_next(
    name: str, depth: str, killer: Matrix
) -> None:
    """Readers see the old version or the new one; the rerun leaves what a run without a fault does.

    That is: every version, every file of the store by its name and bytes (but for who made it and
    when), a sound `verify`, and nothing hidden left behind.
    """
    found = killer(name, depth)
    points = found["points"]
    wrong = [
        f"killed before {point['number']} ({point['change']}): {problem}"
        for point in points
        for problem in point["problems"]
    ]
    assert not wrong, "\n".join(wrong[:40])
    killed = [point for point in points if point["died"]]
    least = SCENARIOS[name].least_points if depth == "whole" else 2
    assert len(killed) >= least, found["changes"]


def test_points_are_around_each_visible_change_and_each_kind_of_others() -> None:
    """Of temporary files one of a kind is enough; each file that readers see is worth its own."""
    one, two = ("/.scratch/" + digit * 32 for digit in "01")
    changes = [f"open {one}.lock", "os.link /data/1", f"os.remove {one}/new", f"open {two}.lock"]
    assert worth_it([*changes, "os.link /_log/1"], thorough=True) == [1, 2, 3, 5, 6]
    assert worth_it([*changes, "os.link /_log/1"], thorough=False) == [2, 5, 6]
    assert worth_it([changes[0], changes[3]], thorough=True) == [1, 3]


def test_a_quick_look_takes_the_first_of_each_kind() -> None:
    """Of a thorough scenario of all kinds, else of what readers see and not every run makes."""
    run = ["open /.scratch/a.lock", "os.link /data/1", "os.link /_log/1"]
    gc = ["os.remove /data/" + digit * 32 for digit in "01"]
    assert worth_most([*run, *gc], thorough=True) == [1, 2, 3, 4, 6]
    assert worth_most([*run, *gc], thorough=False) == [3, 4, 6]
