"""Every command about versions, one after the other, on a disk and on the S3 server."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.pipelines.cli.conftest import ROOT, call

PHOTOS = ROOT / "pipelines" / "samples" / "images" / "drawings"


@pytest.fixture(params=["disk", pytest.param("s3", marks=pytest.mark.s3)])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where a store will be."""
    if request.param == "disk":
        return str(tmp_path / "store")
    root: str = request.getfixturevalue("s3_root")
    return root


def said(*args: str, code: int = 0) -> Any:
    """What a command answers as JSON."""
    done = call(*args, "--json")
    assert done.code == code, (args, done.err, done.out)
    return done.document()


def test_every_command_does_its_part(store: str, tmp_path: Path) -> None:
    """A job's increments, names, branches, columns, a takedown to its end, and all ways out."""
    pictures, job = tmp_path / "pictures", tmp_path / "job.toml"
    pictures.mkdir()
    drawings = sorted(PHOTOS.glob("*.png"))[:4]
    for drawing in drawings[:3]:
        (pictures / drawing.name).write_bytes(drawing.read_bytes())
    (pictures / "zero.png").write_bytes(b"")
    lines = (
        'source = { kind = "files", urls = ["pictures"] }',
        'view = { kind = "center_crop", size = 32 }',
        'tokenizer = { kind = "patch_vq" }',
        f'store = {{ uri = "{store}" }}',
        'cluster = { backend = "local", actors = 1 }',
        'increment = { on_missing = "drop" }',
    )
    job.write_text("\n".join(lines))
    first, second, third = (f"{drawing.name}" for drawing in drawings[:3])

    # Increments: all of it, nothing, then one new, one changed and one gone.
    assert said("run", str(job), code=3)["committed"]
    assert not said("run", str(job))["committed"]
    (pictures / drawings[3].name).write_bytes(drawings[3].read_bytes())
    (pictures / first).write_bytes(drawings[1].read_bytes())
    (pictures / third).unlink()
    assert said("plan", str(job))["todo"] == 2
    assert said("run", str(job))["snapshot_number"] == 2
    kinds = said("diff", f"{store}@1", "@2")["counts"]
    assert kinds == {"added": 1, "removed": 1, "changed": 1, "retokenized": 0}
    assert said("retry", store, code=3)["committed"] is False
    assert [version["number"] for version in said("log", store)] == [2, 1]

    # Names: a tag, a branch with work of its own, home again, and back to the tag.
    said("tag", store, "kept", "1")
    said("branch", store, "trial", "kept")
    (pictures / "extra.png").write_bytes(drawings[2].read_bytes())
    (pictures / third).write_bytes(drawings[2].read_bytes())
    (pictures / first).write_bytes(drawings[0].read_bytes())
    own = ("--set", "store.branch=trial", "--set", "increment.on_changed=keep")
    assert said("run", str(job), *own)["snapshot_number"] == 2
    assert {one["branch"]: one["number"] for one in said("branch", store)} == {
        "main": 2,
        "trial": 2,
    }
    assert said("show", f"{store}@trial")["branch"] == "trial"
    assert said("restore", store, "kept")["number"] == 3
    assert said("merge", store, "trial")["number"] == 4

    # Columns beside the shards.
    captions = tmp_path / "captions.jsonl"
    rows = [{"asset_key": key, "caption": f"this is {key}"} for key in (first, second)]
    captions.write_text("\n".join(map(json.dumps, rows)))
    said("columns", "add", store, "captions", str(captions))
    assert [one["group"] for one in said("columns", "list", store)] == ["captions"]
    options = ("--batch-size", "2", "--batches", "1")
    assert said("feed", store, "--columns", "sample_id,caption", *options)["samples"] == 2

    # Out of the way, for good.
    names = tmp_path / "keys"
    names.write_text(f"{second}\n")
    receipt = tmp_path / "receipt.json"
    goes = ("--keys", str(names), "--purge", "--grace", "0", "--receipt", str(receipt))
    said("takedown", store, *goes)
    assert json.loads(receipt.read_text())
    shown = said("feed", store, "--batch-size", "1", "--batches", "3")["shown"]
    wanted = sorted(f"{name}#0" for name in (first, third, "extra.png"))
    assert sorted(name for one in shown for name in one["sample_ids"]) == wanted
    said("columns", "drop", store, "captions")
    (pictures / "late.png").write_bytes(drawings[3].read_bytes())
    said("run", str(job))
    said("compact", store)
    assert said("verify", store)["sound"]
    said("gc", store, "--dry-run")
    said("gc", store, "--grace", "0")
    assert said("verify", store)["sound"]

    # Out to others.
    for kind in ("webdataset", "parquet", "huggingface", "delta"):
        out = str(tmp_path / kind) if "://" not in store else f"{store}-{kind}"
        assert said("export", store, "--format", kind, "--to", out)["samples"] > 0
