"""Whole processes killed at any moment: the next run finishes the store as if nothing had been."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tokenmill.store import Store
from tokenmill.store.verify import verify_store
from tokenmill.testing.faults import content_of
from tokenmill_infra.observe import SilentObserver
from tokenmill_pipelines.jobs import run_job
from tokenmill_pipelines.run import RunResult
from tokenmill_schemas.job import Job, job_table, resolve_paths

JobOf = Callable[..., Job]
DRIVE = Path(__file__).with_name("drive.py")
TIMEOUT_S = 120


class Driver:
    """A job running in a process group of its own."""

    def __init__(self, job: Job, folder: Path) -> None:
        file = folder / "job.json"
        file.write_text(json.dumps(job_table(resolve_paths(job))))
        self.log = folder / "driver.log"
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, str(DRIVE), str(file)],
                stdout=log,
                stderr=log,
                start_new_session=True,
                env=os.environ | {"OMP_NUM_THREADS": "1"},
            )

    def wait(self) -> int:
        """Wait for its end."""
        return self.process.wait(TIMEOUT_S)

    def signal(self, number: int) -> None:
        """Send a signal to it and to all that it started."""
        os.killpg(self.process.pid, number)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[[Job], Driver]]:
    """Starts drivers, and leaves none behind."""
    drivers: list[Driver] = []

    def begin(job: Job) -> Driver:
        drivers.append(Driver(job, tmp_path))
        return drivers[-1]

    yield begin
    for driver in drivers:
        if driver.process.poll() is None:
            driver.signal(signal.SIGKILL)
            driver.wait()


def receipts(job: Job) -> dict[str, float]:
    """Names of the receipts that a store has, and when they were written."""
    folder = Path(job.store.uri, "receipts")
    files = list(folder.glob("*.json")) if folder.exists() else []
    return {file.name: file.stat().st_mtime_ns for file in files}


def until(there: Callable[[], bool], driver: Driver) -> None:
    """Wait until something is there; the driver must not end before."""
    deadline = time.monotonic() + TIMEOUT_S
    while not there():
        assert driver.process.poll() is None, driver.log.read_text()
        assert time.monotonic() < deadline
        time.sleep(0.002)


def finish(job: Job) -> RunResult:
    """Run a job to its end in this process; its store must be sound and tidy."""
    result = run_job(job, observer=SilentObserver())
    store = Store.open(result.store_uri)
    assert verify_store(store, store.snapshot()).problems == ()
    assert not list(Path(result.store_uri).rglob(".*"))
    return result


def same(result: RunResult, whole: RunResult) -> None:
    """Shards, manifest, plans, quarantine and identity are those of a run without a fault."""
    assert content_of(result.store_uri) == content_of(whole.store_uri)
    assert result.content_id == whole.content_id
    assert result.totals == whole.totals


@pytest.fixture
def whole(sample_job: JobOf) -> RunResult:
    """The store that no fault has touched."""
    return finish(sample_job("whole", "shards.unit_assets=3"))


def test_a_driver_killed_at_any_moment_is_finished_by_the_next(
    sample_job: JobOf, whole: RunResult, start: Callable[[Job], Driver]
) -> None:
    """SIGKILL after 0 to 13 receipts, a random instant later; again and again on one store."""
    job = sample_job("killed", "shards.unit_assets=3")
    chance = random.Random(7)
    kept: dict[str, float] = {}
    for wanted in (0, 2, 6, 11):
        driver = start(job)
        until(lambda wanted=wanted: len(receipts(job)) >= wanted, driver)  # type: ignore[misc]
        if wanted == 0:
            time.sleep(1.0)
        time.sleep(chance.uniform(0, 0.05))
        driver.signal(signal.SIGKILL)
        assert driver.wait() == -signal.SIGKILL
        now = receipts(job)
        assert kept.items() <= now.items(), "a receipt was made twice"
        kept = now
    result = finish(job)
    assert kept.items() <= receipts(job).items(), "a receipt was made twice"
    assert result.done["reused_units"] == len(kept) >= 11
    assert result.done["units"] == 14 - len(kept)
    same(result, whole)


def test_ctrl_c_stops_soon_and_cleanly(noise_job: JobOf, start: Callable[[Job], Driver]) -> None:
    """Within the time of a batch, without traceback or rubbish; the next run goes on from there."""
    slow: dict[str, Any] = {"source": {"count": 40, "open_s": 0.1}, "shards": {"unit_assets": 10}}
    job = noise_job("stopped", **slow)
    driver = start(job)
    until(lambda: len(receipts(job)) >= 1, driver)
    driver.signal(signal.SIGINT)
    began = time.monotonic()
    assert driver.wait() == 130
    assert time.monotonic() - began < 3
    assert "Traceback" not in driver.log.read_text()
    kept = receipts(job)
    assert 1 <= len(kept) < 4
    assert not list(Path(job.store.uri).rglob(".*"))
    assert not Path(job.store.uri, "_log").exists()
    result = finish(job)
    assert result.done["reused_units"] == len(kept)
    same(result, finish(noise_job("whole", source={"count": 40}, shards={"unit_assets": 10})))


def test_two_drivers_at_once_make_one_set_of_units(
    sample_job: JobOf, whole: RunResult, start: Callable[[Job], Driver]
) -> None:
    """Both end well, one version is committed, and no shard lies there twice."""
    job = sample_job("shared", "shards.unit_assets=3")
    first, second = start(job), start(job)
    assert (first.wait(), second.wait()) == (0, 0), first.log.read_text()
    store = Store.open(job.store.uri)
    assert store.log.numbers() == [1]
    assert verify_store(store, store.snapshot()).problems == ()
    result = finish(job)
    assert result.committed is False
    same(result, whole)


@pytest.mark.ray
def test_a_driver_killed_with_its_ray_cluster_is_finished_by_the_next(
    sample_job: JobOf, whole: RunResult, start: Callable[[Job], Driver]
) -> None:
    """Driver, Ray and actors all at once; nothing of them stays behind."""
    job = sample_job("killed", "shards.unit_assets=3", "cluster.backend=ray", "cluster.actors=2")
    driver = start(job)
    until(lambda: len(receipts(job)) >= 3, driver)
    group = children(driver.process.pid)
    driver.signal(signal.SIGKILL)
    driver.wait()
    deadline = time.monotonic() + 30
    while any(map(alive, group)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not [pid for pid in group if alive(pid)]
    kept = receipts(job)
    result = finish(sample_job("killed", "shards.unit_assets=3"))
    assert result.done["reused_units"] == len(kept) >= 3
    same(result, whole)


def children(pid: int) -> list[int]:
    """All processes below one."""
    import psutil

    return [child.pid for child in psutil.Process(pid).children(recursive=True)]


def alive(pid: int) -> bool:
    """Whether a process runs."""
    import psutil

    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
