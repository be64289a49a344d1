"""Long assets through a worker: in parts, in bounded memory, and with what goes wrong."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tokenmill.testing.films import SIDE, FrameMeansEncoder, film_frame
from tokenmill.worker.spec import UnitTask
from tokenmill.worker.worker import Worker
from tokenmill_infra.observe import SilentObserver
from tokenmill_pipelines.assemble import Assembly, assemble
from tokenmill_pipelines.listing import list_assets, plan_units
from tokenmill_schemas.errors import JobError, TokenmillError
from tokenmill_schemas.job import Job, parse_job
from tokenmill_schemas.snapshot import Receipt

FILMS = "tokenmill.testing.films"
JobOf = Callable[..., Job]


@pytest.fixture
def film_job(tmp_path: Path) -> JobOf:
    """Makes jobs over films: ``film_job(source={...}, view={...}, ...)``."""

    def make(store: str = "store", **sections: dict[str, Any]) -> Job:
        table: dict[str, Any] = {
            "name": "films",
            "source": {"kind": f"{FILMS}:Films"},
            "decoder": {"kind": f"{FILMS}:FilmDecoder"},
            "tokenizer": {"kind": f"{FILMS}:FrameMeans"},
            "view": {"kind": f"{FILMS}:Reels"},
            "shards": {"unit_assets": 8},
            "store": {"uri": str(tmp_path / store)},
            "cluster": {"backend": "local", "actors": 1},
        }
        for name, section in sections.items():
            table[name] = {**table.get(name, {}), **section}
        return parse_job(table)

    return make


def made(job: Job, folder: Path) -> tuple[Assembly, Receipt, list[dict[str, Any]]]:
    """Make the job's one unit; returns its receipt and rows too."""
    assembly = assemble(job)
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "listing.parquet"
    listing = list_assets(assembly, file, head=None, observer=SilentObserver())
    (unit,) = plan_units(assembly, listing).units
    worker = Worker(assembly.worker_spec(0.0))
    receipt = worker.run(UnitTask(unit))
    worker.close()
    assert receipt is not None
    if not receipt.path:
        return assembly, receipt, []
    with assembly.store.shard(receipt.path) as shard:
        return assembly, receipt, [row for b in shard.batches() for row in b.to_pylist()]


def ids(number: int, frames: int) -> list[int]:
    """The ids of a film, worked out anew."""
    return [int(film_frame(number, index).mean()) for index in range(frames)]


@pytest.mark.parametrize("streams", [True, False])
@pytest.mark.parametrize("part", [1, 4, 64])
def test_a_film_in_parts_is_the_film(
    film_job: JobOf, tmp_path: Path, streams: bool, part: int
) -> None:
    """Ids and coordinates are the same in parts of any size, streamed or joined."""
    job = film_job(
        source={"lengths": [10, 1, 33]}, view={"part": part}, tokenizer={"streams": streams}
    )
    _, receipt, rows = made(job, tmp_path)
    assert [row["video"] for row in rows] == [ids(0, 10), ids(1, 1), ids(2, 33), ids(3, 10)]
    assert [row["view.frames"] for row in rows] == [10, 1, 33, 10]
    assert [row["asset.frames"] for row in rows] == [10, 1, 33, 10]
    assert receipt.rejects == ()


def test_a_film_that_breaks_off_costs_itself_alone(film_job: JobOf, tmp_path: Path) -> None:
    """What was already encoded of it gives no rows; its neighbours are whole."""
    for view in ({"part": 2}, {"frames": 3}):
        source = {"lengths": [9], "breaks": {"film-1": 7, "film-2": 0}}
        job = film_job(f"store{len(view)}{'part' in view}", source=source, view=view)
        _, receipt, rows = made(job, tmp_path)
        assert {row["asset_key"] for row in rows} == {"film-0", "film-3"}
        found = {(r.asset_key, r.reason, r.stage) for r in receipt.rejects}
        wanted = {("film-1", "truncated", "decode"), ("film-2", "truncated", "decode")}
        assert found == wanted


