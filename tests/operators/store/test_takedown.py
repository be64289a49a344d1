"""Takedowns of real stores: what is shown of every version at once, and what never comes back."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from tests.operators.store.scenes import Between, JobOf, made, shown, sound, under_way

from tokenmill.feed import Feed
from tokenmill.store import Store, paths
from tokenmill.store.denied import allowed
from tokenmill.store.takedown import takedown
from tokenmill.store.takedowns import Takedowns
from tokenmill.store.verify import verify_store
from tokenmill.testing.storage import FaultPlan, FaultyStorage, Rule
from tokenmill_infra.observe import SilentObserver
from tokenmill_pipelines.jobs import run_job
from tokenmill_schemas.errors import CorruptShardError, JobError, StoreError, TransientError

GONE = ["picture-0003", "picture-0010"]
IDS = {f"{key}#0" for key in GONE}


def test_every_version_of_every_branch_stops_showing_them_at_once(noise_job: JobOf) -> None:
    """Older versions, tags and branches too; a state from before is refused, and says why."""
    store = made(noise_job(source={"count": 12}))
    store.tag("v1")
    run_job(noise_job(source={"count": 18}), observer=SilentObserver())
    branch = store.create_branch("b", 1)
    feed = Feed(store, ref="v1", batch_size=2, shuffle="none")
    next(iter(feed))
    state = feed.state_dict()
    done = takedown(store, keys=[*GONE, "nowhere"], reason="request 7")
    assert (done.number, done.assets, done.samples) == (1, 2, 2)
    assert done.unknown == ("nowhere",)
    assert done.versions == {"main": 3, "b": 2}
    for each, ref, count in ((store, 1, 10), (store, "v1", 10), (store, None, 16), (branch, 2, 10)):
        assert not IDS.intersection(shown(each, ref))
        assert len(shown(each, ref)) == count
        assert Feed(each, ref=ref, batch_size=2).rows == count
    assert store.snapshot().totals["samples"] == 16
    assert store.snapshot().totals["hidden"] == 2
    assert store.snapshot().operation == "takedown"
    with pytest.raises(StoreError, match=r"snapshot 1 .* samples of it were taken down since"):
        Feed(store, ref="v1", batch_size=2, shuffle="none").load_state_dict(state)
    assert sound(store)


def test_one_sample_alone(noise_job: JobOf) -> None:
    """Its asset keeps its other samples, and is not denied."""
    five = {"kind": "ten_crop", "size": 16}
    store = made(noise_job(source={"count": 6}, view=five))
    before = shown(store)
    done = takedown(store, keys=["picture-0002#1", "picture-0002#99"], by="sample_id")
    assert (done.assets, done.samples, done.unknown) == (1, 1, ("picture-0002#99",))
    assert shown(store, 1) == [name for name in before if name != "picture-0002#1"]
    assert allowed(store.storage, ["picture-0002"]) == {"picture-0002"}
    assert sound(store)


def test_by_a_filter_whole_assets_go(noise_job: JobOf) -> None:
    """A filter over companion columns; a column that there is not is the caller's mistake."""
    store = made(noise_job(source={"count": 12}))
    with pytest.raises(JobError, match="colour"):
        takedown(store, where="colour = 'red'")
    done = takedown(store, where="number >= 9 and asset.width = 32")
    assert (done.assets, done.samples) == (3, 3)
    assert len(shown(store, 1)) == 9
    assert not allowed(store.storage, ["picture-0009"])
    assert takedown(store, where="number >= 9").number is None


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        ({}, "name keys, or say where"),
        ({"keys": ["a"], "where": "number > 1"}, "and not both"),
        ({"keys": ["a", ""]}, "an empty key"),
        ({"keys": ["cat-7"], "reason": "the owner of cat-7 asked"}, "stay for ever"),
    ],
)
def test_requests_that_mean_nothing_are_refused(
    request_: dict[str, object], words: str, tmp_path: Path
) -> None:
    """Before anything is written; a record must not name what it takes down."""
    with pytest.raises(JobError, match=words):
        takedown(Store.of(str(tmp_path / "store")), **request_)  # type: ignore[arg-type]
    assert not (tmp_path / "store").exists()


def test_records_name_nobody(noise_job: JobOf, tmp_path: Path) -> None:
    """They stay for ever; names are in tables that a purge deletes."""
    store = made(noise_job(source={"count": 12}))
    takedown(store, keys=GONE)
    takedown(store, where="number = 5")
    for record in (tmp_path / "store" / paths.TAKEDOWNS).glob("*.json"):
        assert "picture" not in record.read_text()
        assert "number = 5" not in record.read_text()


def test_what_a_run_brings_back_unknowingly_is_hidden_by_its_commit(
    noise_job: JobOf, tmp_path: Path
) -> None:
    """The run listed and tokenized before the takedown, and commits after it."""
    job = noise_job(source={"count": 12})
    with under_way(job, tmp_path / "run") as (store, commit):
        assert takedown(store, keys=GONE).unknown == tuple(GONE)
        snapshot = store.commit(commit)
    assert snapshot.totals["samples"] == 10
    assert not IDS.intersection(shown(store))
    assert sound(store)


