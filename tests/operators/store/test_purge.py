"""Purges of real stores: not a byte is left of what was taken down, and all else is as before."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import s3fs
from tests.operators.store.scenes import JobOf, files, made, mentions, shown, sound, under_way

from tokenmill.feed import Feed
from tokenmill.shards.columns import count_tokens
from tokenmill.store import Store, paths
from tokenmill.store.compact import compact
from tokenmill.store.gc import gc
from tokenmill.store.groups import add_group, from_table
from tokenmill.store.purge import DueReport, execute_due, purge
from tokenmill.store.takedown import takedown
from tokenmill.store.verify import verify_store
from tokenmill.testing.s3server import S3Server
from tokenmill.testing.storage import FaultPlan, FaultyStorage, Rule
from tokenmill_infra.observe import SilentObserver
from tokenmill_pipelines.jobs import retry_store, run_job
from tokenmill_schemas.errors import JobError, SnapshotNotFoundError, StoreError, TransientError

#: One with samples, one that failed, one that is listed twice, one that another run left behind.
GONE = ["picture-0003", "picture-0004", "picture-0001", "picture-0040"]
QUIET = SilentObserver()
LOST = {"count": 3, "start": 39}
KEPT = {"count": 2, "start": 50}


def a_full_store(noise_job: JobOf, folder: Path, **sections: Any) -> Store:
    """A store with versions, a tag, a branch, quarantine, a column group, and what runs left."""
    source = {"count": 14, "faults": {"picture-0004": "error"}, "repeated": ["picture-0001"]}
    store = made(noise_job(source=source, **sections))
    store.tag("before")
    store.create_branch("b")
    table = pa.table({"sample_id": shown(store), "score": [float(i) for i in range(13)]})
    add_group(store, "scores", from_table(table))
    with under_way(noise_job(name="lost", source=LOST, **sections), folder / "lost"):
        pass
    with under_way(noise_job(name="kept", source=KEPT, **sections), folder / "kept"):
        pass
    return store


def done(store: Store) -> DueReport:
    """Purge at once."""
    assert purge(store, grace_s=0).number is not None
    report = execute_due(store)
    assert report.held == ""
    return report


@pytest.mark.parametrize("form", ["arrow", "webdataset"])
def test_nothing_in_the_store_names_them_any_more(
    noise_job: JobOf, tmp_path: Path, form: str
) -> None:
    """Not in any byte, nor in any decoded column; and everything else is as it was."""
    store = a_full_store(noise_job, tmp_path, shards={"format": form})
    root = tmp_path / "store"
    before, rejects = shown(store), store.rejects(store.snapshot())
    takedown(store, keys=GONE)
    assert len(mentions(root, GONE)) > 10
    report = done(store)
    # What the text of a job says stays, and the receipt tells where.
    assert json.loads(report.receipt)["jobs"] == ["main:4", "b:3"]
    for branch in (store, store.on("b")):
        file = root / paths.log_file(branch.snapshot().number, branch.branch)
        version = json.loads(file.read_bytes())
        assert not any(name in json.dumps(version | {"job": {}}) for name in GONE)
        file.unlink()
        file.write_text(json.dumps(version | {"job": {}}))
    assert mentions(root, GONE) == []
    assert shown(store) == [name for name in before if name.split("#")[0] not in GONE]
    assert shown(store.on("b")) == shown(store)
    kept = {row["asset_key"] for row in rejects.to_pylist()} - {"picture-0001#duplicate-1", GONE[1]}
    assert set(store.rejects(store.snapshot()).column("asset_key").to_pylist()) == kept
    assert sound(store)
    assert store.tags() == {}
    with pytest.raises(SnapshotNotFoundError):
        store.snapshot(1)
    totals = store.snapshot().totals
    assert (totals["samples"], totals["assets"], totals.get("hidden", 0)) == (11, 11, 0)
    assert json.loads(report.receipt)["tags"] == {"before": "main:1"}


def test_the_receipt_says_what_was_removed_from_which_versions(
    noise_job: JobOf, tmp_path: Path
) -> None:
    """Its hash is in the chain, whose records hold each other's."""
    store = made(noise_job(source={"count": 12}))
    old = store.segments(store.snapshot()).to_pylist()
    takedown(store, keys=["picture-0003"], reason="request 7")
    report = done(store)
    receipt = json.loads(report.receipt)
    record = store.takedowns.records()[-1]
    assert report.sha256 == hashlib.sha256(report.receipt).hexdigest() == record.facts["receipt"]
    assert (record.kind, record.number) == ("purged", report.number)
    assert receipt["shards"] == {
        old[0]["path"]: {"sha256": old[0]["sha256"], "rows": 1, "versions": ["main:1", "main:2"]}
    }
    assert list(receipt["versions"]) == ["main:1", "main:2"]
    key = hashlib.blake2b(b"picture-0003", digest_size=16).hexdigest()
    assert receipt["digests"]["assets"] == [key]
    assert receipt["requests"]["1"]["reason"] == "request 7"
    assert receipt["files"]["data"] == [1, old[0]["bytes"]]
    chain = [json.loads(data) for name, data in files(tmp_path / "store").items() if _record(name)]
    assert [one["kind"] for one in chain] == ["takedown", "purge", "purged"]
    assert receipt["records"]["1"] == chain[1]["previous"]


