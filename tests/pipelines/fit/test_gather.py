"""Gathering: views decoded once and mapped, what is left out, and what may not be learned from."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tests.pipelines.fit.conftest import JobOf, ball, data, picture

from tokenmill_infra.observe import SilentObserver
from tokenmill_pipelines.fit import gather as room
from tokenmill_pipelines.fit.config import FitJob, fit_job_table
from tokenmill_pipelines.fit.gather import FOLDER, Gathered, gather
from tokenmill_pipelines.fit.origins import UNSTATED, origins
from tokenmill_pipelines.fit.split import split
from tokenmill_pipelines.samples.catalogue import Sample, catalogue, find_sample
from tokenmill_pipelines.samples.fetch import RECEIPT
from tokenmill_schemas.errors import JobError


def gathered(job: FitJob) -> list[Gathered]:
    """Gather silently."""
    return gather(job, SilentObserver())


def test_views_are_the_pictures_and_are_decoded_once(
    fit_job: JobOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In order of the listing; the second time they come from the file."""
    job = fit_job()
    (found,) = gathered(job)
    assert [key.rpartition("/")[2] for key in found.keys] == [f"{n:02d}.png" for n in range(12)]
    for number, view in enumerate(found.views):
        assert np.array_equal(view, picture(number))
        assert not view.flags.writeable
    monkeypatch.setattr(room, "_views", lambda *_: pytest.fail("decoded again"))
    (again,) = gathered(job)
    assert again.keys == found.keys
    assert np.array_equal(again.views[5], found.views[5])
    with pytest.raises(pytest.fail.Exception, match="decoded again"):
        gathered(fit_job(data=[{**fit_job_table(job)["data"][0], "limit": 3}]))


def test_what_a_part_chooses_names_its_file(fit_job: JobOf, pictures: Path) -> None:
    """Limits are spread over the listing, exclusions and columns choose; each has its own file."""
    listing = pictures / "listing.jsonl"
    parts = [
        data("whole", listing),
        data("three", listing, limit=3),
        data("but", listing, exclude=["03.p", "04"]),
        data("free", listing, where={"licence": ["CC-BY-4.0"]}),
        data("small", listing, view={"kind": "center_crop", "size": 16}),
    ]
    job = fit_job(data=parts)
    whole, three, but, free, small = gathered(job)
    assert [key.rpartition("/")[2] for key in three.keys] == ["00.png", "06.png", "11.png"]
    assert len(but.keys) == 10
    assert [key.rpartition("/")[2] for key in free.keys] == ["00.png"]
    assert {view.shape for view in small.views} == {(16, 16, 3)}
    digests = {part.digest for part in (whole, three, but, free, small)}
    assert {path.stem for path in Path(job.corpora, FOLDER).iterdir()} == digests
    assert len(digests) == 5
    again = gathered(job)
    assert [part.digest for part in again] == [p.digest for p in (whole, three, but, free, small)]
    assert all(np.array_equal(a, b) for a, b in zip(again[0].views, whole.views, strict=True))


