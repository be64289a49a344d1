from collections.abc import Callable
from pathlib import Path

import pytest

from tokenmill.store import Store
from tokenmill.store.verify import verify_store
from tokenmill.testing.faults import FAULTS, FaultyDecoder, content_of
from tokenmill_infra.observe import SilentObserver
from tokenmill_pipelines.encoding import UnitsFailedError
from tokenmill_pipelines.jobs import plan_job, retry_store, run_job
from tokenmill_pipelines.run import RunResult
from tokenmill_pipelines.stages import QuarantineError
from tokenmill_schemas.errors import AssetError, CorruptShardError, JobError, Reason
from tokenmill_schemas.job import Job

JobOf = Callable[..., Job]


def run(job: Job) -> RunResult:
    """Run a job."""
    return run_job(job, observer=SilentObserver())


def sound(uri: str) -> Store:
    """A store whose newest version has no problems."""
    store = Store.open(uri)
    assert verify_store(store, store.snapshot()).problems == ()
    return store


def test_the_sample_corpus_becomes_a_store(sample_job: JobOf) -> None:
    """36 pictures with their captions, 4 bad files with a reason each, and a report."""
    result = run(sample_job())
    store = sound(result.store_uri)
    assert (result.snapshot_number, result.committed) == (1, True)
    assert result.totals == {
        "shards": 5,
        "samples": 36,
        "tokens": 36 * 1024,
        "bytes": result.totals["bytes"],
        "assets": 40,
        "rejected": 4,
    }
    assert {(Path(key).name, reason) for key, reason, _ in result.quarantine} == {
        ("bomb.png", "too_many_pixels"),
        ("empty.png", "empty"),
        ("text.jpg", "unknown_format"),
        ("truncated.jpg", "truncated"),
    }
    assert set(result.wall_s) == {"list", "plan", "encode", "verify", "commit", "report"}
    assert Path(result.report).read_text().startswith("<!doctype html")
    with store.shard(store.segments(store.snapshot()).column("path")[0].as_py()) as shard:
        row = next(iter(shard.batches())).to_pylist()[0]
    assert row["caption"] == "A brown acorn"
    assert len(row["image"]) == 1024


def test_a_second_run_has_nothing_to_do(noise_job: JobOf) -> None:
    """It commits nothing and says so, and leaves no report but where there was none."""
    first = run(noise_job())
    second = run(noise_job())
    assert (Path(first.report).exists(), second.report) == (True, "")
    assert [p.name for p in Path(first.store_uri, "reports").iterdir()] == [Path(first.report).name]
    Path(first.report).unlink()
    assert Path(run(noise_job()).report).exists()
    assert (second.committed, second.snapshot_number, second.done["units"]) == (False, 1, 0)
    assert second.content_id == first.content_id
    assert sound(first.store_uri).log.numbers() == [1]


def test_a_grown_source_adds_a_version_equal_to_none_lost(noise_job: JobOf) -> None:
    """Only what is new is tokenized."""
    run(noise_job(source={"count": 10}))
    result = run(noise_job(source={"count": 15}))
    assert (result.snapshot_number, result.done["assets"], result.totals["samples"]) == (2, 5, 15)
    sound(result.store_uri)


def test_a_plan_says_what_a_run_would_do_and_does_nothing(noise_job: JobOf) -> None:
    """Assets, units, and those that are left; no reader of the store sees a trace."""
    job = noise_job(source={"count": 20, "repeated": ["picture-0000"]})
    summary = plan_job(job)
    assert (summary.assets, summary.new_assets, summary.duplicates) == (21, 21, 1)
    assert (summary.units, summary.new_units) == (4, 4)
    assert content_of(job.store.uri) == {}
    run(job)
    after = plan_job(noise_job(source={"count": 26, "repeated": ["picture-0000"]}))
    assert (after.assets, after.new_assets, after.units, after.new_units) == (27, 6, 1, 1)
    assert after.fingerprint == summary.fingerprint


def test_what_a_rule_leaves_out_is_counted(noise_job: JobOf) -> None:
    """Filtered assets are told apart from failed ones."""
    listed = {"count": 5, "repeated": ["picture-0000", "picture-0001"]}
    done = run(noise_job(source=listed, decoder={"faults": {"picture-0002": "error"}})).done
    assert (done["filtered"], done["quarantined"]) == (2, 1)