@pytest.mark.parametrize("streams", [True, False])
def test_a_film_that_cannot_be_encoded_costs_itself_alone(
    film_job: JobOf, tmp_path: Path, streams: bool
) -> None:
    """An error in the middle of a film is its own; it is not taken for a broken encoder."""
    refuse = int(film_frame(1, 5).mean())
    job = film_job(tokenizer={"refuse": refuse, "streams": streams}, view={"part": 2})
    _, receipt, rows = made(job, tmp_path)
    assert {row["asset_key"] for row in rows} == {"film-0", "film-2", "film-3"}
    assert [(r.asset_key, r.reason, r.stage) for r in receipt.rejects] == [
        ("film-1", "encode_failed", "encode")
    ]


def test_a_decoder_that_hangs_in_the_middle_is_left_behind(film_job: JobOf, tmp_path: Path) -> None:
    """The deadline counts from the last sign of life, and the others go on."""
    source = {"hangs": {"film-1": 6}, "hang_s": 60.0}
    job = film_job(source=source, view={"part": 2}, limits={"asset_deadline_s": 1.5})
    start = time.monotonic()
    _, receipt, rows = made(job, tmp_path)
    assert time.monotonic() - start < 30, "nobody waits for it to wake up"
    assert {row["asset_key"] for row in rows} == {"film-0", "film-2", "film-3"}
    assert [(r.asset_key, r.reason) for r in receipt.rejects] == [("film-1", "deadline")]


def test_only_so_much_of_a_film_is_held(
    film_job: JobOf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A film of a hundred times the bound passes; the encoder never sees more than a part."""
    monkeypatch.setattr("tokenmill.worker.channel.AHEAD_BYTES", 8 * SIDE * SIDE * 3)
    longest: list[int] = []
    encode = FrameMeansEncoder.encode

    def noted(self: FrameMeansEncoder, inputs: Any) -> Any:
        longest.append(inputs.shape[1])
        return encode(self, inputs)

    monkeypatch.setattr(FrameMeansEncoder, "encode", noted)
    job = film_job(source={"count": 2, "lengths": [800]})
    _, _, rows = made(job, tmp_path)
    assert [len(row["video"]) for row in rows] == [800, 800]
    assert max(longest) == 4


def test_a_film_too_long_for_one_piece_says_so(film_job: JobOf, tmp_path: Path) -> None:
    """An encoder that wants whole clips gets none beyond the limit."""
    limit = 12 * SIDE * SIDE * 3
    job = film_job(
        source={"lengths": [12, 13]}, tokenizer={"streams": False}, limits={"view_bytes": limit}
    )
    _, receipt, rows = made(job, tmp_path)
    assert {row["asset_key"] for row in rows} == {"film-0", "film-2"}
    assert {r.reason for r in receipt.rejects} == {"too_long"}
    assert "limits.view_bytes" in receipt.rejects[0].error


def test_pictures_in_a_job_of_films_are_filtered(film_job: JobOf, tmp_path: Path) -> None:
    """What another modality's rule would read is neither lost nor a failure."""
    source = {"kind": "tokenmill.testing.faults:NoisePictures", "count": 2}
    _, receipt, rows = made(film_job(source=source), tmp_path)
    assert rows == []
    assert {(r.reason, r.disposition) for r in receipt.rejects} == {("other_modality", "filtered")}


def test_a_view_of_another_kind_than_the_tokenizer_takes_is_refused(film_job: JobOf) -> None:
    """Pictures for a tokenizer of clips are the job's mistake."""
    job = film_job(view={"kind": "center_crop", "size": 16}, decoder={"kind": "image"})
    with pytest.raises(JobError, match="gives views of kind 'image'; the tokenizer takes clip"):
        assemble(job)


def test_frames_are_what_they_are() -> None:
    """The films of these tests change from frame to frame."""
    frames = [film_frame(1, index) for index in range(3)]
    assert len({int(np.asarray(frame)[0, 0, 0]) for frame in frames}) == 3


def test_an_encoder_that_fails_on_every_film_ends_the_run(
    film_job: JobOf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A plain film in the same parts fails as well, so it is not the films."""

    def broken(self: FrameMeansEncoder, inputs: Any) -> Any:
        raise ValueError(f"no kernel for {type(self).__name__} and {inputs.shape}")

    monkeypatch.setattr(FrameMeansEncoder, "encode", broken)
    with pytest.raises(TokenmillError, match="no batch of the unit could be encoded: no kernel"):
        made(film_job(), tmp_path)