def test_an_asset_that_cannot_be_read_is_left_out_and_told(fit_job: JobOf, tmp_path: Path) -> None:
    """The others are gathered."""
    Image.fromarray(picture(1)).save(tmp_path / "good.png")
    (tmp_path / "bad.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    told = []

    class Ear(SilentObserver):
        def event(self, name: str, /, **fields: Any) -> None:
            told.append((name, fields.get("key"), fields.get("reason")))

    source = {"kind": "files", "urls": [str(tmp_path / "*.png")]}
    job = fit_job(data=[{**data("p", tmp_path), "source": source}])
    (found,) = gather(job, Ear())
    assert [key.rpartition("/")[2] for key in found.keys] == ["good.png"]
    assert [name for name, _, _ in told] == ["asset_skipped", "gather"]
    (tmp_path / "good.png").unlink()
    with pytest.raises(JobError, match="part 'p' has no views"):
        gathered(job)


def test_a_corpus_for_judging_is_refused_before_anything_is_fetched(
    fit_job: JobOf, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where it is not the first that is named."""
    monkeypatch.setattr(room, "fetch", lambda *_: pytest.fail("fetched"))
    name = next(sample.name for sample in catalogue() if sample.use == "judging")
    second = {"name": "b", "corpora": ["openclipart", name], "view": {"kind": "native"}}
    job = fit_job(data=[data("a", pictures / "listing.jsonl"), second])
    with pytest.raises(JobError, match=f"data.corpora: {name} is kept for judging"):
        gathered(job)


@pytest.fixture
def corpus(pictures: Path, monkeypatch: pytest.MonkeyPatch) -> Sample:
    """A fetched corpus: two assets with licences of their own, one without, one for judging."""
    rows = [{"licence": "A"}, {"licence": "B", "use": "training"}, {}, {"use": "judging"}]
    lines = [
        json.dumps({"uri": str(pictures / f"{n:02d}.png"), **row}) for n, row in enumerate(rows)
    ]
    (pictures / "corpus.jsonl").write_text("\n".join(lines) + "\n")
    packages = {"pretty-pictures": {"version": "1.2-3", "sha256": "0"}}
    (pictures / RECEIPT).write_text(json.dumps({"packages": packages}))
    sample = replace(
        find_sample("lomiri-wallpapers"), name="pictures", listing="corpus.jsonl", licence="whole"
    )
    for module in ("gather", "origins"):
        path = f"tokenmill_pipelines.fit.{module}.find_sample"
        monkeypatch.setattr(path, lambda _name: sample)
    monkeypatch.setattr(room, "fetch", lambda *_: pictures)
    return sample


@pytest.mark.usefixtures("corpus")
def test_assets_for_judging_are_left_out_of_a_corpus_and_licences_are_counted(
    fit_job: JobOf, pictures: Path
) -> None:
    """An asset's own licence, else the corpus's; packages with the versions that were fetched."""
    part = {"name": "p", "corpora": ["pictures"], "view": {"kind": "native"}}
    job = fit_job(data=[part])
    Path(job.corpora).mkdir()
    Path(job.corpora, "pictures").symlink_to(pictures)
    (found,) = gathered(job)
    assert [key.rpartition("/")[2] for key in found.keys] == ["00.png", "01.png", "02.png"]
    assert all(key.startswith("pictures/") for key in found.keys)
    learned = found.only(frozenset(found.keys[:2]))
    held_out = found.only(frozenset(found.keys[2:]))
    (origin,) = origins(job, (learned,), (held_out,))
    assert origin.packages == ("pretty-pictures 1.2-3",)
    assert (origin.learned, origin.held_out, origin.views, origin.share) == (2, 1, 2, 1.0)
    assert origin.licences == (("A", 1, 0), ("B", 1, 0), ("whole", 0, 1))


def test_licences_of_a_listing_are_its_own_and_of_files_are_not_stated(
    fit_job: JobOf, pictures: Path
) -> None:
    """A source without such a column has none to tell."""
    files = {"kind": "files", "urls": [str(pictures / "*.png")]}
    parts = [
        data("listed", pictures / "listing.jsonl"),
        {**data("files", pictures), "source": files},
    ]
    job = fit_job(data=parts)
    pairs = [split(part, job.held_out, job.seed) for part in gathered(job)]
    own, plain = origins(job, tuple(a for a, _ in pairs), tuple(b for _, b in pairs))
    assert own.packages == ("a source of kind jsonl",)
    counts = {name: learned + held_out for name, learned, held_out in own.licences}
    assert counts == {"CC0-1.0": 11, "CC-BY-4.0": 1}
    assert [name for name, _, _ in plain.licences] == [UNSTATED]


def test_volumes_come_back_as_booleans(fit_job: JobOf, tmp_path: Path) -> None:
    """As the view gave them."""
    points = np.argwhere(ball(3)) / 16
    text = "\n".join(" ".join(map(str, row)) for row in points)
    (tmp_path / "ball.xyz").write_text(text + "\n")
    source = {"kind": "files", "urls": [str(tmp_path / "*.xyz")], "modality": "shape"}
    view = {"kind": "voxels", "resolution": 8}
    job = fit_job(data=[{"name": "v", "source": source, "view": view}])
    (found,) = gathered(job)
    assert found.views[0].dtype == np.bool_
    assert found.views[0].shape == (8, 8, 8)
    assert found.views[0].any()