def test_too_much_quarantine_commits_nothing_and_keeps_the_work(noise_job: JobOf) -> None:
    """A limit on failures; raising it goes on from the receipts that are there."""
    bad = {"faults": {f"picture-{i:04d}": "error" for i in range(5)}}
    with pytest.raises(QuarantineError, match=r"5 of 24 assets failed.*= 0\.2 allows"):
        run(noise_job(decoder=bad, limits={"max_quarantined_fraction": 0.2}))
    result = run(noise_job(decoder=bad, limits={"max_quarantined_fraction": 0.21}))
    assert (result.done["units"], result.done["reused_units"]) == (0, 4)
    assert (result.committed, result.totals["rejected"]) == (True, 5)


def test_receipts_of_another_cut_name_this_runs_plan(noise_job: JobOf) -> None:
    """A run that stopped, then a source that grew: the store is that of one run over it all."""
    bad = {"faults": {"picture-0001": "error"}}
    with pytest.raises(QuarantineError):
        run(
            noise_job(
                "grown", source={"count": 12}, decoder=bad, limits={"max_quarantined_fraction": 0}
            )
        )
    grown = run(noise_job("grown", source={"count": 18}, decoder=bad))
    assert grown.done["reused_units"] == 2
    whole = run(noise_job("whole", source={"count": 18}, decoder=bad))
    assert grown.content_id == whole.content_id
    (part,) = sound(grown.store_uri).snapshot().plans
    segments = sound(grown.store_uri).segments(sound(grown.store_uri).snapshot())
    assert set(segments.column("plan").to_pylist()) == {part.path}


