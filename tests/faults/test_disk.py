"""What disks, servers, clocks and sources do to a run: a clear error, or none, and nothing lost."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest
from tests.faults.scenarios import noise

import tokenmill.store.store
import tokenmill.store.transaction
from tokenmill.feed import Feed
from tokenmill.store import Store
from tokenmill.store.gc import gc
from tokenmill.store.verify import verify_store
from tokenmill.testing.faults import content_of
from tokenmill.testing.pictures import encoded
from tokenmill.testing.pictures import noise as picture
from tokenmill.testing.storage import Fault, FaultPlan, FaultyStorage, Operation, Rule
from tokenmill_infra.observe import SilentObserver
from tokenmill_infra.storage import Storage, open_storage
from tokenmill_pipelines.jobs import run_job
from tokenmill_pipelines.run import RunResult, open_run, result_of
from tokenmill_pipelines.stages import STAGES, run_stage
from tokenmill_schemas.errors import JobError, StoreError, TokenmillError, TransientError
from tokenmill_schemas.job import Job, parse_job

Faulty = Callable[[FaultPlan], None]


@pytest.fixture
def faulty(monkeypatch: pytest.MonkeyPatch) -> Faulty:
    """Puts faults between every store that is opened from now on and its storage."""

    def begin(plan: FaultPlan) -> None:
        def open_faulty(*args: object) -> Storage:
            return FaultyStorage(open_storage(*args), plan)  # type: ignore[arg-type]  # as it came

        monkeypatch.setattr(tokenmill.store.store, "open_storage", open_faulty)

    return begin


def run(job: Job) -> RunResult:
    """Run a job."""
    return run_job(job, observer=SilentObserver())


def same(result: RunResult, whole: RunResult) -> None:
    """The store is as without a fault, byte for byte, and sound."""
    assert content_of(result.store_uri) == content_of(whole.store_uri)
    assert (result.content_id, result.totals) == (whole.content_id, whole.totals)
    store = Store.open(result.store_uri)
    assert verify_store(store, store.snapshot()).problems == ()
    assert store.log.numbers() == [1]
    assert not list(Path(result.store_uri).rglob(".*"))


@pytest.fixture
def whole(tmp_path: Path) -> RunResult:
    """The store that no fault has touched."""
    return run(noise(str(tmp_path / "whole")))


#: Everything that a run writes.
FOLDERS = ("_running", "plans", "data", "receipts", "quarantine", "manifest", "_log", "reports")
CREATES: tuple[Operation, ...] = ("create", "create_from")


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_full_disk_ends_the_run_and_the_next_one_completes_it(
    folder: str, tmp_path: Path, whole: RunResult, faulty: Faulty
) -> None:
    """Whichever file it strikes; no asset is blamed, and the error is the disk's."""
    job = noise(str(tmp_path / "store"))
    faulty(FaultPlan((Rule("full", path=f"{folder}/*", operations=CREATES, times=0),)))
    with pytest.raises((TokenmillError, OSError), match=os.strerror(errno.ENOSPC)):
        run(job)
    faulty(FaultPlan())
    same(run(job), whole)


@pytest.mark.parametrize("folder", FOLDERS)
@pytest.mark.parametrize("fault", ["lost", "busy"])
def test_a_storage_that_gives_up_costs_an_attempt_or_a_run(
    fault: Fault, folder: str, tmp_path: Path, whole: RunResult, faulty: Faulty
) -> None:
    """Units are tried again on the spot, all else by the next run; what was done is not redone."""
    job = noise(str(tmp_path / "store"))
    faulty(FaultPlan((Rule(fault, path=f"{folder}/*", operations=CREATES),)))
    if folder not in ("data", "receipts"):
        with pytest.raises(TransientError, match=f"{folder}/.* failed"):
            run(job)
        faulty(FaultPlan())
        again = run(job)
        assert again.committed is not (folder == "reports" or (folder, fault) == ("_log", "lost"))
    same(run(job), whole)


@contextmanager
def mounted(folder: Path, *options: str) -> Iterator[None]:
    """Mount something at ``folder``; skip the test where that is not allowed."""
    folder.mkdir(exist_ok=True)
    done = subprocess.run(["mount", *options, str(folder)], capture_output=True, check=False)
    if done.returncode:
        pytest.skip("needs to be allowed to mount")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.mark.parametrize("size_kb", [8, 20, 36])
def test_a_disk_that_is_really_full(size_kb: int, tmp_path: Path, whole: RunResult) -> None:
    """A small file system; the same job completes as soon as it is larger."""
    disk = tmp_path / "disk"
    job = noise(str(disk / "store"))
    with mounted(disk, "-t", "tmpfs", "-o", f"size={size_kb}k", "tmpfs"):
        with pytest.raises((TokenmillError, OSError), match=os.strerror(errno.ENOSPC)):
            run(job)
        grow = ["mount", "-o", "remount,size=8m", str(disk)]
        subprocess.run(grow, check=True)
        same(run(job), whole)