def _record(name: str) -> bool:
    return name.startswith(f"{paths.TAKEDOWNS}/") and name.count("/") == 1


def test_what_stays_keeps_its_bytes_and_its_order(noise_job: JobOf) -> None:
    """Only the shard that held one is written anew, in the form that it had; feeds go on."""
    store = made(noise_job(source={"count": 24}, shards={"unit_assets": 8, "batch_rows": 3}))
    before = store.segments(store.snapshot()).to_pylist()
    tokens = [batch.to_pylist() for batch in store.at().scan()]
    takedown(store, keys=["picture-0009"])
    hidden = Feed(store, batch_size=2, shuffle="none")
    done(store)
    after = store.segments(store.snapshot()).to_pylist()
    assert [a["path"] == b["path"] for a, b in zip(before, after, strict=True)] == [1, 0, 1]
    assert [row["samples"] for row in after] == [8, 7, 8]
    assert [row["assets"] for row in after] == [8, 7, 8]
    assert (after[1]["min_key"], after[1]["max_key"]) == ("picture-0008", "picture-0015")
    with store.shard(after[1]["path"]) as shard:
        counts = [count_tokens(shard.layout.spec, batch) for batch in shard.batches()]
    assert after[1]["tokens"] == sum(counts) < before[1]["tokens"]
    wanted = [row for rows in tokens for row in rows if row["asset_key"] != "picture-0009"]
    assert [row for batch in store.at().scan() for row in batch.to_pylist()] == wanted
    with store.shard(after[1]["path"]) as shard:
        assert [batch.num_rows for batch in shard.batches()] == [3, 3, 1]
    assert hidden.rows == Feed(store, batch_size=2).rows == 23


def test_an_asset_at_the_edge_of_a_shard_is_named_by_no_bound(noise_job: JobOf) -> None:
    """Manifest rows hold the least and the greatest key; and a unit may lose all it had."""
    store = made(noise_job(source={"count": 12}, shards={"unit_assets": 4}))
    takedown(store, keys=["picture-0000", *(f"picture-{i:04d}" for i in range(4, 8))])
    done(store)
    rows = store.segments(store.snapshot()).to_pylist()
    assert [(row["min_key"], row["max_key"]) for row in rows] == [
        ("picture-0001", "picture-0003"),
        ("picture-0008", "picture-0011"),
    ]
    assert sound(store)


def test_single_samples_leave_their_asset_where_it_is(noise_job: JobOf, tmp_path: Path) -> None:
    """One that loses all of its samples counts as filtered, and is not tokenized again."""
    job = noise_job(source={"count": 6}, view={"kind": "ten_crop", "size": 16})
    store = made(job)
    ids = [f"picture-0002#{i}" for i in range(10)]
    takedown(store, keys=[*ids, "picture-0003#4"], by="sample_id")
    done(store)
    assert mentions(tmp_path / "store", [*ids, "picture-0003#4"]) == []
    (reject,) = store.rejects(store.snapshot()).to_pylist()
    assert reject["asset_key"] == reject["uri"] == "picture-0002"
    assert (reject["disposition"], reject["reason"]) == ("filtered", "taken_down")
    assert len(shown(store)) == 49
    assert sound(store)
    run_job(job, observer=QUIET)
    with pytest.raises(JobError, match="nothing to retry"):
        retry_store(store.uri, observer=QUIET)
    assert len(shown(store)) == 49