def test_a_unit_that_keeps_failing_leaves_the_others_done(
    noise_job: JobOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Storage that is away for one asset: nothing is committed, the next run does that unit."""
    monkeypatch.setattr("tokenmill_infra.cluster.ledger.MAX_RETRIES", 0)
    away = {"faults": {"picture-0007": "transient"}}
    with pytest.raises(UnitsFailedError, match=r"1 of 4 units failed.*come back later"):
        run(noise_job(source=away))
    result = run(noise_job())
    assert (result.done["units"], result.done["reused_units"]) == (1, 3)
    assert result.totals["samples"] == 24


def test_a_shard_that_went_missing_before_the_commit_is_told(
    noise_job: JobOf,
) -> None:
    """With what to do about it."""
    job = noise_job(
        decoder={"faults": {"picture-0000": "error"}}, limits={"max_quarantined_fraction": 0}
    )
    with pytest.raises(QuarantineError):
        run(job)
    shard = next(Path(job.store.uri, "data").iterdir())
    shard.unlink()
    with pytest.raises(CorruptShardError, match=r"is gone; delete receipts/[0-9a-f]{32}\.json"):
        run(noise_job())
    Path(job.store.uri, "receipts", f"{shard.name.split('-')[0]}.json").unlink()
    assert run(noise_job()).totals["assets"] == 24


def test_a_retry_brings_mended_assets_in(noise_job: JobOf, monkeypatch: pytest.MonkeyPatch) -> None:
    """What succeeds now leaves the quarantine; what fails again stays; nothing counts twice."""
    bad = {"faults": {"picture-0003": "error", "picture-0011": "memory"}}
    first = run(noise_job(decoder=bad))
    assert first.totals["rejected"] == 2
    decode = FaultyDecoder.decode

    def mended(self: FaultyDecoder, ref: object, stream: object) -> object:
        healed = FaultyDecoder({"picture-0011": "memory"}, limits=self.limits)
        return decode(healed, ref, stream)  # type: ignore[arg-type]  # as they came

    monkeypatch.setattr(FaultyDecoder, "decode", mended)
    result = retry_store(first.store_uri, observer=SilentObserver())
    store = sound(first.store_uri)
    head = store.snapshot()
    assert (result.snapshot_number, head.operation) == (2, "retry")
    assert head.totals == result.totals
    assert (head.totals["samples"], head.totals["assets"], head.totals["rejected"]) == (23, 24, 1)
    assert store.rejects(head).column("asset_key").to_pylist() == ["picture-0011"]
    assert verify_store(store, store.snapshot(1)).problems == (), "the old version is as it was"
    with pytest.raises(JobError, match="nothing to retry; reasons in quarantine: too_much_memory"):
        retry_store(first.store_uri, reasons=("truncated",), observer=SilentObserver())


def test_a_retry_that_mends_nothing_commits_nothing_and_the_next_one_tries_again(
    noise_job: JobOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two retries that fail as before, also beyond the job's limit; then the file is mended."""
    bad = {"faults": {"picture-0003": "error", "picture-0011": "error"}}
    first = run(noise_job(decoder=bad, limits={"max_quarantined_fraction": 0.1}))
    for _ in range(2):
        result = retry_store(first.store_uri, observer=SilentObserver())
        assert (result.committed, result.snapshot_number, result.quarantined) == (False, 1, 2)
        assert (result.done["units"], result.done["reused_units"]) == (1, 0)
    assert sound(first.store_uri).log.numbers() == [1]
    monkeypatch.setitem(FAULTS, "error", lambda: None)
    result = retry_store(first.store_uri, observer=SilentObserver())
    assert (result.committed, result.snapshot_number, result.quarantined) == (True, 2, 0)
    assert (result.totals["samples"], result.totals["rejected"]) == (24, 0)
    sound(first.store_uri)


def test_a_retry_that_fails_for_another_reason_is_kept(
    noise_job: JobOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The quarantine says what is wrong now."""
    first = run(noise_job(decoder={"faults": {"picture-0003": "error"}}))

    def refuse() -> None:
        raise AssetError(Reason.CORRUPT, "worse than before")

    monkeypatch.setitem(FAULTS, "error", refuse)
    result = retry_store(first.store_uri, observer=SilentObserver())
    assert (result.committed, result.totals["rejected"]) == (True, 1)
    store = sound(first.store_uri)
    assert store.rejects(store.snapshot()).column("reason").to_pylist() == ["corrupt"]


def test_an_interrupted_retry_goes_on_from_what_it_mended(
    noise_job: JobOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A unit without failures is not made twice; one with failures is."""
    bad = {"faults": {"picture-0003": "error", "picture-0011": "memory"}}
    first = run(noise_job(decoder=bad, shards={"unit_assets": 1}))
    monkeypatch.setitem(FAULTS, "error", lambda: None)

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as killed:
        killed.setattr(Store, "commit", interrupted)
        with pytest.raises(KeyboardInterrupt):
            retry_store(first.store_uri, observer=SilentObserver())
    result = retry_store(first.store_uri, observer=SilentObserver())
    assert (result.done["units"], result.done["reused_units"]) == (1, 1)
    assert (result.committed, result.totals["rejected"]) == (True, 1)
    sound(first.store_uri)


def test_a_failed_listing_makes_no_store(noise_job: JobOf) -> None:
    """Nor does a run leave hidden folders in one."""
    job = noise_job(source={"count": 0})
    with pytest.raises(JobError, match="lists no assets"):
        run(job)
    assert not Path(job.store.uri).exists()
    result = run(noise_job())
    assert not list(Path(result.store_uri).rglob(".*"))


@pytest.mark.parametrize("place", ["/proc/store", "{}/file", "{}/file/store"])
def test_a_place_without_a_store_is_the_jobs_error(
    noise_job: JobOf, tmp_path: Path, place: str
) -> None:
    """A filesystem that takes no folders, and a file in the way; before anything is listed."""
    if place.startswith("/proc") and not Path("/proc/self").exists():
        pytest.skip("no /proc on this system")
    (tmp_path / "file").touch()
    job = noise_job(place.format(tmp_path), source={"count": 0})
    with pytest.raises(JobError, match=r"^store\.uri: cannot make a store at .*directory"):
        run(job)


def test_tar_and_packed_stores_are_sound_too(sample_job: JobOf) -> None:
    """Every format and packing goes through the same stages."""
    for name, override in (("tar", "shards.format=webdataset"), ("bits", "shards.packing=bits")):
        assert run(sample_job(name, override)).totals["samples"] == 36
    sizes = [sound(str(sample_job(name).store.uri)).snapshot().totals for name in ("tar", "bits")]
    assert sizes[0]["tokens"] == sizes[1]["tokens"]


def test_more_local_actors_make_the_same_store(noise_job: JobOf) -> None:
    """One, and three with threads of their own."""
    results = [
        run(noise_job(f"of-{actors}", cluster={"actors": actors, "decode_threads": threads}))
        for actors, threads in ((1, 1), (3, 2))
    ]
    assert content_of(results[0].store_uri) == content_of(results[1].store_uri)
    assert results[0].content_id == results[1].content_id
