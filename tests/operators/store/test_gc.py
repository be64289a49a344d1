"""gc of real stores: it takes what nobody may want, and never what anybody holds."""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path

import pyarrow as pa
import pytest
from tests.operators.store.scenes import JobOf, files, made, shown, sound, under_way

from tokenmill.store import Store, paths
from tokenmill.store.gc import DAY_S, gc
from tokenmill.store.groups import add_group, from_table
from tokenmill.store.sweep import Marks
from tokenmill.store.takedown import takedown
from tokenmill.testing.storage import FaultPlan, FaultyStorage, Rule
from tokenmill_infra.observe import SilentObserver
from tokenmill_pipelines.jobs import run_job
from tokenmill_schemas.errors import StoreError, TransientError


def aged(root: Path, seconds: float, below: str = "") -> None:
    """Let all files of a store have been written earlier."""
    for path in (root / below).rglob("*"):
        if path.is_file():
            then = path.stat().st_mtime - seconds
            os.utime(path, (then, then))


def leftovers(noise_job: JobOf, folder: Path) -> set[str]:
    """What a run leaves that is killed before its commit; returns its files."""
    root = folder / "store"
    before = set(files(root))
    job = noise_job(name="killed", source={"count": 6, "start": 60})
    with under_way(job, folder / f"killed-{time.monotonic_ns()}"):
        pass
    return set(files(root)) - before


def test_what_versions_name_stays_and_what_nobody_names_goes(
    noise_job: JobOf, tmp_path: Path
) -> None:
    """After the grace period, by the storage's clock, and as the dry run has said."""
    store, root = made(noise_job(source={"count": 12})), tmp_path / "store"
    scores = pa.table({"sample_id": shown(store), "score": [1.0] * 12})
    add_group(store, "scores", from_table(scores))
    takedown(store, keys=["picture-0003"])
    store.create_branch("b", 1)
    before = files(root)
    left = leftovers(noise_job, tmp_path)
    assert {name.split("/")[0] for name in left} == {"data", "plans", "receipts"}
    assert gc(store).deleted == 0
    assert gc(store).young == 1, "the receipt, and what it names stays for its sake"
    aged(root, 8 * DAY_S)
    look = gc(store, dry_run=True)
    assert {path for path, _ in look.files} == left
    assert set(files(root)) == set(before) | left
    done = gc(store)
    assert files(root) == before
    assert (done.files, done.bytes, done.deleted) == (look.files, look.bytes, len(left))
    assert done.bytes == sum(size for _, size in done.files)
    assert sound(store)
    assert gc(store, grace_s=0).deleted == 0


def test_a_receipt_that_stays_keeps_what_it_names(noise_job: JobOf, tmp_path: Path) -> None:
    """Its shard and its plan were written a little earlier, and may be just too old."""
    store, root = made(noise_job(source={"count": 6})), tmp_path / "store"
    left = leftovers(noise_job, tmp_path)
    aged(root, 8 * DAY_S, "data")
    aged(root, 8 * DAY_S, "plans")
    assert gc(store).deleted == 0
    assert left <= set(files(root))
    again = run_job(
        noise_job(name="killed", source={"count": 6, "start": 60}), observer=SilentObserver()
    )
    assert again.done["reused_units"] == 1
    assert sound(store)


def test_nothing_goes_while_a_run_is_under_way(noise_job: JobOf, tmp_path: Path) -> None:
    """It says who holds it; then the run commits what it made."""
    made(noise_job(source={"count": 6}))
    job = noise_job(source={"count": 12})
    with under_way(job, tmp_path / "run") as (store, commit):
        aged(tmp_path / "store", 8 * DAY_S, "data")
        done = gc(store, grace_s=0)
        assert "held by run (noise) on " in done.held
        assert done.deleted == 0
        assert "run (noise)" in gc(store, grace_s=0, dry_run=True).held
        store.commit(commit)
    assert len(shown(store)) == 12
    assert sound(store)
    assert gc(store, grace_s=0).deleted == 0


