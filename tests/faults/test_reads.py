"""Reads that break or end early, half files, late lists: never a wrong answer."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest
from tests.faults.scenarios import noise, score, take_down_of

import tokenmill.store.store
from tokenmill.feed import Feed
from tokenmill.store import Store
from tokenmill.store.verify import verify_store
from tokenmill.testing.faults import content_of
from tokenmill.testing.storage import Fault, FaultPlan, FaultyStorage, Rule
from tokenmill_infra.observe import SilentObserver
from tokenmill_infra.storage import Storage, open_storage
from tokenmill_pipelines.jobs import run_job
from tokenmill_schemas.errors import StoreError, TransientError

Reader = Callable[[Storage], str]


def scanned(storage: Storage) -> str:
    """A hash of all samples that the newest version shows, with a column that was added."""
    rows = pa.Table.from_batches(list(Store(storage).at().scan(groups=["scores"])))
    return hashlib.sha256(repr(rows.to_pydict()).encode()).hexdigest()


def fed(storage: Storage) -> str:
    """A hash of what a feed gives in an epoch."""
    feed = Feed(Store(storage), batch_size=2, epochs=1, columns=("sample_id", "score"))
    batches = [
        [repr([*map(repr, batch[name])]) for name in ("sample_id", "image", "score")]
        for batch in feed
    ]
    return hashlib.sha256(repr(batches).encode()).hexdigest()


def listed(storage: Storage) -> str:
    """A hash of everything that is said about the newest version."""
    store = Store(storage)
    version = store.at()
    tables = (version.segments(), version.rejects(), version.tombstones(), version.missing())
    said = [table.to_pydict() for table in tables]
    return hashlib.sha256(repr([said, store.tags(), len(store.denied())]).encode()).hexdigest()


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with branches, takedowns, quarantine and a column group."""
    folder = tmp_path_factory.mktemp("reads") / "store"
    take_down_of(str(folder))
    score(str(folder))
    Store.open(str(folder)).tag("v1")
    return folder


@pytest.mark.parametrize("fault", ["short", "drop", "busy"])
@pytest.mark.parametrize("reader", [scanned, fed, listed])
def test_a_read_that_fails_is_an_error_or_nothing(
    reader: Reader, fault: Fault, store: Path
) -> None:
    """Each read of an object store in turn: the answer is the right one, or there is none."""
    inner = open_storage(str(store))
    sound = FaultyStorage(inner, FaultPlan(remote=True))
    right = reader(sound)
    reads = sum(operation == "read" for operation, _ in sound.done)
    assert reads >= 5
    errors = 0
    for number in range(1, reads + 1):
        rule = Rule(fault, operations=("read",), first=number, bytes=3)
        try:
            assert reader(FaultyStorage(inner, FaultPlan((rule,), remote=True))) == right
        except (StoreError, TransientError, ConnectionError):
            errors += 1
    assert errors >= reads - 2


@pytest.mark.parametrize("reader", [scanned, fed, listed])
def test_a_file_that_is_a_half_is_never_taken_for_whole(reader: Reader, store: Path) -> None:
    """What a disk without power makes of files: each in turn, and `verify` finds those it reads."""
    inner = open_storage(str(store))
    right = reader(inner)
    for path in [entry.path for entry in inner.list("") if not entry.path.startswith("reports")]:
        file, data = store / path, (store / path).read_bytes()
        file.write_bytes(data[: len(data) // 2])
        try:
            assert reader(inner) == right, path
        except StoreError:
            pass
        finally:
            file.write_bytes(data)


@pytest.mark.parametrize("late", [1, 3, 8])
def test_lists_that_are_late_hide_no_commit(
    late: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The newest changes do not show in lists: versions and units are there all the same.

    At the worst a unit is made again, and found to be there.
    """
    storage = FaultyStorage(open_storage(str(tmp_path / "late")), FaultPlan(late=late))
    for uri, opened in (("prompt", open_storage(str(tmp_path / "prompt"))), ("late", storage)):
        monkeypatch.setattr(tokenmill.store.store, "open_storage", lambda *_, s=opened: s)
        for count in (6, 6, 9, 9):
            run_job(noise(str(tmp_path / uri), count), observer=SilentObserver())
    store = Store(storage)
    assert store.snapshot().number == 2
    assert content_of(tmp_path / "late") == content_of(tmp_path / "prompt")
    assert verify_store(store, store.snapshot()).problems == ()