def test_hidden_samples_move_with_their_shard(noise_job: JobOf) -> None:
    """Rows behind a removed one have other numbers; those hidden for other reasons stay hidden."""
    store = made(noise_job(source={"count": 6}))
    drop = {"on_missing": "drop"}
    run_job(noise_job(source={"count": 5}, increment=drop), observer=QUIET)
    takedown(store, keys=["picture-0001", "picture-0003"])
    done(store)
    (tombstone,) = store.at().tombstones().to_pylist()
    assert (tombstone["asset_key"], tombstone["row"]) == ("picture-0005", 3)
    assert shown(store) == [f"picture-000{i}#0" for i in (0, 2, 4)]
    assert store.at().missing().num_rows == 1
    assert sound(store)
    takedown(store, keys=["picture-0005"])
    done(store)
    assert store.at().missing().num_rows == store.at().tombstones().num_rows == 0
    assert sound(store)


def test_until_it_is_due_older_versions_stay_and_after_that_what_was_restored_goes_too(
    noise_job: JobOf, tmp_path: Path
) -> None:
    """The newest version is clean at once; somebody restores an older one in the meantime."""
    store = made(noise_job(source={"count": 12}))
    takedown(store, keys=["picture-0003"])
    later = purge(store, grace_s=3600)
    assert later.number == 2
    assert later.due_versions == ("main:1", "main:2")
    assert purge(store, grace_s=3600).number == later.number
    report = execute_due(store)
    assert report.number is None
    assert report.waiting == (later.due_at,)
    assert len(shown(store, 1)) == 11
    assert gc(store, grace_s=0).deleted == 0 or sound(store)
    store.restore(1)
    store.create_branch("old", 1)
    run_job(noise_job(source={"count": 14}), observer=QUIET)
    takedown(store, keys=["picture-0013"])
    assert purge(store, grace_s=0).number == 4
    report = execute_due(store)
    assert report.waiting == ()
    assert mentions(tmp_path / "store", ["picture-0003", "picture-0013"]) == []
    assert len(shown(store)) == 12
    assert len(shown(store.on("old"))) == 11
    assert sound(store)


def test_a_takedown_after_a_purge_is_none_of_its_business(noise_job: JobOf) -> None:
    """What was taken down later stays in the store until it is purged itself."""
    store = made(noise_job(source={"count": 12}))
    takedown(store, keys=["picture-0003"])
    purge(store, grace_s=0)
    takedown(store, keys=["picture-0007"])
    assert execute_due(store).number is not None
    assert sum(row["samples"] for row in store.segments(store.snapshot()).to_pylist()) == 11
    assert len(shown(store)) == 10
    assert sound(store)
    assert done(store).number is not None
    assert sum(row["samples"] for row in store.segments(store.snapshot()).to_pylist()) == 10


def test_it_waits_for_a_run_that_is_under_way(noise_job: JobOf, tmp_path: Path) -> None:
    """And says for whom; what the run brings back is purged by the next one."""
    store = made(noise_job(source={"count": 6}))
    takedown(store, keys=["picture-0003", "picture-0010"])
    with under_way(noise_job(source={"count": 12}), tmp_path / "run") as (running, commit):
        purge(store, grace_s=0)
        with store.hold("run", note="noise"):
            report = execute_due(store)
        assert "run (noise) on" in report.held
        assert len(shown(store, 1)) == 5
        running.commit(commit)
    assert purge(store, grace_s=0).number is not None
    execute_due(store)
    assert mentions(tmp_path / "store", ["picture-0003", "picture-0010"]) == []
    assert len(shown(store)) == 10
    assert sound(store)


def test_interrupted_runs_go_on_from_what_names_nothing_denied(
    noise_job: JobOf, tmp_path: Path
) -> None:
    """Their receipts, shards and plans stay; those of a run that listed a denied asset go."""
    store = a_full_store(noise_job, tmp_path)
    takedown(store, keys=GONE)
    done(store)
    again = run_job(noise_job(name="kept", source=KEPT), observer=QUIET)
    assert again.done["reused_units"] == 1
    fresh = run_job(noise_job(name="lost", source=LOST), observer=QUIET)
    assert (fresh.done["reused_units"], fresh.done["samples"]) == (0, 2)
    assert "picture-0040#0" not in shown(store)
    assert sound(store)


def test_it_goes_together_with_compaction(noise_job: JobOf, tmp_path: Path) -> None:
    """Before and after the takedown, and between the purge and its execution."""
    small = {"unit_assets": 3}
    store = a_full_store(noise_job, tmp_path, shards=small)
    before = shown(store)
    assert compact(store).made
    takedown(store, keys=GONE)
    assert shown(store) == [name for name in before if name.split("#")[0] not in GONE]
    assert purge(store, grace_s=0).number is not None
    run_job(noise_job(name="more", source={"count": 5, "start": 70}, shards=small), observer=QUIET)
    assert compact(store).made
    assert execute_due(store).number is not None
    left = [name for name in mentions(tmp_path / "store", GONE) if not name.startswith("_")]
    assert left == []
    assert len(shown(store)) == len(before) - 2 + 5
    assert sound(store)


