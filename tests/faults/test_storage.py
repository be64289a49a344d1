"""Storages keep their contract, and the faulty one breaks it exactly as it is told."""

from __future__ import annotations

import errno
import os
import pickle
import signal
import subprocess
import sys
import uuid
from pathlib import Path

import pytest

from tokenmill.testing.storage import Fault, FaultPlan, FaultyStorage, Rule
from tokenmill.testing.storage_contract import check_storage
from tokenmill_infra.storage import Storage, open_storage, scratch
from tokenmill_infra.storage.local import LocalStorage
from tokenmill_schemas.errors import TransientError


def faulty(folder: Path, *rules: Rule) -> FaultyStorage:
    """A local storage with faults."""
    return FaultyStorage(open_storage(str(folder)), FaultPlan(rules))


@pytest.mark.parametrize("kind", ["local", "memory", "faulty", "remote", "s3"])
def test_every_storage_keeps_the_contract(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Ours, on disk, in memory and on a server; and a faulty one that has no faults."""
    (tmp_path / "spool").mkdir()
    local = open_storage(str(tmp_path / "deep" / "store"))
    storages: dict[str, Storage] = {
        "local": local,
        "memory": open_storage(f"memory://{uuid.uuid4().hex}/store"),
        "faulty": FaultyStorage(local),
        "remote": FaultyStorage(local, FaultPlan(remote=True)),
    }
    root = request.getfixturevalue("s3_root") if kind == "s3" else ""
    check_storage(open_storage(root) if root else storages[kind], tmp_path / "spool")


class Overwriting(LocalStorage):
    """A storage without conditional creates."""

    def create(self, path: str, data: bytes) -> None:
        """Create or replace."""
        self.delete(path)
        LocalStorage.create(self, path, data)


class Unsorted(LocalStorage):
    """A storage that lists as it likes."""

    def list(self, prefix: str):  # type: ignore[no-untyped-def]  # inherited
        """Reverse the list."""
        return reversed(list(LocalStorage.list(self, prefix)))


@pytest.mark.parametrize(
    ("kind", "promise"),
    [(Overwriting, "second create of a name raises"), (Unsorted, "sorted by path")],
)
def test_the_contract_finds_a_storage_that_breaks_it(
    kind: type[LocalStorage], promise: str, tmp_path: Path
) -> None:
    """It says which promise is broken."""
    with pytest.raises(AssertionError, match=promise):
        check_storage(kind(tmp_path / "store"), tmp_path)


def test_a_rule_strikes_the_occurrences_that_it_names(tmp_path: Path) -> None:
    """The second and third create below ``data``; nothing else counts."""
    storage = faulty(tmp_path, Rule("busy", path="data/*", first=2, times=2))
    failed = []
    for name in ("data/1", "log/1", "data/2", "data/3", "data/4"):
        try:
            storage.create(name, b"x")
        except TransientError:
            failed.append(name)
    assert failed == ["data/2", "data/3"]
    assert [entry.path for entry in storage.list("")] == ["data/1", "data/4", "log/1"]
    assert storage.writes[:2] == [("create", "data/1"), ("create", "log/1")]


def test_processes_count_together_if_they_share_a_file(tmp_path: Path) -> None:
    """A copy, as an actor has it, goes on where the others are; without a file it starts anew."""
    inner = open_storage(str(tmp_path / "store"))
    rules = (Rule("busy", first=2), Rule("full", first=3))
    for counts, second in (("", None), (str(tmp_path / "counts"), TransientError)):
        storage = FaultyStorage(inner, FaultPlan(rules, counts=counts))
        storage.create(f"a{bool(counts)}", b"1")
        copy: FaultyStorage = pickle.loads(pickle.dumps(storage))
        assert copy == storage
        if second is None:
            copy.create("b", b"1")
        else:
            with pytest.raises(second):
                copy.create("b", b"1")
            with pytest.raises(OSError, match="No space"):
                storage.create("c", b"1")


def test_a_lost_answer_leaves_the_file(tmp_path: Path) -> None:
    """It happened, but the caller cannot know."""
    storage = faulty(tmp_path, Rule("lost"))
    with pytest.raises(TransientError, match="create of a failed"):
        storage.create("a", b"1")
    assert storage.read("a") == b"1"


@pytest.mark.parametrize(("fault", "number"), [("full", errno.ENOSPC), ("read_only", errno.EROFS)])
def test_a_disk_that_refuses_keeps_nothing(fault: Fault, number: int, tmp_path: Path) -> None:
    """The error is the operating system's own."""
    (tmp_path / "spool").write_bytes(b"1")
    storage = faulty(tmp_path / "store", Rule(fault, times=0))
    with pytest.raises(OSError, match=os.strerror(number)):
        storage.create("a", b"1")
    with pytest.raises(OSError, match=os.strerror(number)):
        storage.create_from("b", tmp_path / "spool")
    assert list(storage.list("")) == []
    assert (tmp_path / "spool").exists()


def test_a_disk_has_the_room_that_the_plan_says(tmp_path: Path) -> None:
    """Ten bytes: four and six fit, one more does not."""
    storage = FaultyStorage(open_storage(str(tmp_path)), FaultPlan(room_bytes=10))
    storage.create("a", b"1234")
    with pytest.raises(OSError, match="No space"):
        storage.create("b", b"1234567")
    storage.create("b", b"123456")
    with pytest.raises(OSError, match="No space"):
        storage.create("c", b"1")
    assert [entry.size_bytes for entry in storage.list("")] == [4, 6]


def test_reads_break_or_end_early(tmp_path: Path) -> None:
    """With an error, or without one."""
    rules = (Rule("drop", operations=("read",)), Rule("short", "*", ("read",), first=2, bytes=3))
    storage = faulty(tmp_path, *rules)
    storage.create("a", b"123456")
    with pytest.raises(ConnectionError):
        storage.read("a")
    assert storage.read("a") == b"123"
    assert storage.read("a") == b"123456"


def test_a_half_file_is_under_its_name(tmp_path: Path) -> None:
    """No storage of ours does that; a disk that lost its power may."""
    (tmp_path / "spool").write_bytes(b"123456")
    storage = faulty(tmp_path / "store", Rule("half", times=0, bytes=2))
    storage.create("a", b"123456")
    storage.create_from("b", tmp_path / "spool")
    assert [storage.read(name) for name in ("a", "b")] == [b"12", b"12"]


def test_a_late_list_shows_the_past(tmp_path: Path) -> None:
    """The two newest changes do not show; reading by name always does."""
    storage = FaultyStorage(open_storage(str(tmp_path)), FaultPlan(late=2))
    for name in ("a", "b"):
        storage.create(name, b"1")
    assert [entry.path for entry in storage.list("")] == []
    storage.delete("a")
    assert not storage.exists("a")
    assert [entry.path for entry in storage.list("")] == ["a"]
    storage.create("dir/c", b"1")
    assert [entry.path for entry in storage.list("")] == ["a", "b"]
    assert [entry.path for entry in storage.list("dir")] == []
    storage.create("dir/d", b"1")
    assert [entry.path for entry in storage.list("")] == ["b"]
    assert storage.exists("dir/d")


def test_a_skewed_clock_shows_in_lists(tmp_path: Path) -> None:
    """An hour ahead of this machine's."""
    inner = open_storage(str(tmp_path))
    inner.create("a", b"1")
    ahead = next(FaultyStorage(inner, FaultPlan(skew_s=3600.0)).list(""))
    assert ahead.modified == next(inner.list("")).modified + 3600.0


DIES = """
import pickle, sys
pickle.loads(bytes.fromhex(sys.argv[1])).create("data/a", b"123456")
"""


@pytest.mark.parametrize(
    ("fault", "named", "hidden"),
    [("kill_before", [], []), ("kill_after", ["data/a"], []), ("torn", [], [b"", b"123"])],
)
def test_kills_leave_all_or_nothing(
    fault: Fault, named: list[str], hidden: list[bytes], tmp_path: Path
) -> None:
    """Of a torn file only what is swept by the next writer; readers see no part of it."""
    storage = faulty(tmp_path, Rule(fault, bytes=3))
    code = [sys.executable, "-c", DIES, pickle.dumps(storage).hex()]
    assert subprocess.run(code, check=False).returncode == -signal.SIGKILL
    assert [entry.path for entry in storage.list("")] == named
    left = [path for path in tmp_path.glob(".scratch/**/*") if path.is_file()]
    assert sorted(path.read_bytes() for path in left) == hidden
    with scratch(storage):
        pass
    assert not list(tmp_path.rglob(".*"))
