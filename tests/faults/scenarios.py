"""Operations on small stores that may be killed at any moment and are then done again."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenmill.store import Store
from tokenmill_infra.observe import SilentObserver
from tokenmill_pipelines.jobs import retry_store, run_job
from tokenmill_schemas.errors import JobError, SnapshotNotFoundError
from tokenmill_schemas.job import Job, parse_job

Operation = Callable[[str], Any]

#: Jobs that list something else than the ones before, and leave that as it is.
KEEP = {"increment": {"max_missing_fraction": 1.0}}
#: An intent counts for half an hour.
LONG_AGO_S = 3600.0


def noise(uri: str, count: int = 6, **sections: Any) -> Job:
    """A job over ``count`` pictures of noise in units of three, of which one cannot be decoded."""
    table: dict[str, Any] = {
        "name": "noise",
        "source": {"kind": "tokenmill.testing.faults:NoisePictures", "count": count},
        "decoder": {
            "kind": "tokenmill.testing.faults:FaultyDecoder",
            "faults": {"picture-0001": "error"},
        },
        "tokenizer": {"kind": "tokenmill.testing.faults:BlockMeans"},
        "shards": {"unit_assets": 3},
        "limits": {"max_quarantined_fraction": 1.0},
        "store": {"uri": uri},
        "cluster": {"backend": "local", "actors": 1},
    }
    for name, changes in sections.items():
        table[name] = table.get(name, {}) | changes
    return parse_job(table)


def run(uri: str, count: int = 6, **sections: Any) -> None:
    """Run the job."""
    run_job(noise(uri, count, **sections), observer=SilentObserver())


def run_twice(uri: str) -> None:
    """Make two versions."""
    run(uri)
    run(uri, 9)


def shrink(uri: str) -> None:
    """Run the job when its source lists three new pictures, and two of the old ones no longer."""
    run(uri, 7, source={"start": 2}, increment={"on_missing": "drop", "max_missing_fraction": 1.0})


def run_and_fail(uri: str) -> None:
    """Run the job when one of its pictures cannot be decoded for once."""
    once = Path(uri).parent / "once"
    once.mkdir()
    run(uri, decoder={"once": str(once)})


def retry(uri: str) -> None:
    """Try what is in quarantine again, if there is anything; then run the job as ever."""
    with suppress(JobError):
        retry_store(uri, observer=SilentObserver())
    run(uri)


def branch_out(uri: str) -> None:
    """Make a branch with a version of its own, and one that it does not have."""
    run(uri)
    Store.open(uri).create_branch("trial")
    run(uri, 3, source={"start": 6}, store={"uri": uri, "branch": "trial"}, **KEEP)
    run(uri, 3, source={"start": 9}, **KEEP)


def delete_branch(uri: str) -> None:
    """Delete the branch, if it is still there."""
    with suppress(SnapshotNotFoundError):
        Store.open(uri).delete_branch("trial")


def nothing(uri: str) -> None:
    """Do nothing."""


def half_an_hour(uri: str) -> None:
    """Let the intents of the dead grow old."""
    for path in Path(uri, "_running").glob("*.json"):
        time = path.stat().st_mtime - LONG_AGO_S
        os.utime(path, (time, time))


@dataclass(frozen=True, slots=True)
class Scenario:
    """An operation on a store; all take the store's path.

    ``prepare`` makes the store, ``act`` is killed and then done again, after a ``rest``.
    ``least_points`` guards the matrix itself: so many deaths it must have; ``thorough`` adds those
    between changes that no reader sees.
    """

    name: str
    act: Operation
    prepare: Operation = nothing
    rest: Operation = nothing
    least_points: int = 4
    thorough: bool = False


_ALL = (
    Scenario("run", run, least_points=30, thorough=True),
    Scenario("append", lambda uri: run(uri, 9), run, least_points=15),
    Scenario("shrink", shrink, run, least_points=15),
    Scenario("retry", retry, run_and_fail, least_points=15),
    Scenario("tag", lambda uri: Store.open(uri).tag("v1"), run),
    Scenario("branch", lambda uri: Store.open(uri).create_branch("trial"), run),
    Scenario("restore", lambda uri: Store.open(uri).restore(1), run_twice),
    Scenario("merge", lambda uri: Store.open(uri).merge("trial"), branch_out),
    Scenario("delete_branch", delete_branch, branch_out),
)
SCENARIOS = {scenario.name: scenario for scenario in _ALL}
