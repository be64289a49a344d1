"""Checks before a commit: what is measured, what stops a run, and how it goes on."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import ROOT

from tokenmill.store import Store
from tokenmill.store.compact import compact
from tokenmill.store.verify import verify_store
from tokenmill.testing.faults import content_of
from tokenmill_infra.observe import JsonObserver, SilentObserver
from tokenmill_pipelines.assemble import assemble
from tokenmill_pipelines.checks import breaches, checks_of, silences
from tokenmill_pipelines.jobs import plan_job, retry_store, run_job
from tokenmill_pipelines.run import RunResult
from tokenmill_schemas.entropy import combine, entropy_of
from tokenmill_schemas.errors import JobError, QualityError
from tokenmill_schemas.job import Job, LimitsConfig, read_job
from tokenmill_schemas.snapshot import Receipt

JobOf = Callable[..., Job]
DAMAGED = "tokenmill.testing.damage:DamagedVQ"


def damaged(how: str = "", **limits: float) -> dict[str, Any]:
    """The sections of a job whose device is broken in some way, or is not."""
    return {"tokenizer": {"kind": DAMAGED, "damage": how}, "limits": limits}


def run(job: Job) -> RunResult:
    """Run a job; what it commits must be sound."""
    result = run_job(job, observer=SilentObserver())
    store = Store.open(result.store_uri)
    assert verify_store(store, store.snapshot()).problems == ()
    return result


def receipts(job: Job) -> dict[str, Any]:
    """What the receipts of a job's store say of its shards, without what differs by nature."""
    files = Path(job.store.uri, "receipts").glob("*.json")
    values = [json.loads(file.read_text()) for file in files]
    return {
        value["unit_id"]: {k: v for k, v in value.items() if k != "seconds"} for value in values
    }


def test_figures_depend_on_the_samples_and_on_nothing_else(noise_job: JobOf) -> None:
    """Actors, threads and batches: the same receipts, and shards as without any check."""
    sections = damaged(check_samples=2)
    ways: dict[str, dict[str, Any]] = {
        "one": {"cluster": {"actors": 1}},
        "three": {"cluster": {"actors": 3, "decode_threads": 2}},
        "small": {"limits": {"check_samples": 2, "batch_size": 1}},
    }
    jobs = {name: noise_job(name, **(sections | more)) for name, more in ways.items()}
    results = [run(job) for job in jobs.values()]
    assert receipts(jobs["one"]) == receipts(jobs["three"]) == receipts(jobs["small"])
    bare = noise_job("bare", **damaged())
    results.append(run(bare))
    assert len({result.content_id for result in results}) == 1
    assert content_of(bare.store.uri) == content_of(jobs["one"].store.uri)
    for value in receipts(jobs["one"]).values():
        assert value["checks"]["metric"] == "psnr_db"
        assert [set(sample) for sample in value["checks"]["samples"]] == 2 * [
            {"sample_id", "figure"}
        ]
        assert value["entropy"]["image"]["1"]["groups"] == value["samples"] == 6
    assert all("checks" not in value and "entropy" in value for value in receipts(bare).values())


def test_a_breach_commits_nothing_and_another_limit_encodes_nothing(noise_job: JobOf) -> None:
    """The message names the limit, the worst shards and their samples."""
    whole = run(noise_job("whole", **damaged(min_psnr_db=1)))
    mean = whole.checks["round_trip"]["mean"]
    limit = round(mean - 1.5, 1)
    broken = noise_job(**damaged("shuffled", min_psnr_db=limit))
    with pytest.raises(QualityError) as caught:
        run(broken)
    text = str(caught.value)
    assert (
        f"4 of 4 shards decode to a mean PSNR below limits.min_psnr_db = {limit:g}: data/" in text
    )
    assert "; and 1 more; nothing was committed" in text
    assert "picture-00" in text
    assert Store.of(broken.store.uri).log.head_number() == 0
    assert len(receipts(broken)) == 4
    result = run(noise_job(**damaged("shuffled", min_psnr_db=1)))
    assert (result.committed, result.done["units"], result.done["reused_units"]) == (True, 0, 4)
    assert result.checks["round_trip"]["worst"] < limit <= mean
    assert result.checks["round_trip"]["samples"] == 16


