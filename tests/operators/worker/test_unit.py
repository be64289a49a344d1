"""Units through a worker in this process: what becomes of every asset, whatever happens to it."""

from __future__ import annotations

import io
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tokenmill.testing.faults import HANG_S, BlockMeans, NoisePictures, content_of, view_number
from tokenmill.worker.spec import UnitTask
from tokenmill.worker.worker import Worker, device_name
from tokenmill_infra.observe import SilentObserver
from tokenmill_pipelines.assemble import Assembly, assemble
from tokenmill_pipelines.listing import list_assets, plan_units
from tokenmill_schemas.asset import AssetRef
from tokenmill_schemas.errors import CheckpointError, TokenmillError, TransientError
from tokenmill_schemas.job import Job
from tokenmill_schemas.snapshot import Receipt

JobOf = Callable[..., Job]


def planned(job: Job, folder: Path) -> tuple[Assembly, list[UnitTask]]:
    """List and plan a job."""
    assembly = assemble(job)
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "listing.parquet"
    listing = list_assets(assembly, file, head=None, observer=SilentObserver())
    return assembly, [UnitTask(unit) for unit in plan_units(assembly, listing).units]


def made(job: Job, folder: Path) -> tuple[Assembly, list[Receipt]]:
    """Make all units of a job, one after the other."""
    assembly, tasks = planned(job, folder)
    worker = Worker(assembly.worker_spec(0.0))
    receipts = [worker.run(task) for task in tasks]
    worker.close()
    return assembly, [receipt for receipt in receipts if receipt is not None]


def rows(assembly: Assembly, receipts: list[Receipt]) -> list[dict[str, Any]]:
    """All rows of all shards."""
    found: list[dict[str, Any]] = []
    for receipt in receipts:
        if receipt.path:
            with assembly.store.shard(receipt.path) as shard:
                found += [row for batch in shard.batches() for row in batch.to_pylist()]
    return found


def reasons(receipts: list[Receipt]) -> dict[str, tuple[str, str]]:
    """Reason and stage of every reject."""
    return {r.asset_key: (r.reason, r.stage) for receipt in receipts for r in receipt.rejects}


def expected(number: int, side: int = 32) -> Any:
    """The block means of a picture of `NoisePictures`."""
    from PIL import Image

    source = NoisePictures(number + 1, (side,))
    with source.open(AssetRef(f"picture-{number:04d}", "")) as stream:
        pixels = np.asarray(Image.open(io.BytesIO(stream.read())))
    encoder = BlockMeans().load()
    return pixels, encoder.encode(pixels[None])


def test_a_unit_becomes_its_rows_in_the_order_of_the_listing(
    noise_job: JobOf, tmp_path: Path
) -> None:
    """Tokens, keys, companions and facts of each row belong to the same picture."""
    assembly, receipts = made(noise_job(source={"count": 10}), tmp_path)
    found = rows(assembly, receipts)
    assert [row["asset_key"] for row in found] == [f"picture-{i:04d}" for i in range(10)]
    assert [row["number"] for row in found] == list(range(10))
    for number, row in enumerate(found):
        _, tokens = expected(number)
        assert row["image"] == tokens["image"][0].ravel().tolist()
        assert row["run"] == tokens["run"][0].tolist()
        assert row["run.shape"] == [len(tokens["run"][0])]
    assert [r.samples for r in receipts] == [6, 4]
    assert sum(r.tokens for r in receipts) == 10 * 16 + sum(len(row["run"]) for row in found)
    assert len({len(row["run"]) for row in found}) > 1


@pytest.mark.parametrize(
    ("view", "views"),
    [({"kind": "random_crops", "size": 24, "count": 3}, 3), ({"kind": "native", "multiple": 8}, 1)],
)
def test_a_units_rows_do_not_depend_on_which_batch_is_done_first(
    noise_job: JobOf, tmp_path: Path, view: dict[str, Any], views: int
) -> None:
    """Several views a picture, or several shapes: batches mix assets, rows do not."""
    many = {"source": {"count": 14, "sides": [40, 32, 48]}, "view": view}
    shards = []
    for name, limits in (("a", {"batch_size": 1}), ("b", {"batch_size": 5}), ("c", {})):
        assembly, receipts = made(noise_job(name, **many, limits=limits), tmp_path)
        shards.append(content_of(assembly.store.uri))
        found = rows(assembly, receipts)
        order = [(row["asset_key"], row["view.index"]) for row in found]
        assert order == [(f"picture-{i:04d}", view) for i in range(14) for view in range(views)]
        assert len({row["sample_id"] for row in found}) == 14 * views
    assert shards[0] == shards[1] == shards[2]