def test_a_store_that_can_only_be_read(tmp_path: Path, whole: RunResult) -> None:
    """A run says so before it does anything; whoever reads does not notice."""
    there = tmp_path / "there"
    with mounted(there, "--bind", whole.store_uri):
        subprocess.run(["mount", "-o", "remount,bind,ro", str(there)], check=True)
        with pytest.raises(
            JobError, match=r"store\.uri: cannot make a store .*Read-only"
        ) as caught:
            run(noise(str(there), 9))
        assert caught.value.path == "store.uri"
        store = Store.open(str(there))
        with pytest.raises(OSError, match="Read-only"):
            store.tag("v1")
        assert verify_store(store, store.snapshot()).problems == ()
        feed = Feed(str(there), streams=("image",), batch_size=2)
        assert len(next(iter(feed))) == 2
    assert run(noise(whole.store_uri)).committed is False


def files_job(folder: Path, store: Path) -> Job:
    """A job over eight files."""
    folder.mkdir()
    for number in range(8):
        data = encoded(picture(size=(32, 32), seed=number), "PNG")
        (folder / f"{number}.png").write_bytes(data)
    table = {
        "name": "files",
        "source": {"kind": "files", "urls": [str(folder)]},
        "tokenizer": {"kind": "tokenmill.testing.faults:BlockMeans"},
        "shards": {"unit_assets": 4},
        "limits": {"max_quarantined_fraction": 1.0},
        "store": {"uri": str(store)},
        "cluster": {"backend": "local", "actors": 1},
    }
    return parse_job(table)


def run_but(job: Job, meanwhile: Callable[[], object]) -> RunResult:
    """Run a job; ``meanwhile`` happens when its source is listed and nothing is fetched."""
    with open_run(job, SilentObserver()) as begun:
        for name, stage in STAGES:
            run_stage(begun, name, stage)
            if name == "plan":
                meanwhile()
        return result_of(begun)


def test_a_source_file_that_goes_during_the_run(tmp_path: Path) -> None:
    """It alone is quarantined; when it is back the next run of the job takes it."""
    job = files_job(tmp_path / "files", tmp_path / "store")
    file = tmp_path / "files" / "5.png"
    data = file.read_bytes()
    result = run_but(job, file.unlink)
    assert [(key, reason) for key, reason, _ in result.quarantine] == [("5.png", "not_found")]
    assert result.done["samples"] == 7
    file.write_bytes(data)
    again = run(job)
    assert (again.committed, again.done["samples"], again.totals["rejected"]) == (True, 1, 0)
    store = Store.open(result.store_uri)
    assert verify_store(store, store.snapshot()).problems == ()


def test_a_source_file_that_changes_during_the_run(tmp_path: Path) -> None:
    """What was listed is not what is there: it is quarantined, and is another asset next time."""
    job = files_job(tmp_path / "files", tmp_path / "store")
    other = encoded(picture(size=(40, 40), seed=99), "PNG")
    result = run_but(job, lambda: (tmp_path / "files" / "5.png").write_bytes(other))
    assert [(key, reason) for key, reason, _ in result.quarantine] == [("5.png", "changed")]
    assert result.done["samples"] == 7
    again = run(job)
    assert (again.committed, again.done["samples"], again.totals["rejected"]) == (True, 1, 0)
    store = Store.open(result.store_uri)
    assert verify_store(store, store.snapshot()).problems == ()


class Clock(datetime):
    """A clock that a test sets."""

    moment = datetime(2026, 1, 1, tzinfo=UTC)

    @classmethod
    def now(cls, tz: object = None) -> datetime:  # type: ignore[override]  # always UTC
        """Return what was set."""
        return cls.moment


def test_writers_whose_clocks_are_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Numbers go by the log; a date means the newest version that says it was made until then."""
    monkeypatch.setattr(tokenmill.store.transaction, "datetime", Clock)
    uri = str(tmp_path / "store")
    for count, year in ((3, 2026), (6, 1999), (9, 2077), (12, 2026)):
        Clock.moment = datetime(year, 6, 1, tzinfo=UTC)
        assert run(noise(uri, count)).committed
    store = Store.open(uri)
    assert [version.number for version in store.snapshots()] == [4, 3, 2, 1]
    assert store.snapshot().number == 4
    refs = {ref: store.snapshot(ref).number for ref in ("1999-12-31", "2026-06-01", "2100-01-01")}
    assert refs == {"1999-12-31": 2, "2026-06-01": 4, "2100-01-01": 4}
    with pytest.raises(StoreError, match="no snapshot was made until 1990"):
        store.snapshot("1990-01-01")
    assert verify_store(store, store.snapshot()).problems == ()


@pytest.mark.parametrize("skew_s", [-400 * 86400.0, 400 * 86400.0])
def test_a_storage_whose_clock_is_wrong(skew_s: float, tmp_path: Path) -> None:
    """Ages are told by its own clock alone: gc takes no file for older or younger than it is."""
    run(noise(str(tmp_path)))
    orphan = "data/orphan.arrow"
    storage = FaultyStorage(open_storage(str(tmp_path)), FaultPlan(skew_s=skew_s))
    storage.create(orphan, b"1")
    store = Store(storage)
    before = content_of(tmp_path)
    with store.hold("run", note="of somebody else"):
        assert "somebody else" in gc(store, grace_s=0.0).held
    assert gc(store, grace_s=3600.0).deleted == 0
    assert content_of(tmp_path) == before
    assert [name for name, _ in gc(store, grace_s=-60.0).files] == [orphan]
    assert verify_store(store, store.snapshot()).problems == ()