def test_shards_are_judged_by_their_mean(noise_job: JobOf) -> None:
    """A sample below the limit is no breach, and a good shard does not outweigh a bad one."""
    job = noise_job(**damaged(min_psnr_db=1))
    run(job)
    found = checks_of(Store.open(job.store.uri).receipts(list(receipts(job))).values(), {}, 0)
    figures = [value for shard in found.shards for _, value in shard.figures]
    means = [mean for mean, _ in found.means]
    assert means == sorted(means)
    assert min(figures) < means[0] < max(figures)
    assert breaches(found, LimitsConfig(min_psnr_db=means[0])) == []
    (text,) = breaches(found, LimitsConfig(min_psnr_db=means[0] + 0.001))
    assert text.startswith("1 of 4 shards")
    assert found.means[0][1].path in text


@pytest.mark.parametrize(
    ("how", "text"),
    [
        ("decoder", r"RuntimeError: the device is gone, said <object object>"),
        ("smaller", r"decodes to \[16, 16, 3\], not to \[32, 32, 3\]"),
    ],
)
def test_what_cannot_be_held_against_its_view_is_a_breach(
    noise_job: JobOf, how: str, text: str
) -> None:
    """A decoder that fails, or gives another size, says nothing good of the tokens."""
    with pytest.raises(QualityError, match=rf"16 samples could not be held .*{text}"):
        run(noise_job(**damaged(how, min_psnr_db=1)))
    unlimited = run(noise_job(**damaged(how)))
    assert (unlimited.committed, unlimited.checks["round_trip"]["errors"]) == (True, 16)


def test_a_decoder_without_memory_is_said_and_stops_nothing(
    noise_job: JobOf, tmp_path: Path
) -> None:
    """It is nobody's fault but the machine's, and known only to it."""
    log = (tmp_path / "log").open("w+")
    run_job(noise_job(**damaged("memory", min_psnr_db=1)), observer=JsonObserver(log))
    log.seek(0)
    assert "no sample of 4 shards could be measured" in log.read()
    log.close()


def test_shards_that_nobody_measured_do_not_pass_a_limit(noise_job: JobOf) -> None:
    """A run that was stopped before its commit had no limit; now there is one."""
    with pytest.raises(QualityError, match="max_entropy_drift"):
        _drifting(noise_job, max_entropy_drift=0.5)
    job = _more(noise_job, "collapse", min_psnr_db=1)
    with pytest.raises(QualityError, match=r"2 shards were made by .* delete receipts/") as caught:
        run(job)
    names = [word.rstrip(",") for word in str(caught.value).split() if word.startswith("receipts/")]
    for name in names:
        Path(job.store.uri, name).unlink()
    result = run(_more(noise_job, min_psnr_db=1))
    assert (result.done["units"], result.checks["round_trip"]["shards"]) == (2, 2)


def _more(noise_job: JobOf, how: str = "", **limits: float) -> Job:
    """A job that lists 12 pictures more than the store of `_drifting` has."""
    return noise_job(source={"count": 36}, **damaged(how, **limits))


def _drifting(noise_job: JobOf, **limits: float) -> RunResult:
    """Run twice: the second time the device gives one id for everything."""
    run(noise_job(**damaged()))
    return run(_more(noise_job, "collapse", **limits))


def test_ids_that_collapse_drift(noise_job: JobOf) -> None:
    """The first version is compared with nothing; then what is new is held against it."""
    first = noise_job(**damaged("", max_entropy_drift=0.001))
    assert {one["drift"] for one in run(first).checks["entropy"]} == {None}
    pattern = (
        r"ids of stream 'image' have an entropy of 0.000 bits in a sample, of .* in snapshot 1"
    )
    with pytest.raises(QualityError, match=pattern):
        run(_more(noise_job, "collapse", max_entropy_drift=0.5))
    result = run(_more(noise_job, "collapse"))
    (one,) = (each for each in result.checks["entropy"] if each["samples"] == 1)
    assert one["bits"] == 0 < one["bits_before"] == -one["drift"]
    assert (one["ids"], result.snapshot_number) == (1, 2)


