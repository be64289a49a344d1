"""Videos and shapes: the same store from any number of actors, whatever becomes of them."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tokenmill.store import Store
from tokenmill.store.verify import verify_store
from tokenmill.testing.faults import content_of
from tokenmill_infra.observe import SilentObserver
from tokenmill_pipelines.jobs import run_job
from tokenmill_pipelines.run import RunResult
from tokenmill_schemas.job import Job, job_table, read_job, resolve_paths

JOBS = Path(__file__).parents[2] / "pipelines" / "jobs"
DRIVE = Path(__file__).with_name("drive.py")
RAY = ("cluster.backend=ray", "cluster.cpus_per_actor=1")

#: Small views, so that the time goes into what is tested, and many units.
MEDIA = {
    "video": ("view.size=64", "view.fps=4", "view.frames=8", "shards.unit_assets=4"),
    "shape": ("view.resolution=32", "shards.unit_assets=7"),
}
#: An asset in the middle of the listing; what breaks, breaks at it.
VICTIM = {"video": "videos/band/singer.mkv", "shape": "shapes/forms/prism.stl"}

JobOf = Callable[..., Job]
media = pytest.mark.parametrize("media", MEDIA)


def job_of(media: str, store: Path, *overrides: str) -> Job:
    """The demo job of a modality with small views, by one actor in this process unless told."""
    fixed = (f"store.uri={store}", "cluster.backend=local", "cluster.actors=1")
    return read_job(JOBS / f"tiny_{media}s.toml", overrides=(*MEDIA[media], *fixed, *overrides))


def faulty(media: str, fault: str, *, once: Path | None = None) -> str:
    """The override that gives the victim a fault: amid a film, or once a shape is read."""
    where = f', once = "{once}"' if once else ""
    return (
        'decoder={kind = "tokenmill.testing.faulty_media:FaultyMedia", '
        f'decoder = "{media}", faults = {{"{VICTIM[media]}" = "{fault}"}}{where}}}'
    )


def run(job: Job) -> RunResult:
    """Run a job; its store must be sound."""
    result = run_job(job, observer=SilentObserver())
    store = Store.open(result.store_uri)
    assert verify_store(store, store.snapshot()).problems == ()
    return result


def same(*results: RunResult) -> None:
    """All stores hold the same bytes under the same names, and say so."""
    first, *others = results
    content = content_of(first.store_uri)
    assert any(name.startswith("data/") for name in content)
    for other in others:
        assert content_of(other.store_uri) == content
        assert (other.content_id, other.totals) == (first.content_id, first.totals)


def bad_of(result: RunResult) -> dict[str, str]:
    """Reasons by key."""
    return {key: reason for key, reason, _ in result.quarantine}


@pytest.fixture(scope="module", autouse=True)
def _no_reports() -> Iterator[None]:
    """What a store holds is at stake here, and no page; drawing one takes longer than the run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tokenmill_pipelines.stages.publish_report", lambda _run: "")
        yield


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], RunResult]:
    """Gives the store of a modality that nothing has touched."""
    made: dict[str, RunResult] = {}

    def make(media: str) -> RunResult:
        if media not in made:
            made[media] = run(job_of(media, tmp_path_factory.mktemp("whole") / media))
        return made[media]

    return make


Whole = Callable[[str], RunResult]


@media
def test_three_actors_in_one_process_make_the_store_of_one(
    media: str, whole: Whole, tmp_path: Path
) -> None:
    """Byte for byte, with several decoders each."""
    more = ("cluster.actors=3", "cluster.decode_threads=2")
    same(whole(media), run(job_of(media, tmp_path / "three", *more)))
    assert VICTIM[media] not in bad_of(whole(media))


@media
def test_a_driver_killed_amid_an_asset_is_finished_by_the_next(
    media: str, whole: Whole, tmp_path: Path
) -> None:
    """SIGKILL while a film plays or a shape is read; what was done is not done again."""
    store, once = tmp_path / "store", tmp_path / "once"
    once.mkdir()
    job = job_of(media, store, faulty(media, "kill", once=once))
    file = tmp_path / "job.json"
    file.write_text(json.dumps(job_table(resolve_paths(job))))
    killed = subprocess.run(
        [sys.executable, str(DRIVE), str(file)], capture_output=True, timeout=120, check=False
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert not (store / "_log").exists()
    kept = len(list((store / "receipts").glob("*.json")))
    result = run(job)
    assert result.done["reused_units"] == kept
    same(whole(media), result)


@media
def test_a_decoder_that_hangs_costs_its_asset_alone(
    media: str, whole: Whole, tmp_path: Path
) -> None:
    """Its neighbours in the unit are as they were."""
    job = job_of(media, tmp_path / "store", faulty(media, "hang"), "limits.asset_deadline_s=8.0")
    result = run(job)
    assert bad_of(result) == bad_of(whole(media)) | {VICTIM[media]: "deadline"}
    assert rows_of(result) == [row for row in rows_of(whole(media)) if row[0] != VICTIM[media]]


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
class TestRay:
    """The same over Ray."""

    @media
    def test_one_and_three_actors_make_the_store_of_no_ray_at_all(
        self, media: str, whole: Whole, tmp_path: Path
    ) -> None:
        """Byte for byte."""
        results = [
            run(job_of(media, tmp_path / f"ray-{n}", *RAY, f"cluster.actors={n}")) for n in (1, 3)
        ]
        same(whole(media), *results)

    @media
    def test_an_actor_killed_amid_an_asset_costs_nothing_but_time(
        self, media: str, whole: Whole, tmp_path: Path
    ) -> None:
        """SIGKILL: another process makes its units; a second run finds nothing to do."""
        once = tmp_path / "once"
        once.mkdir()
        job = job_of(media, tmp_path / "store", *RAY, faulty(media, "kill", once=once))
        result = run(job)
        assert len(list(once.iterdir())) == 1
        same(whole(media), result)
        again = run(job)
        assert (again.committed, again.done["units"]) == (False, 0)
        same(whole(media), again)

    @media
    def test_an_asset_that_kills_ends_in_quarantine_alone(
        self, media: str, whole: Whole, tmp_path: Path
    ) -> None:
        """A segfault amid a film, each time it plays; all its neighbours are tokenized."""
        job = job_of(media, tmp_path / "store", *RAY, faulty(media, "segfault"))
        result = run(job)
        assert bad_of(result) == bad_of(whole(media)) | {VICTIM[media]: "killed_worker"}
        assert rows_of(result) == [row for row in rows_of(whole(media)) if row[0] != VICTIM[media]]


def rows_of(result: RunResult) -> list[tuple[str, bytes]]:
    """Key and tokens of every sample, in the order of the store."""
    store = Store.open(result.store_uri)
    rows: list[tuple[str, bytes]] = []
    paths = store.segments(store.snapshot(), ["path"]).column("path").to_pylist()
    for path in filter(None, paths):  # a unit without samples has no shard
        with store.shard(path) as shard:
            for batch in shard.batches():
                found = batch.select(["asset_key", store.snapshot().spec.streams[0].name])
                rows += [(row["asset_key"], bytes(str(row), "utf-8")) for row in found.to_pylist()]
    return rows