def test_a_takedown_in_the_very_moment_of_a_commit_is_seen_by_one_of_the_two(
    noise_job: JobOf, tmp_path: Path
) -> None:
    """The commit has looked for takedowns already when this one comes; it looks again."""
    first = made(noise_job(source={"count": 3}))
    with under_way(noise_job(source={"count": 12}), tmp_path / "run") as (store, commit):
        racing = Between(store.storage, "2.json", lambda: takedown(first, keys=["picture-0010"]))
        snapshot = Store(racing).commit(commit)
    assert racing.done == ["_log/00000000000000000002.json"]
    assert snapshot.number == 2
    for ref in (2, None):
        assert "picture-0010#0" not in shown(store, ref)
        assert len(shown(store, ref)) == 11
    assert store.snapshot().totals["hidden"] == 1
    assert sound(store)


def test_listing_them_again_brings_nothing_back(noise_job: JobOf) -> None:
    """Neither the same job nor one with more; nor a first listing of what was denied before."""
    store = made(noise_job(source={"count": 12}))
    takedown(store, keys=[*GONE, "picture-0014"])
    run_job(noise_job(source={"count": 12}), observer=SilentObserver())
    run_job(noise_job(source={"count": 18}), observer=SilentObserver())
    assert len(shown(store)) == 15
    assert not {*IDS, "picture-0014#0"}.intersection(shown(store))
    assert sound(store)


def test_an_asset_in_quarantine_is_known_and_may_not_be_retried(noise_job: JobOf) -> None:
    """Its row stays, so that the ledger holds."""
    store = made(noise_job(source={"count": 12, "faults": {"picture-0003": "error"}}))
    done = takedown(store, keys=GONE)
    assert (done.samples, done.unknown) == (1, ())
    assert store.rejects(store.snapshot()).num_rows == 1
    assert allowed(store.storage, ["picture-0003", "picture-0004"]) == {"picture-0004"}
    assert allowed(store.storage, ["picture-0003#duplicate-1"]) == frozenset()


def test_a_takedown_outlasts_other_reasons(noise_job: JobOf) -> None:
    """Samples that were hidden because their asset vanished stay hidden when it returns."""
    store = made(noise_job(source={"count": 6}))
    run_job(
        noise_job(source={"count": 4}, increment={"on_missing": "drop"}), observer=SilentObserver()
    )
    assert len(shown(store)) == 4
    takedown(store, keys=["picture-0005"])
    reasons = store.at().tombstones().select(["asset_key", "reason"]).to_pylist()
    assert {row["asset_key"]: row["reason"] for row in reasons} == {
        "picture-0004": "vanished",
        "picture-0005": "taken_down",
    }
    run_job(
        noise_job(source={"count": 6}, increment={"on_missing": "drop"}), observer=SilentObserver()
    )
    assert "picture-0005#0" not in shown(store)
    assert "picture-0004#0" in shown(store)
    assert sound(store)


def test_a_changed_record_breaks_the_chain(noise_job: JobOf, tmp_path: Path) -> None:
    """Records hold the hash of the bytes before them; unknown keys of newer ones are fine."""
    store = made(noise_job(source={"count": 12}))
    takedown(store, keys=GONE[:1])
    file = tmp_path / "store" / paths.takedown_file(1)
    newer = json.loads(file.read_bytes()) | {"witness": "a key of a later time"}
    file.write_text(json.dumps(newer))
    takedown(store, keys=GONE[1:])
    assert [record.number for record in store.takedowns.records()] == [1, 2]
    assert not IDS.intersection(shown(store, 1))
    file.write_text(json.dumps(newer | {"created_at": "never"}))
    with pytest.raises(CorruptShardError, match="does not follow"):
        Takedowns(store.storage).records()


@pytest.mark.parametrize("fault", ["full", "lost"])
def test_interrupted_at_any_write_the_same_request_completes_it(
    noise_job: JobOf, tmp_path: Path, fault: str
) -> None:
    """One record, one version, the same content as if nothing had happened."""
    store = made(noise_job(source={"count": 12}))
    store.create_branch("b")
    base = tmp_path / "store"
    expected, writes = _taken_down(_copied(base, tmp_path / "whole"))
    assert writes >= 8
    for number in range(1, writes + 1):
        copy = _copied(base, tmp_path / f"{fault}-{number}")
        rule = Rule(fault, operations=("create", "delete"), first=number)  # type: ignore[arg-type]
        _taken_down(copy, FaultPlan((rule,)))
        assert _taken_down(copy)[0] == expected


def _copied(base: Path, to: Path) -> Path:
    shutil.copytree(base, to)
    return to


def _taken_down(root: Path, plan: FaultPlan | None = None) -> tuple[object, int]:
    """Take down; return what the store holds then, None if it failed, and how often it wrote."""
    store = Store.of(str(root))
    faulty = FaultyStorage(store.storage, plan or FaultPlan())
    try:
        takedown(Store(faulty), keys=GONE)
    except (OSError, TransientError):
        return None, len(faulty.writes)
    heads = store.branches()
    for head in heads.values():
        assert verify_store(store.on(head.branch), head).problems == ()
    assert {name: head.number for name, head in heads.items()} == {"main": 2, "b": 2}
    content = {name: head.content_id for name, head in heads.items()}
    return (len(store.takedowns.records()), content), len(faulty.writes)
