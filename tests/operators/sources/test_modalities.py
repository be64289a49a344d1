"""How sources tell the modality of their assets: by the names' endings, or as the job says."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tokenmill.plugins import open_operator
from tokenmill.sources.base import Source
from tokenmill.testing.sources import check_source
from tokenmill_schemas.asset import MODALITIES
from tokenmill_schemas.errors import JobError

#: Names, and what they tell; a GIF is a picture, and so is what tells nothing.
NAMES = {
    "a.PNG": "image",
    "b.gif": "image",
    "c.mp4": "video",
    "d.WebM": "video",
    "e.f.ogv": "video",
    "g.glb": "shape",
    "h.png.ply": "shape",
    "i.STEP": "shape",
}
Make = Callable[..., Source]


def files(folder: Path, **options: object) -> Source:
    """A folder of such files."""
    for name in NAMES:
        (folder / name).write_bytes(name.encode())
    return opened("files", urls=[str(folder)], **options)


def jsonl(folder: Path, **options: object) -> Source:
    """A listing with a key that has no ending."""
    files(folder)
    lines = [json.dumps({"uri": name, "id": name.partition(".")[0]}) for name in NAMES]
    (folder / "list.jsonl").write_text("\n".join(lines))
    return opened("jsonl", urls=[f"{folder}/list.jsonl"], key="id", **options)


def parquet(folder: Path, **options: object) -> Source:
    """A table that names the files."""
    files(folder)
    table = pa.table({"uri": list(NAMES), "id": [name.partition(".")[0] for name in NAMES]})
    pq.write_table(table, folder / "list.parquet")
    return opened("parquet", urls=[f"{folder}/list.parquet"], key="id", **options)


def parquet_bytes(folder: Path, **options: object) -> Source:
    """A table that holds the bytes, whose keys are the names."""
    table = pa.table({"name": list(NAMES), "data": [name.encode() for name in NAMES]})
    pq.write_table(table, folder / "bytes.parquet")
    url = f"{folder}/bytes.parquet"
    return opened("parquet", urls=[url], bytes="data", key="name", **options)


def tars(folder: Path, **options: object) -> Source:
    """An archive, whose keys have no endings."""
    with tarfile.open(folder / "t.tar", "w") as archive:
        for name in NAMES:
            info = tarfile.TarInfo(name)
            info.size = len(name)
            archive.addfile(info, io.BytesIO(name.encode()))
    return opened("tars", urls=[f"{folder}/t.tar"], **options)


def opened(kind: str, **options: object) -> Source:
    """A source as a job makes it."""
    source: Source = open_operator("tokenmill.sources", kind, options, path="source")
    return source


makes = pytest.mark.parametrize("make", [files, jsonl, parquet, parquet_bytes, tars])


@makes
def test_auto_goes_by_the_ending_whatever_its_case(make: Make, tmp_path: Path) -> None:
    """Of the file and not of the key, where there is a file."""
    refs = check_source(make(tmp_path))
    assert [ref.modality for ref in refs] == list(NAMES.values())


@makes
@pytest.mark.parametrize("modality", MODALITIES)
def test_what_the_job_says_goes_for_all(make: Make, tmp_path: Path, modality: str) -> None:
    """A folder of GIFs can be one of films."""
    refs = check_source(make(tmp_path, modality=modality))
    assert {ref.modality for ref in refs} == {modality}
    assert len(refs) == len(NAMES)


@makes
def test_a_modality_that_is_none_is_the_jobs_fault(make: Make, tmp_path: Path) -> None:
    """It says which there are."""
    with pytest.raises(JobError, match="did you mean 'video'") as caught:
        make(tmp_path, modality="videos")
    assert caught.value.path == "source.modality"


@pytest.mark.parametrize(("extensions", "keys"), [([".gif"], ["b.gif"]), ([".GLB"], ["g.glb"])])
def test_extensions_choose_before_the_modality_does(
    extensions: list[str], keys: list[str], tmp_path: Path
) -> None:
    """Pictures that are read as videos need both options, and no more."""
    refs = check_source(files(tmp_path, extensions=extensions, modality="video"))
    assert [(ref.key, ref.modality) for ref in refs] == [(key, "video") for key in keys]


@pytest.mark.parametrize(
    ("uri", "modality"),
    [
        ("https://host.example/clip.mp4?token=a.b", "video"),
        ("https://host.example/clip.mp4#t=10", "video"),
        ("https://host.example/shape.glb?v=1/2.png", "shape"),
        ("https://host.example.mp4/picture", "image"),
        ("folder.mp4/picture", "image"),
        ("s3://bucket/what?.mp4", "video"),
    ],
)
def test_a_query_is_no_ending_and_neither_is_a_folders(
    uri: str, modality: str, tmp_path: Path
) -> None:
    """URLs are signed, and folders are named as anybody likes."""
    (tmp_path / "list.jsonl").write_text(json.dumps({"uri": uri}))
    (batch,) = opened("jsonl", urls=[f"{tmp_path}/list.jsonl"]).list()
    assert batch.column("modality").to_pylist() == [modality]
