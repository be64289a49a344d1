"""Several writers on one store at the same time: nothing is lost, and nothing is there twice."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

from tests.faults.scenarios import noise

from tokenmill.store import Store
from tokenmill.store.verify import verify_store
from tokenmill.testing.faults import content_of
from tokenmill_infra.observe import SilentObserver
from tokenmill_pipelines.jobs import run_job
from tokenmill_schemas.job import Job, job_table

ROOT = Path(__file__).parents[2]
RACING = Path(__file__).with_name("racing.py")
#: What does not depend on who won: shards, listings, rejects.
UNORDERED = ("data/", "plans/")


def job_of(store: Path, number: int, count: int = 3) -> Job:
    """A job of its own name over pictures of its own; ``number`` tells it from others."""
    job = noise(str(store), count, source={"start": 100 * number})
    return replace(job, name=f"job-{number}")


def race(jobs: list[Job], folder: Path, *, code: int = 0) -> None:
    """Run jobs that commit at the same instant; ``code`` says whether all do."""
    files = []
    for number, job in enumerate(jobs):
        files.append(folder / f"{number}.json")
        files[-1].write_text(json.dumps(job_table(job)))
    done = subprocess.run(
        [sys.executable, str(RACING), *map(str, files)],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])},
    )
    assert done.returncode == code, done.stderr[-4000:]


def accounted(store: Store) -> Counter[str]:
    """How often each asset is there, with samples or without."""
    version = store.at()
    rows = (batch.column("asset_key").to_pylist() for batch in version.scan(["asset_key"]))
    rejects = version.rejects().column("asset_key").to_pylist()
    return Counter([*itertools.chain.from_iterable(rows), *rejects])


def unordered(uri: Path) -> dict[str, str]:
    """The content that does not depend on the order of versions."""
    content = content_of(uri)
    return {path: sha for path, sha in content.items() if path.startswith(UNORDERED)}


def check_all_landed(jobs: list[Job], raced: Path, in_turn: Path) -> Store:
    """One version for each job, in a line, that together hold what the jobs make one by one."""
    store, other = Store.open(str(raced)), Store.open(str(in_turn))
    versions = list(reversed(store.snapshots()))
    assert [v.number for v in versions] == list(range(1, len(jobs) + 1))
    assert [v.parent for v in versions] == ["", *(v.commit_id for v in versions[:-1])]
    assert sorted(str(v.job["name"]) for v in versions) == sorted(job.name for job in jobs)
    assert verify_store(store, store.snapshot()).problems == ()
    assert set(accounted(store).values()) == {1}
    assert accounted(store) == accounted(other)
    assert store.snapshot().totals == other.snapshot().totals
    assert unordered(raced) == unordered(in_turn)
    rows = (s.segments(s.snapshot()).drop_columns(["row_group"]) for s in (store, other))
    first, second = (sorted(map(repr, table.to_pylist())) for table in rows)
    assert first == second
    assert not list(raced.rglob(".*"))
    assert not list((raced / "_running").glob("*"))
    return store


def test_eight_committers_at_once_make_eight_versions(tmp_path: Path) -> None:
    """Each lists and encodes against no store at all; seven decide anew, up to seven times."""
    jobs = [job_of(tmp_path / "raced", number) for number in range(8)]
    race(jobs, tmp_path)
    for number in range(8):
        run_job(job_of(tmp_path / "in-turn", number), observer=SilentObserver())
    check_all_landed(jobs, tmp_path / "raced", tmp_path / "in-turn")


def test_two_jobs_append_to_one_store_that_has_versions(tmp_path: Path) -> None:
    """Neither misses what only the other one lists, now or when both run again."""
    raced, in_turn = tmp_path / "raced", tmp_path / "in-turn"
    for uri in (raced, in_turn):
        for number in (1, 2):
            run_job(job_of(uri, number), observer=SilentObserver())
    race([job_of(raced, number, 7) for number in (1, 2)], tmp_path)
    for number in (1, 2):
        run_job(job_of(in_turn, number, 7), observer=SilentObserver())
    jobs = [job_of(raced, number) for number in (1, 2, 1, 2)]
    store = check_all_landed(jobs, raced, in_turn)
    for number in (1, 2):
        again = run_job(job_of(raced, number, 7), observer=SilentObserver())
        assert not again.committed
    assert store.at().missing().num_rows == 0


def test_one_job_twice_at_once_makes_one_version(tmp_path: Path) -> None:
    """Both have all receipts when they commit: the second one finds that nothing is left to add."""
    job = job_of(tmp_path / "raced", 1, 6)
    race([job, job], tmp_path, code=3)
    run_job(job_of(tmp_path / "in-turn", 1, 6), observer=SilentObserver())
    check_all_landed([job], tmp_path / "raced", tmp_path / "in-turn")
    assert content_of(tmp_path / "raced") == content_of(tmp_path / "in-turn")
