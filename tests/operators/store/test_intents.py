"""Intents: everybody at work on a store is seen, and whoever has ended is not waited for."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tokenmill.store import intents, paths
from tokenmill.store.intents import GC, Intent, hold, live, now_of, others, sweep_dead
from tokenmill.testing.storage import FaultPlan, FaultyStorage, Rule
from tokenmill_infra.storage import open_storage
from tokenmill_infra.storage.storage import Storage
from tokenmill_schemas.errors import StoreError, TransientError


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    """An empty store's storage."""
    return open_storage(str(tmp_path / "store"))


def test_an_operation_is_seen_for_as_long_as_it_runs(storage: Storage) -> None:
    """Also if it ends with an error; and it says what it is."""
    with hold(storage, "run", note="nightly") as intent:
        assert live(storage) == [intent]
        assert intent.describe().startswith("run (nightly) on ")
        assert abs(now_of(storage) - time.time()) < 60
    with pytest.raises(KeyError), hold(storage, "tag"):
        raise KeyError
    assert live(storage) == []
    assert list(storage.list(paths.RUNNING)) == []


def test_it_is_renewed_and_leaves_no_second_file(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A failed renewal is tried again."""
    monkeypatch.setattr(intents, "RENEW_S", 0.02)
    rule = Rule("busy", operations=("create",), first=2, times=2)
    faulty = FaultyStorage(storage, FaultPlan((rule,)))
    with hold(faulty, "run") as intent:
        first = {entry.path for entry in storage.list(paths.RUNNING)}
        deadline = time.monotonic() + 10
        while first & {entry.path for entry in storage.list(paths.RUNNING)}:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert live(storage) == [intent]
    assert list(storage.list(paths.RUNNING)) == []


def test_it_ages_out_by_the_storages_clock(storage: Storage, tmp_path: Path) -> None:
    """One that was not renewed for half an hour is over; whose it was cannot be asked."""
    with hold(storage, "run"):
        (file,) = (tmp_path / "store" / paths.RUNNING).iterdir()
        elsewhere = json.loads(file.read_bytes()) | {"space": "another machine", "intent_id": "x"}
        old = file.with_name("x-1.json")
        old.write_text(json.dumps(elsewhere))
        assert len(live(storage)) == 2
        then = file.stat().st_mtime - intents.LIVE_S - 1
        os.utime(old, (then, then))
        assert len(live(storage)) == 1
        assert sweep_dead(storage) == [f"{paths.RUNNING}/x-1.json"]
        assert sweep_dead(storage) == []


def test_one_whose_process_was_killed_is_over_at_once(storage: Storage) -> None:
    """On the machine that it was on; another machine waits for it to age."""
    code = (
        "import os, sys\n"
        "from tokenmill.store.intents import hold\n"
        "from tokenmill_infra.storage import open_storage\n"
        "with hold(open_storage(sys.argv[1]), 'run'):\n"
        "    os._exit(9)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, storage.uri], check=False)
    assert done.returncode == 9
    assert len(list(storage.list(paths.RUNNING))) == 1
    assert live(storage) == []
    assert len(sweep_dead(storage)) == 1


def test_numbers_of_processes_mean_nothing_elsewhere() -> None:
    """A container has other processes under them, or none."""
    gone = subprocess.Popen([sys.executable, "-c", ""])
    os.waitid(os.P_PID, gone.pid, os.WEXITED | os.WNOWAIT)
    assert Intent("run", "a", "host", gone.pid, "", intents.process_space()).is_over
    gone.wait()
    here = Intent("run", "a", "host", gone.pid, "", intents.process_space())
    assert here.is_over
    assert not Intent("run", "a", "host", gone.pid, "", "other").is_over
    assert not Intent("run", "a", "host", gone.pid).is_over
    assert not Intent("run", "a", "host", os.getpid(), "", intents.process_space()).is_over


def test_a_damaged_one_still_says_that_somebody_is_there(storage: Storage) -> None:
    """Who it is cannot be read, and nothing may be deleted under it."""
    storage.create(f"{paths.RUNNING}/odd-1.json", b"{}")
    (intent,) = live(storage)
    assert intent.kind == "unreadable"


def test_everybody_waits_for_a_gc_and_not_for_ever(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run begins when the gc has ended; if that takes too long, it says who it is."""
    monkeypatch.setattr(intents, "GC_POLL_S", 0.01)
    begun: list[str] = []

    def run() -> None:
        with hold(storage, "run"):
            begun.append("run")

    with hold(storage, GC):
        thread = threading.Thread(target=run)
        thread.start()
        deadline = time.monotonic() + 10
        while len(live(storage)) < 2:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert begun == []
    thread.join(timeout=10)
    assert begun == ["run"]
    monkeypatch.setattr(intents, "GC_WAIT_S", 0.05)
    with (
        hold(storage, GC),
        pytest.raises(StoreError, match="is being cleaned by gc on"),
        hold(storage, "run"),
    ):
        begun.append("never")
    assert begun == ["run"]


def test_a_gc_sees_the_others_or_refuses(storage: Storage) -> None:
    """Its own is left out; a storage that does not show that is not to be believed."""
    with hold(storage, "run", note="a") as run, hold(storage, GC) as mine:
        assert others(storage, mine) == [run]
        assert others(storage, run) == [mine]
    with pytest.raises(StoreError, match="may go unseen"):
        others(storage, mine)


def test_an_intent_whose_answer_was_lost_is_taken_back(storage: Storage) -> None:
    """Else it would hold everybody for half an hour."""
    rule = Rule("lost", operations=("create",))
    with (
        pytest.raises(TransientError),
        hold(FaultyStorage(storage, FaultPlan((rule,))), "run"),
    ):
        raise AssertionError
    assert list(storage.list(paths.RUNNING)) == []


def test_what_is_done_is_done_also_if_the_intent_stays(storage: Storage) -> None:
    """A commit must not fail at its end because a file could not be deleted."""
    rule = Rule("busy", operations=("delete",), times=0)
    with hold(FaultyStorage(storage, FaultPlan((rule,))), "run"):
        pass
    assert len(live(storage)) == 1