def test_views_of_several_shapes_keep_their_places(noise_job: JobOf, tmp_path: Path) -> None:
    """Pictures at their own size, three shapes taken in turn, in streams of varying shape."""
    job = noise_job(
        source={"count": 12, "sides": [24, 32, 40]},
        view={"kind": "native", "multiple": 8},
        limits={"batch_size": 4},
    )
    assembly, receipts = made(job, tmp_path)
    found = rows(assembly, receipts)
    for number, row in enumerate(found):
        side = (24, 32, 40)[number % 3]
        _, tokens = expected_of_sides(number)
        assert row["image.shape"] == [side // 8, side // 8]
        assert row["image"] == tokens["image"][0].ravel().tolist()
    assert len(found) == 12


def expected_of_sides(number: int) -> Any:
    """As `expected`, where sides are taken in turn."""
    return expected(number, (24, 32, 40)[number % 3])


def test_every_fault_costs_its_own_asset_alone(noise_job: JobOf, tmp_path: Path) -> None:
    """Bugs, hangs, absurd claims in fetch and decode: a reason each; neighbours are tokenized."""
    job = noise_job(
        source={"count": 12, "faults": {"picture-0001": "error"}},
        decoder={
            "faults": {"picture-0003": "error", "picture-0005": "hang", "picture-0009": "memory"}
        },
        limits={"asset_deadline_s": 8.0},
        shards={"unit_assets": 12},
    )
    start = time.monotonic()
    assembly, receipts = made(job, tmp_path)
    assert time.monotonic() - start < HANG_S / 2, "nobody waits for it to wake up"
    assert reasons(receipts) == {
        "picture-0001": ("decode_failed", "fetch"),
        "picture-0003": ("decode_failed", "decode"),
        "picture-0005": ("deadline", "decode"),
        "picture-0009": ("too_much_memory", "decode"),
    }
    numbers = [row["number"] for row in rows(assembly, receipts)]
    assert numbers == [0, 2, 4, 6, 7, 8, 10, 11]
    texts = {r.asset_key: r.error for r in receipts[0].rejects}
    assert texts["picture-0003"] == "RuntimeError: a bug, in <object object>", "no addresses"
    assert "asset_deadline_s = 8 s" in texts["picture-0005"]


def test_hanging_fetches_do_not_starve_the_others(noise_job: JobOf, tmp_path: Path) -> None:
    """More hangs than there are fetchers: each is replaced, and only its own asset is lost."""
    hangs = {f"picture-{i:04d}": "hang" for i in (0, 1, 2, 7)}
    job = noise_job(
        source={"count": 12, "faults": hangs},
        cluster={"fetch_threads": 2},
        limits={"asset_deadline_s": 0.4},
    )
    assembly, receipts = made(job, tmp_path)
    assert reasons(receipts) == dict.fromkeys(hangs, ("deadline", "fetch"))
    assert len(rows(assembly, receipts)) == 8


def test_fetching_ahead_changes_no_byte(noise_job: JobOf, tmp_path: Path) -> None:
    """With threads that fetch, the shards are the same ones."""
    stores = []
    for name, threads in (("without", 0), ("with", 3)):
        bad = {"faults": {"picture-0002": "error"}, "repeated": ["picture-0004"]}
        assembly, _ = made(
            noise_job(name, source=bad, cluster={"fetch_threads": threads}), tmp_path
        )
        stores.append(content_of(assembly.store.uri))
    assert stores[0] == stores[1] != {}


def test_a_picture_that_cannot_be_encoded_goes_alone(noise_job: JobOf, tmp_path: Path) -> None:
    """Its whole asset is rejected, with all views; the others of its batch are not."""
    pixels, _ = expected(4)
    job = noise_job(tokenizer={"refuse": [view_number(pixels)]}, source={"count": 6})
    assembly, receipts = made(job, tmp_path)
    assert reasons(receipts) == {"picture-0004": ("encode_failed", "encode")}
    assert [row["number"] for row in rows(assembly, receipts)] == [0, 1, 2, 3, 5]


def test_one_failed_view_takes_its_asset_with_it(noise_job: JobOf, tmp_path: Path) -> None:
    """Half an asset is none, wherever its other view was batched."""
    pixels, _ = expected(2)
    job = noise_job(
        source={"count": 4},
        view={"kind": "center_flip", "size": 32},
        tokenizer={"refuse": [view_number(pixels)]},
        limits={"batch_size": 3},
    )
    assembly, receipts = made(job, tmp_path)
    assert [row["number"] for row in rows(assembly, receipts)] == [0, 0, 1, 1, 3, 3]


def test_a_unit_whose_only_picture_is_bad_is_done(noise_job: JobOf, tmp_path: Path) -> None:
    """It is the picture's fault when a grey one of its size can be encoded."""
    pixels, _ = expected(6)
    job = noise_job(source={"count": 7}, tokenizer={"refuse": [view_number(pixels)]})
    assembly, receipts = made(job, tmp_path)
    assert reasons(receipts) == {"picture-0006": ("encode_failed", "encode")}
    assert (receipts[1].path, receipts[1].samples, receipts[1].bytes) == ("", 0, 0)
    assert len(rows(assembly, receipts)) == 6


def test_an_encoder_that_fails_on_everything_ends_the_run(noise_job: JobOf, tmp_path: Path) -> None:
    """A broken model must not put a whole corpus into quarantine."""
    assembly, tasks = planned(noise_job(tokenizer={"refuse_all": True}), tmp_path)
    worker = Worker(assembly.worker_spec(0.0))
    with pytest.raises(TokenmillError, match="no batch of the unit could be encoded"):
        worker.run(tasks[0])
    assert worker.run(tasks[0].trial(2, 3)) is None, "a trial looks for killers only"
    worker.close()
    assert not list(assembly.store.storage.list("receipts"))


def test_poison_rows_are_left_out_and_recorded(noise_job: JobOf, tmp_path: Path) -> None:
    """They are never fetched again; a trial writes nothing at all."""
    job = noise_job(source={"count": 6, "faults": {"picture-0002": "transient"}})
    assembly, (task,) = planned(job, tmp_path)
    worker = Worker(assembly.worker_spec(0.0))
    with pytest.raises(TransientError):
        worker.run(task)
    assert worker.run(task.trial(0, 2)) is None
    assert not list(assembly.store.storage.list("data"))
    receipt = worker.run(task.without(2, "died").without(0, "died"))
    assert receipt is not None
    assert reasons([receipt]) == dict.fromkeys(
        ("picture-0000", "picture-0002"), ("killed_worker", "decode")
    )
    assert [row["number"] for row in rows(assembly, [receipt])] == [1, 3, 4, 5]
    worker.close()


def test_a_repeated_key_is_filtered_under_a_name_of_its_own(
    noise_job: JobOf, tmp_path: Path
) -> None:
    """It is accounted for, and no failure."""
    job = noise_job(source={"count": 5, "repeated": ["picture-0001", "picture-0001"]})
    assembly, receipts = made(job, tmp_path)
    rejects = [r for receipt in receipts for r in receipt.rejects]
    assert [(r.asset_key, r.disposition, r.reason) for r in rejects] == [
        ("picture-0001#duplicate-1", "filtered", "duplicate_key"),
        ("picture-0001#duplicate-2", "filtered", "duplicate_key"),
    ]
    assert len(rows(assembly, receipts)) == 5


def test_a_second_run_of_a_unit_returns_the_first_receipt(noise_job: JobOf, tmp_path: Path) -> None:
    """The copy of a straggler finds the receipt there; shards and receipts stay as they are."""
    assembly, (task, *_) = planned(noise_job(), tmp_path)
    worker = Worker(assembly.worker_spec(0.0))
    first = worker.run(task)
    before = content_of(assembly.store.uri)
    assert worker.run(task) == first
    assert content_of(assembly.store.uri) == before
    worker.close()
    assert not Path(assembly.store.uri, ".scratch").exists()


def test_tokens_of_another_kind_lose_against_the_first_receipt(
    noise_job: JobOf, tmp_path: Path
) -> None:
    """An attempt that made other bytes gives way to the one whose receipt came first."""
    assembly, (task, *_) = planned(noise_job(), tmp_path)
    worker = Worker(assembly.worker_spec(0.0))
    first = worker.run(task)
    assert worker.run(task.without(1, "died")) == first
    worker.close()
    assert first is not None
    # The loser's shard stays until a gc: a version that was compacted may have it under that name.
    assert first.path in [e.path for e in assembly.store.storage.list("data")]


def test_closing_ends_a_unit_that_is_under_way(noise_job: JobOf, tmp_path: Path) -> None:
    """Whatever it waits for, it fails soon instead of hanging; nothing of it is published."""
    import threading

    job = noise_job(source={"count": 200, "open_s": 0.02}, shards={"unit_assets": 200})
    assembly, (task,) = planned(job, tmp_path)
    worker = Worker(assembly.worker_spec(0.0))
    raised: list[str] = []

    def run() -> None:
        try:
            worker.run(task)
        except Exception as error:  # noqa: BLE001  (any: it must only end)
            raised.append(type(error).__name__)

    thread = threading.Thread(target=run)
    thread.start()
    time.sleep(0.4)
    worker.close()
    thread.join(5)
    assert not thread.is_alive()
    assert len(raised) == 1
    assert not list(assembly.store.storage.list("receipts"))


def test_a_broken_checkpoint_is_said_at_load(noise_job: JobOf) -> None:
    """The job's error, not the worker's."""
    assembly = assemble(noise_job(tokenizer={"loads": False}))
    with pytest.raises(CheckpointError, match=r"means\.weight"):
        Worker(assembly.worker_spec(0.0))


def test_an_actor_without_a_usable_gpu_encodes_on_the_cpu(monkeypatch: Any) -> None:
    """A logical GPU of Ray's need not be one that torch sees."""
    import torch

    for there in (False, True):
        monkeypatch.setattr(torch.cuda, "is_available", lambda there=there: there)
        assert device_name(1.0) == ("cuda" if there else "cpu")
        assert device_name(0.0) == "cpu"