def test_samples_that_are_all_alike_drift_in_groups_only(noise_job: JobOf) -> None:
    """Each is as varied as ever: only several together tell."""
    units = {"shards": {"unit_assets": 12}}
    run(noise_job(**damaged(), **units))
    stale = noise_job(source={"count": 48}, **damaged("stale", max_entropy_drift=0.9), **units)
    with pytest.raises(QualityError) as caught:
        run(stale)
    assert "in 8 samples" in str(caught.value)
    assert "in a sample" not in str(caught.value)


def test_versions_keep_the_sums_of_their_receipts(noise_job: JobOf) -> None:
    """Appends add, a restore goes back, a merge adds what a branch did, compaction changes none."""
    run(noise_job(source={"count": 12}, **damaged()))
    store = Store.open(noise_job().store.uri)
    store.create_branch("side")
    run(noise_job(name="other", source={"start": 12, "count": 12}, **damaged()))
    third = noise_job(name="third", source={"start": 24, "count": 6}, **damaged())
    run(replace(third, store=replace(third.store, branch="side")))
    first, second = (store.snapshot(number).entropy for number in (1, 2))
    side = store.snapshot("side").entropy
    assert [entropy_of(sums, "image", 1).groups for sums in (first, second, side)] == [12, 24, 18]
    merged = store.merge("side").entropy
    assert merged == combine(second, side, less=first)
    every = combine(*(receipt["entropy"] for receipt in receipts(noise_job()).values()))
    assert merged == every
    compact(store, target_rows=30)
    assert store.snapshot().number == 4
    assert store.snapshot().entropy == every
    assert store.restore(1).entropy == first


def test_a_version_without_sums_is_compared_with_nothing(noise_job: JobOf, tmp_path: Path) -> None:
    """An older library wrote none: the run says so, and the next version has those it knows."""
    job = noise_job(**damaged())
    run(job)
    (file,) = Path(job.store.uri, "_log").glob("*.json")
    value = json.loads(file.read_text())
    del value["entropy"]
    file.write_text(json.dumps(value))
    with (tmp_path / "log").open("w+") as log:
        run_job(_more(noise_job, max_entropy_drift=0.001), observer=JsonObserver(log))
        log.seek(0)
        assert "snapshot 1 keeps no entropy to compare with" in log.read()
    assert entropy_of(Store.open(job.store.uri).snapshot().entropy, "image", 1).groups == 12


def test_a_retry_is_checked_too(noise_job: JobOf) -> None:
    """By the job that made the newest version."""
    faults = {"source": {"faults": {"picture-0003": "error"}}}
    job = noise_job(**damaged("", min_psnr_db=1), **faults)
    run(job)
    store = Store.open(job.store.uri)
    snapshot = store.log.head()
    assert snapshot is not None
    table = snapshot.job | {"source": {**snapshot.job["source"], "faults": {}}}
    table["limits"] = {**snapshot.job["limits"], "min_psnr_db": 90.0}
    file = Path(job.store.uri, "_log", f"{1:020}.json")
    file.write_text(json.dumps(json.loads(file.read_text()) | {"job": table}))
    with pytest.raises(QualityError, match="1 of 1 shards decode to a mean PSNR below"):
        retry_store(job.store.uri, observer=SilentObserver())
    assert store.log.head_number() == 1


