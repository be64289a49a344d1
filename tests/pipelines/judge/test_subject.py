"""From words to tokenizers and data: kinds, job files, listings, overrides."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.pipelines.judge.memory import picture

from tokenmill_pipelines.judge.features import Filters, open_features
from tokenmill_pipelines.judge.subject import open_subject
from tokenmill_schemas.errors import JobError

JOB = """
[source]
kind = "files"
urls = ["pictures"]
[view]
kind = "center_crop"
size = 64
[tokenizer]
kind = "patch_vq"
[store]
uri = "unused"
[cluster]
backend = "ray"
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two pictures in a folder, a job file beside it, and a listing."""
    (tmp_path / "pictures").mkdir()
    rows = []
    for number in range(2):
        Image.fromarray(picture(number, 64)).save(tmp_path / "pictures" / f"{number}.png")
        rows.append({"uri": f"pictures/{number}.png", "content": ("photo", "text")[number]})
    (tmp_path / "listing.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "job.toml").write_text(JOB)
    return tmp_path


def keys(words: list[str], data: list[str], *sets: str, view: str = "") -> list[str]:
    """Return the keys that a subject's source lists."""
    subject = open_subject(words, data, overrides=sets, view=view)
    return [key for batch in subject.operators.source.list() for key in batch["key"].to_pylist()]


def test_data_are_folders_globs_listings_or_job_files(folder: Path) -> None:
    """Each by its name; a job file's paths are meant from where it lies."""
    names = ["0.png", "1.png"]
    for data in (folder / "pictures", folder / "pictures" / "*.png", folder / "job.toml"):
        assert keys(["patch_vq"], [str(data)]) == names
    assert keys(["patch_vq"], [str(folder / "listing.jsonl")]) == [f"pictures/{n}" for n in names]
    assert keys([str(folder / "job.toml")], []) == names
    assert keys(["patch_vq"], [str(folder / "pictures" / n) for n in names]) == [
        "0/0.png",
        "1/1.png",
    ]


def test_the_view_is_the_files_or_the_tokenizers_own(folder: Path) -> None:
    """Single keys change either; another kind takes its place."""
    data = [str(folder / "pictures")]
    shapes = [
        open_subject(words, data, view=view, overrides=sets).operators.view.shape
        for words, view, sets in (
            (["patch_vq"], "", ()),
            (["patch_vq"], "", ("view.size=48",)),
            ([str(folder / "job.toml")], "", ()),
            ([str(folder / "job.toml")], "", ("view.size=32",)),
            (["patch_vq"], "center_crop", ("view.size=40",)),
        )
    ]
    assert shapes == [(256, 256), (48, 48), (64, 64), (32, 32), (40, 40)]


def test_tokenizers_are_named_by_kind_and_variant(folder: Path) -> None:
    """Of two alike the later one has its file's name; the same twice is a mistake."""
    data = [str(folder / "pictures")]
    both = open_subject(["patch_vq", str(folder / "job.toml")], data)
    assert list(both.tokenizers) == ["patch_vq", "patch_vq (job)"]
    video = open_subject(["patch_vq"], data, overrides=["tokenizer.variant=video"])
    assert list(video.tokenizers) == ["patch_vq video"]
    assert video.operators.view.gives == "clip"
    with pytest.raises(JobError, match="named twice"):
        open_subject(["patch_vq", "patch_vq", "patch_vq"], data)


def test_classes_come_from_a_listing(folder: Path) -> None:
    """A field that its lines do not have is an empty column."""
    source = open_subject(["patch_vq"], [str(folder / "listing.jsonl")]).operators.source
    assert next(iter(source.list()))["content"].to_pylist() == ["photo", "text"]


@pytest.mark.parametrize(
    ("words", "data", "sets", "message"),
    [
        ([], ["pictures"], [], "name a tokenizer"),
        (["patch_vq"], [], [], "--data"),
        (["patch_qv"], ["pictures"], [], "patch_vq"),
        (["patch_vq"], ["pictures", "listing.jsonl"], [], "files and jsonl"),
        (["patch_vq"], ["pictures"], ["store.uri=x"], "store"),
        (["patch_vq"], ["pictures"], ["view.size=20"], "multiples of 8"),
        (["voxel_vq"], ["pictures"], ["view.kind=center_crop"], "takes voxels"),
        (["nowhere.toml"], ["pictures"], [], "cannot read"),
    ],
)
def test_what_is_wrong_says_so(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    words: list[str],
    data: list[str],
    sets: list[str],
    message: str,
) -> None:
    """In words that name the place."""
    monkeypatch.chdir(folder)
    with pytest.raises(JobError, match=message):
        open_subject(words, data, overrides=sets)


def test_a_file_without_a_tokenizer_is_refused(folder: Path) -> None:
    """So is one without a source, where data were to come from it."""
    (folder / "view.toml").write_text('[view]\nkind = "center_crop"\n')
    with pytest.raises(JobError, match=r"no section \[tokenizer\]"):
        open_subject([str(folder / "view.toml")], [])
    with pytest.raises(JobError, match=r"no section \[source\]"):
        open_subject(["patch_vq"], [str(folder / "view.toml")])


def test_features_are_filters_or_a_network_of_a_file(tmp_path: Path) -> None:
    """A tile of 64 pixels has 26 numbers, a network what it gives; both are named."""
    filters = open_features("")
    assert isinstance(filters, Filters)
    assert filters.of(picture(0, 130)).shape == (4, 26)
    assert filters.of(picture(0, 16)).shape == (1, 26)
    assert np.isfinite(filters.of(np.zeros((64, 64, 3), np.uint8))).all()
    import torch

    pooled = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(2), torch.nn.Flatten())
    path = tmp_path / "pool.pt"
    torch.jit.trace(pooled, torch.zeros(1, 3, 8, 8)).save(str(path))  # type: ignore[no-untyped-call]
    network = open_features(str(path))
    assert network.name.startswith("pool.pt (TorchScript, sha256 ")
    found = network.of(np.full((16, 16, 3), 51, np.uint8))
    np.testing.assert_allclose(found, np.full((1, 12), 0.2), atol=1e-6)
    (tmp_path / "no.pt").write_bytes(b"nothing of the kind")
    with pytest.raises(JobError, match="no TorchScript file"):
        open_features(str(tmp_path / "no.pt"))
