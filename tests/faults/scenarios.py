"""Operations on small stores that may be killed at any moment and are then done again."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from tokenmill.store import Store
from tokenmill.store.compact import compact
from tokenmill.store.gc import gc
from tokenmill.store.groups import add_group, drop_group, from_table
from tokenmill.store.purge import execute_due, purge
from tokenmill.store.takedown import takedown
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


def take_down(uri: str) -> None:
    """Hide a picture that both branches have, and one that only ``trial`` has."""
    takedown(Store.open(uri), keys=["picture-0000", "picture-0006"], reason="request 7")


def take_down_of(uri: str) -> None:
    """Make branches of which something was taken down."""
    branch_out(uri)
    take_down(uri)


def purge_at_once(uri: str) -> None:
    """Make versions without what was taken down; the older ones are due at once."""
    purge(Store.open(uri), grace_s=0.0)


def purge_of(uri: str) -> None:
    """Make older versions due for removal."""
    take_down_of(uri)
    purge_at_once(uri)


def collect(uri: str) -> None:
    """Delete all that only the older versions need, and those."""
    gc(Store.open(uri), grace_s=-60.0, expire_older_than_s=-60.0)


def litter(uri: str) -> None:
    """Make a version that nothing holds, and files that none names."""
    branch_out(uri)
    delete_branch(uri)


def score(uri: str) -> None:
    """Add a column to all samples, unless it is there."""
    store = Store.open(uri)
    rows = pa.Table.from_batches(list(store.at().scan(["sample_id", "number"])))
    with suppress(JobError):
        add_group(store, "scores", from_table(rows, columns={"number": "score"}))


def unscore(uri: str) -> None:
    """Take the column away again, unless it is gone."""
    with suppress(JobError):
        drop_group(Store.open(uri), "scores")


def score_of(uri: str) -> None:
    """Make a store with a column group."""
    run(uri)
    score(uri)


def small_shards(uri: str) -> None:
    """Make three small shards with hidden samples and a column group."""
    run_twice(uri)
    score(uri)
    takedown(Store.open(uri), keys=["picture-0004"])


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
    least_points: int = 3
    thorough: bool = False


_ALL = (
    Scenario("run", run, least_points=30, thorough=True),
    Scenario("append", lambda uri: run(uri, 9), run, least_points=8),
    Scenario("shrink", shrink, run, least_points=8),
    Scenario("retry", retry, run_and_fail, least_points=8),
    Scenario("tag", lambda uri: Store.open(uri).tag("v1"), run),
    Scenario("branch", lambda uri: Store.open(uri).create_branch("trial"), run),
    Scenario("restore", lambda uri: Store.open(uri).restore(1), run_twice),
    Scenario("merge", lambda uri: Store.open(uri).merge("trial"), branch_out),
    Scenario("delete_branch", delete_branch, branch_out),
    Scenario("takedown", take_down, branch_out),
    Scenario("purge", purge_at_once, take_down_of),
    Scenario("removal", lambda uri: execute_due(Store.open(uri)), purge_of, half_an_hour),
    Scenario("gc", collect, litter, half_an_hour),
    Scenario("compact", lambda uri: compact(Store.open(uri)), small_shards),
    Scenario("columns", score, run),
    Scenario("no_columns", unscore, score_of),
)
SCENARIOS = {scenario.name: scenario for scenario in _ALL}
