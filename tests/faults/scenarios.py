"""Operations on small stores that may be killed at any moment and are then done again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tokenmill_infra.observe import SilentObserver
from tokenmill_pipelines.jobs import run_job
from tokenmill_schemas.job import Job, parse_job

Operation = Callable[[str], Any]


def noise(uri: str, count: int = 6, **sections: Any) -> Job:
    """A job over ``count`` pictures of noise in units of three, of which one cannot be decoded."""
    source = {"kind": "tokenmill.testing.faults:NoisePictures", "count": count}
    faults = {"picture-0001": "error"}
    table: dict[str, Any] = {
        "name": "noise",
        "source": source,
        "decoder": {"kind": "tokenmill.testing.faults:FaultyDecoder", "faults": faults},
        "tokenizer": {"kind": "tokenmill.testing.faults:BlockMeans"},
        "shards": {"unit_assets": 3},
        "limits": {"max_quarantined_fraction": 1.0},
        "store": {"uri": uri},
        "cluster": {"backend": "local", "actors": 1},
    }
    return parse_job(table | sections)


def run(uri: str, count: int = 6) -> None:
    """Run the job."""
    run_job(noise(uri, count), observer=SilentObserver())


def nothing(uri: str) -> None:
    """Do nothing."""


@dataclass(frozen=True, slots=True)
class Scenario:
    """An operation on a store; all take the store's path.

    ``prepare`` makes the store, ``act`` is killed and then done again, after a ``rest``.
    """

    name: str
    act: Operation
    prepare: Operation = nothing
    rest: Operation = nothing


_ALL = (
    Scenario("run", run),
    Scenario("append", lambda uri: run(uri, 9), run),
)
SCENARIOS = {scenario.name: scenario for scenario in _ALL}
