"""``tokenmill takedown`` and ``gc`` as people call them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.pipelines.cli.conftest import call

from tokenmill.store import Store
from tokenmill_infra.observe import SilentObserver
from tokenmill_pipelines.cli.takedown import _ordered, seconds
from tokenmill_pipelines.jobs import run_job
from tokenmill_schemas.errors import JobError
from tokenmill_schemas.job import Job

JobOf = Callable[..., Job]


@pytest.fixture
def store(noise_job: JobOf) -> str:
    """A store of twelve pictures."""
    return run_job(noise_job(source={"count": 12}), observer=SilentObserver()).store_uri


@pytest.fixture
def keys(tmp_path: Path) -> str:
    """A file of keys."""
    file = tmp_path / "keys.txt"
    file.write_text("picture-0003\r\n\npicture-0007\nnowhere\n")
    return str(file)


def test_a_takedown_is_told_to_people_and_to_programs(store: str, keys: str) -> None:
    """The second one finds nothing new."""
    shown = call("takedown", store, "--keys", keys, "--reason", "request 7")
    assert shown.code == 0
    assert "2 assets, 2 samples" in shown.out
    assert "nowhere" in shown.out
    again = call("takedown", store, "--keys", keys, "--json").document()
    assert again["takedown"]["number"] is None
    assert again["takedown"]["unknown"] == ["nowhere"]
    assert again["purge"] is None
    assert call("show", store, "--json").document()["totals"]["samples"] == 10


def test_a_purge_at_once_writes_its_receipt(store: str, keys: str, tmp_path: Path) -> None:
    """Its sha256 is what the chain holds, and `gc` has nothing left to do."""
    receipt = tmp_path / "receipt.json"
    args = ("--keys", keys, "--purge", "--grace", "0", "--receipt", str(receipt))
    value = call("takedown", store, *args, "--json").document()
    assert value["removal"]["versions"] == ["main:1", "main:2"]
    assert value["removal"]["sha256"] == hashlib.sha256(receipt.read_bytes()).hexdigest()
    record = Store.open(store).takedowns.records()[-1]
    assert record.facts["receipt"] == value["removal"]["sha256"]
    assert json.loads(receipt.read_bytes())["newest_versions"] == {"main": 3}
    assert call("gc", store, "--grace", "0", "--json").document()["deleted"] == 0
    assert call("verify", store).code == 0


def test_a_purge_with_grace_is_executed_by_gc_when_it_is_due(store: str) -> None:
    """Until then both say what is due, and when."""
    shown = call("takedown", store, "--where", "number >= 9", "--purge", "--grace", "12h")
    assert shown.code == 0
    assert "main:1, main:2" in shown.out
    value = call("gc", store, "--json").document()
    assert value["purges"][0]["versions"] == ["main:1", "main:2"]
    assert len(value["removal"]["waiting"]) == 1
    assert "main:1, main:2" in call("gc", store).out
    assert call("takedown", store, "--purge", "--grace", "0").code == 0
    assert call("log", store, "--json").document()[-1]["number"] == 3


def test_a_purge_that_is_held_fails_and_says_by_whom(store: str, keys: str) -> None:
    """It is not done, so the exit code is not 0."""
    with Store.open(store).hold("run", note="noise"):
        shown = call("takedown", store, "--keys", keys, "--purge", "--grace", "0")
        assert shown.code == 1
        assert "held by run (noise)" in shown.out
        assert "held by run (noise)" in call("gc", store).out
    assert call("gc", store, "--json").document()["removal"]["versions"] == ["main:1", "main:2"]


def test_a_dry_run_of_gc_lists_files(store: str) -> None:
    """With sizes, and deletes none."""
    root = Path(store)
    (root / "data" / "left.arrow").write_bytes(b"x" * 1234)
    shown = call("gc", store, "--grace", "0", "--dry-run")
    assert "data/left.arrow" in shown.out
    assert "1.23 kB" in shown.out
    value = call("gc", store, "--grace", "0", "--dry-run", "--json").document()
    assert value["files"] == [["data/left.arrow", 1234]]
    assert (root / "data" / "left.arrow").exists()
    call("gc", store, "--grace", "0")
    assert not (root / "data" / "left.arrow").exists()


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ((), "names nothing"),
        (("--where", "number >"), "where"),
        (("--keys", "/nowhere/keys.txt"), "cannot read"),
        (("--where", "number > 1", "--grace", "soon"), "is no time"),
        (("--where", "number > 1", "--receipt", "r.json"), "goes with --purge"),
        (("--where", "number > 1", "--purge", "--receipt", "r.json"), "goes with --grace 0"),
    ],
)
def test_slips_are_told_before_anything_is_done(
    store: str, args: tuple[str, ...], words: str
) -> None:
    """Exit code 2, and no record."""
    shown = call("takedown", store, *args)
    assert shown.code == 2
    assert words in shown.err
    assert Store.open(store).takedowns.newest() == 0


def test_times_are_written_as_people_do() -> None:
    """A number and a unit; nothing is guessed."""
    assert [seconds(text, "x") for text in ("0", "90s", "1.5m", "12h", "7d", "2w")] == [
        *(0, 90, 90, 43200, 604800, 1209600)
    ]
    for text in ("", "7", "7 days", "-1d", "d"):
        with pytest.raises(JobError, match="is no time"):
            seconds(text, "x")


def test_versions_are_listed_by_branch_and_number() -> None:
    """Eleven comes after two."""
    assert _ordered(["main:11", "main:2", "exp:3"]) == ["exp:3", "main:2", "main:11"]
