"""``tokenmill judge`` on the sample corpus and on small pictures: what it prints and writes."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.pipelines.cli.conftest import ROOT, call
from tests.pipelines.judge.memory import picture

LISTING = ROOT / "pipelines" / "samples" / "images.jsonl"
QUICK = ("--skip", "perturbed", "--skip", "text", "--skip", "faces", "--set", "view.size=64")


def test_a_judgement_is_one_document_and_a_report(tmp_path: Path) -> None:
    """Bad pictures are counted and make the exit code 3; the files are where they were asked."""
    out = tmp_path / "report"
    words = ("--data", str(LISTING), "--by", "label", "--limit", "12", "--out", str(out))
    outcome = call("judge", "patch_vq", *words, *QUICK, "--json")
    value = outcome.document()
    assert outcome.code == (3 if value["assets"]["without_views"] else 0)
    assert value["assets"]["chosen"] == 12
    assert value["tokenizers"][0]["views"] == 12 - len(value["assets"]["without_views"])
    assert len(value["tokenizers"][0]["by_content"]) > 1
    written = json.loads((out / "report.json").read_text())
    value.pop("files")
    assert written == value
    assert (out / "report.html").read_bytes().startswith(b"<!doctype html>")


def test_people_see_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures, equal bytes, and what was left out; without --out the folder is ``judge``."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pictures").mkdir()
    for number in range(2):
        Image.fromarray(picture(number, 64)).save(f"pictures/{number}.png")
    outcome = call("judge", "patch_vq", "--data", "pictures", "--content", "photo", *QUICK)
    assert outcome.code == 0, outcome.err
    for word in ("patch_vq", "0.1875", "photo", "at equal bytes", "JPEG", "no text"):
        assert word in outcome.out
    assert "judge/report.html" in outcome.out
    assert (tmp_path / "judge" / "rate_distortion_psnr_db.png").is_file()


def test_several_tokenizers_are_compared(tmp_path: Path) -> None:
    """By a file each, on one view."""
    Image.fromarray(np.asarray(picture(1, 64))).save(tmp_path / "a.png")
    (tmp_path / "other.toml").write_text('[tokenizer]\nkind = "patch_vq"\n')
    words = ("--data", str(tmp_path / "a.png"), "--out", str(tmp_path / "out"))
    outcome = call("judge", "patch_vq", str(tmp_path / "other.toml"), *words, *QUICK, "--json")
    assert outcome.code == 0, outcome.err
    first, second = outcome.document()["tokenizers"]
    assert (first["name"], second["name"]) == ("patch_vq", "patch_vq (other)")
    assert first["figures"] == second["figures"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["patch_vq"], "--data"),
        (["patch_vq", "--data", "/nowhere", "--skip", "colours"], "colours"),
        (["no_such_kind", "--data", "/nowhere"], "unknown kind"),
        (["patch_vq", "--data", "/nowhere"], "/nowhere"),
    ],
)
def test_a_bad_command_is_exit_code_2(words: list[str], message: str, tmp_path: Path) -> None:
    """It says what is wrong, and writes nothing."""
    outcome = call("judge", *words, "--out", str(tmp_path / "out"))
    assert outcome.code == 2
    assert message in outcome.err
    assert not (tmp_path / "out").exists()