def test_whoever_comes_in_the_middle_stops_it(
    noise_job: JobOf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was deleted till then is gone, what is left is whole, and the run can go on."""
    monkeypatch.setattr("tokenmill.store.sweep.BATCH", 1)
    store = made(noise_job(source={"count": 6}))
    left = leftovers(noise_job, tmp_path)

    class Coming(FaultyStorage):
        """A storage on which a run begins when the first file is deleted."""

        def delete(self, path: str) -> None:
            super().delete(path)
            if path in left:
                coming.__enter__()

    coming = store.hold("run", note="new")
    monkeypatch.setattr("tokenmill.store.intents._wait_for_gc", lambda storage: None)
    done = gc(Store(Coming(store.storage)), grace_s=0)
    coming.__exit__(None, None, None)
    assert "run (new)" in done.held
    assert done.deleted == 1
    job = noise_job(name="killed", source={"count": 6, "start": 60})
    assert run_job(job, observer=SilentObserver()).totals["samples"] == 12
    assert sound(store)


def test_old_versions_are_let_go_of_unless_something_holds_them(
    noise_job: JobOf, tmp_path: Path
) -> None:
    """Tags, newest versions, and where branches begin; the age is how long it was superseded."""
    root = tmp_path / "store"
    for count in (4, 6, 8, 10, 12):
        store = made(noise_job(source={"count": count}))
    store.tag("paper", 2)
    store.create_branch("at-3", 3)
    for number in range(1, 6):
        file = root / paths.log_file(number)
        then = time.time() - (6 - number) * DAY_S
        os.utime(file, (then, then))
    assert gc(store, expire_older_than_s=4.5 * DAY_S).expired == ()
    look = gc(store, expire_older_than_s=1.5 * DAY_S, dry_run=True)
    assert look.expired == ("main:1",)
    assert store.log.numbers() == [1, 2, 3, 4, 5]
    store.on("at-3").tag("x", "at-3")
    done = gc(store, expire_older_than_s=0.5 * DAY_S, grace_s=0)
    assert done.expired == ("main:1", "main:4")
    assert store.log.numbers() == [2, 3, 5]
    assert len(shown(store.on("at-3"))) == 8
    assert len(shown(store, "paper")) == 6
    assert sound(store)
    run_job(noise_job(source={"count": 14}), observer=SilentObserver())
    assert store.snapshot().number == 6
    assert sound(store)


def test_what_a_merge_needs_is_held(noise_job: JobOf, tmp_path: Path) -> None:
    """Where the branch began, and later its version that was merged last."""
    store = made(noise_job(source={"count": 6}))
    branch = store.create_branch("b")
    scores = pa.table({"sample_id": shown(store), "score": [1.0] * 6})
    add_group(branch, "scores", from_table(scores))
    made(noise_job(source={"count": 9}))
    for count in (1, 2):
        takedown(store, keys=[f"picture-000{count}"])
        aged(tmp_path / "store", 2 * DAY_S)
        assert gc(store, expire_older_than_s=DAY_S, grace_s=0).expired != ()
        assert store.log.numbers()[0] == 1
        store.merge("b")
        assert [group.name for group in store.snapshot().groups] == ["scores"]
    assert sound(store)


def test_what_a_deleted_branch_held_goes(noise_job: JobOf, tmp_path: Path) -> None:
    """Its versions' files, and what is left of its log."""
    store, root = made(noise_job(source={"count": 6})), tmp_path / "store"
    before = set(files(root))
    branch = store.create_branch("b")
    scores = pa.table({"sample_id": shown(branch), "score": [1.0] * 6})
    add_group(branch, "scores", from_table(scores))
    store.delete_branch("b")
    (root / paths.BRANCHES / "b").mkdir(parents=True, exist_ok=True)
    (root / paths.log_file(2, "b")).write_text("{}")
    assert gc(store, grace_s=0).deleted >= 3
    assert set(files(root)) == before
    assert sound(store)


def test_intents_of_the_dead_and_their_scratch_go(noise_job: JobOf, tmp_path: Path) -> None:
    """Nobody renews them any more; a run that was killed on this machine is known to be over."""
    store, root = made(noise_job(source={"count": 6})), tmp_path / "store"
    (root / paths.RUNNING).mkdir(exist_ok=True)
    old = root / paths.RUNNING / "other-machine-1.json"
    old.write_text(
        json.dumps({"kind": "run", "intent_id": "i", "host": "elsewhere", "pid": 1, "note": ""})
    )
    assert "elsewhere" in gc(store, grace_s=0).held
    os.utime(old, (0, 0))
    rubbish = root / ".scratch" / "dead"
    rubbish.mkdir(parents=True)
    (rubbish / "new").write_text("half a shard")
    rubbish.with_suffix(".lock").touch()
    done = gc(store, grace_s=0)
    assert (done.held, done.dead_intents) == ("", 1)
    assert not old.exists()
    assert not rubbish.exists()


def test_late_listings_make_it_refuse(noise_job: JobOf) -> None:
    """Who does not see its own intent would not see another's."""
    store = made(noise_job(source={"count": 6}))
    late = Store(FaultyStorage(store.storage, FaultPlan(late=3)))
    with pytest.raises(StoreError, match="does not show this operation's own intent"):
        gc(late, grace_s=0)


def test_a_damaged_manifest_makes_it_refuse(noise_job: JobOf, tmp_path: Path) -> None:
    """It cannot tell what is needed, so it deletes nothing."""
    store, root = made(noise_job(source={"count": 6})), tmp_path / "store"
    left = leftovers(noise_job, tmp_path)
    (segment,) = (root / paths.SEGMENTS).iterdir()
    segment.write_bytes(segment.read_bytes()[:-1])
    with pytest.raises(StoreError, match="sha256"):
        gc(store, grace_s=0)
    assert left <= set(files(root))


def test_killed_at_any_deletion_runs_go_on(noise_job: JobOf, tmp_path: Path) -> None:
    """A receipt goes before its shard, so what is left of a run is always good to go on from."""
    made(noise_job(source={"count": 6}))
    left = leftovers(noise_job, tmp_path)
    base = tmp_path / "store"
    for number in range(1, len(left) + 2):
        copy = tmp_path / f"copy-{number}"
        shutil.copytree(base, copy)
        store = Store.of(str(copy))
        rule = Rule("busy", operations=("delete",), first=number, times=0)
        faulty = Store(FaultyStorage(store.storage, FaultPlan((rule,))))
        if number <= len(left):
            with pytest.raises(TransientError):
                gc(faulty, grace_s=0)
        else:
            assert gc(faulty, grace_s=0).deleted == len(left)
        shutil.rmtree(copy / paths.RUNNING, ignore_errors=True)
        job = noise_job(f"copy-{number}", name="killed", source={"count": 6, "start": 60})
        assert run_job(job, observer=SilentObserver()).totals["samples"] == 12
        assert sound(store)


def test_marks_are_a_set_of_paths() -> None:
    """However many are added, and in whichever order."""
    marks = Marks()
    assert marks.among(["a"]).tolist() == [False]
    for start in range(0, 3000, 100):
        marks.add(f"data/{i}" for i in range(start, start + 100, 2))
        marks.add(f"data/{i}" for i in range(start, start + 100, 2))
    asked = [f"data/{i}" for i in range(3001)]
    assert marks.among(asked).tolist() == [i % 2 == 0 and i < 3000 for i in range(3001)]