@pytest.mark.parametrize(
    ("name", "limit", "sets", "metric"),
    [
        ("tiny_videos", "min_psnr_db", ("view.size=64", "view.fps=4", "view.frames=8"), "psnr_db"),
        ("tiny_videos", "min_psnr_db", ("view.size=64", "view.frames=0", "view.fps=4"), "psnr_db"),
        ("tiny_shapes", "min_iou", ("view.resolution=32",), "iou"),
    ],
    ids=["clips", "films", "volumes"],
)
def test_clips_and_volumes_are_measured(
    tmp_path: Path, name: str, limit: str, sets: tuple[str, ...], metric: str
) -> None:
    """Whole films come to the device in parts; what is measured is one clip all the same."""
    fixed = (f"store.uri={tmp_path}/store", "cluster.backend=local", "cluster.actors=1")
    if name == "tiny_videos" and "view.frames=0" in sets:
        sets = (*sets, "view.frames_rule=4k")
    file = ROOT / "pipelines" / "jobs" / f"{name}.toml"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tokenmill_pipelines.stages.publish_report", lambda _run: "")
        with pytest.raises(QualityError, match=rf"limits\.{limit} = ") as caught:
            run(read_job(file, overrides=(*sets, *fixed, f"limits.{limit}={_most(metric)}")))
        assert "could not be held" not in str(caught.value)
        found = run(read_job(file, overrides=(*sets, *fixed, f"limits.{limit}=0.05")))
    trip = found.checks["round_trip"]
    assert (trip["metric"], trip["errors"], trip["passed_over"]) == (metric, 0, 0)
    assert trip["mean"] > (18 if metric == "psnr_db" else 0.5)


def _most(metric: str) -> int:
    return 100 if metric == "psnr_db" else 1


def test_limits_that_could_never_be_checked_are_the_jobs_error(noise_job: JobOf) -> None:
    """A plan says so already: no decoder, no such figure, no ids."""
    for limits, text in (
        ({"min_psnr_db": 20}, r"limits\.min_psnr_db: the tokenizer has no decoder"),
        ({"min_iou": 0.5}, r"limits\.min_iou: the view gives image.* limits\.min_psnr_db is for"),
    ):
        with pytest.raises(JobError, match=text):
            plan_job(noise_job(limits=limits))
    assert assemble(noise_job(limits={"check_samples": 3})).worker_spec(0.0).metric == ""
    latents = {"kind": "cosmos", "variant": "CI8x8", "checkpoint": "random:0"}
    with pytest.raises(JobError, match=r"limits\.max_entropy_drift: the tokenizer gives latents"):
        assemble(noise_job(tokenizer=latents, limits={"max_entropy_drift": 1}))


def test_a_tokenizer_without_a_decoder_is_said_where_samples_are_asked_for(
    noise_job: JobOf,
) -> None:
    """It is no error: the same limits may be every job's."""
    result = run(noise_job(limits={"check_samples": 3}))
    assert (result.committed, result.checks["round_trip"]) == (True, {})
    found = checks_of([_receipt()], {}, 0)
    (text,) = silences(found, LimitsConfig(check_samples=3))
    assert text.startswith("no sample of 1 shards was decoded again")


def _receipt() -> Receipt:
    return Receipt("u", "p", 0, "data/u", "arrow", *(9, 9, 9), "sha256", assets=9, batch_rows=9)


def test_units_without_samples_are_no_shards(noise_job: JobOf) -> None:
    """Nothing can be measured of what is not there, and no limit is broken by it."""
    faults = {"source": {"faults": {f"picture-{n:04d}": "error" for n in range(6)}}}
    result = run(noise_job(**damaged("", min_psnr_db=1), **faults))
    assert result.checks["round_trip"]["shards"] == 3


def test_the_report_has_a_section(noise_job: JobOf) -> None:
    """The figures, the limit, the worst shards; without figures it is left out."""
    page = Path(run(noise_job(**damaged(min_psnr_db=1))).report).read_text()
    for text in ("Checks before the commit", "Round trip", "limits.min_psnr_db = 1", "worst shard"):
        assert text in page
    assert page.count(".arrow</td>") == 4
    second = run(noise_job("store", source={"count": 36}, **damaged(max_entropy_drift=3)))
    page = Path(second.report).read_text()
    assert "Round trip" not in page
    assert "limits.max_entropy_drift is 3 bits" in page
    assert "snapshot 1" in page