def test_a_branch_whose_beginning_was_purged_says_so_when_it_is_merged(noise_job: JobOf) -> None:
    """Both still hold all that they held; there is no common version to compare them with."""
    store = made(noise_job(source={"count": 6}))
    branch = store.create_branch("b")
    table = pa.table({"sample_id": shown(store), "score": [1.0] * 6})
    add_group(branch, "scores", from_table(table))
    takedown(store, keys=["picture-0003"])
    done(store)
    with pytest.raises(StoreError, match=r"'b' can be merged no more: version 1, .* was purged"):
        store.merge("b")
    assert len(shown(store.on("b"))) == 5
    assert sound(store)


def test_twice_is_once(noise_job: JobOf, tmp_path: Path) -> None:
    """A second purge finds nothing to do and changes nothing."""
    store = made(noise_job(source={"count": 12}))
    assert purge(store, grace_s=0).number is None
    takedown(store, keys=["picture-0003"])
    done(store)
    before = files(tmp_path / "store")
    assert purge(store, grace_s=0).number is None
    assert execute_due(store) == DueReport()
    assert takedown(store, keys=["picture-0003"]).number is None
    assert files(tmp_path / "store") == before


@pytest.mark.parametrize("fault", ["full", "lost"])
def test_interrupted_at_any_write_the_same_commands_complete_it(
    noise_job: JobOf, tmp_path: Path, fault: str
) -> None:
    """The content is that of a purge that nothing happened to, and nothing is named."""
    store = a_full_store(noise_job, tmp_path)
    store.refs.tag("again", store.snapshot())
    takedown(store, keys=GONE)
    base = tmp_path / "store"
    expected, writes = _purged(_copied(base, tmp_path / "whole"))
    assert writes > 30
    for number in _chosen(fault, writes):
        copy = _copied(base, tmp_path / f"{fault}-{number}")
        rule = Rule(fault, first=number)  # type: ignore[arg-type]
        _purged(copy, FaultPlan((rule,)))
        # The process lives on here, so its intent would be believed for half an hour.
        shutil.rmtree(copy / paths.RUNNING, ignore_errors=True)
        assert _purged(copy)[0] == expected
        # But for the text of jobs, of which another test tells.
        assert all(name.startswith(("_log/", "_refs/")) for name in mentions(copy, GONE))
        shutil.rmtree(copy)


def _chosen(fault: str, writes: int) -> Iterator[int]:
    """Every third write, before which it may end; a ninth of them happen and are not answered.

    A death at each of them is in ``tests/faults/test_protocol.py``.
    """
    yield from range(1, writes + 1, 3 if fault == "full" else 9)


def _copied(base: Path, to: Path) -> Path:
    shutil.copytree(base, to)
    return to


def _purged(root: Path, plan: FaultPlan | None = None) -> tuple[object, int]:
    """Purge; return what the store consists of then, None if it failed, and how often it wrote."""
    store = Store.of(str(root))
    faulty = FaultyStorage(store.storage, plan or FaultPlan())
    try:
        purge(Store(faulty), grace_s=0)
        execute_due(Store(faulty))
    except (OSError, TransientError):
        return None, len(faulty.writes)
    if plan is not None:
        return None, len(faulty.writes)
    heads = store.branches()
    for head in heads.values():
        assert verify_store(store.on(head.branch), head).problems == ()
    kinds = [record.kind for record in store.takedowns.records()]
    named = {name for name in files(root) if name.split("/")[0] not in (paths.TAKEDOWNS, paths.LOG)}
    return (kinds, named, {n: head.content_id for n, head in heads.items()}), len(faulty.writes)


@pytest.mark.s3
def test_on_an_object_store(noise_job: JobOf, s3_root: str, s3: S3Server, tmp_path: Path) -> None:
    """The same on a real S3 server, fetched whole to look at every byte."""
    job = noise_job(source={"count": 8})
    store = made(replace(job, store=replace(job.store, uri=s3_root)))
    takedown(store, keys=["picture-0003"])
    assert len(shown(store, 1)) == 7
    done(store)
    fs = s3fs.S3FileSystem(**s3.options, skip_instance_cache=True, use_listings_cache=False)
    fs.get(s3_root, str(tmp_path / "copy"), recursive=True)
    assert mentions(tmp_path / "copy", ["picture-0004"])
    assert mentions(tmp_path / "copy", ["picture-0003"]) == []
    assert gc(store, grace_s=0).held == ""
    assert sound(store)
