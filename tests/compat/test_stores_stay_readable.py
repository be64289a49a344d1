"""Stores of every format version, checked in as they were written, are read as they were meant."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import pytest
from tests.compat.make_stores import FOLDER, contents, described

from tokenmill.feed import Feed
from tokenmill.store import Store
from tokenmill.store.verify import verify_store
from tokenmill.testing.stores import add_assets
from tokenmill_schemas.job import ShardsConfig

NAMES = sorted(file.stem for file in FOLDER.glob("*.zip"))
#: ``first``: of the first code of format version 1; ``v1``: with branches, takedowns and groups.
KNOWN = {"first-arrow", "first-webdataset", "v1-arrow", "v1-webdataset"}


def test_no_golden_store_is_lost() -> None:
    """Taking one away would end the promise."""
    assert set(NAMES) >= KNOWN


@pytest.fixture(params=NAMES)
def golden(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Store, dict[str, Any]]:
    """A golden store, unpacked, and what it must say."""
    with zipfile.ZipFile(FOLDER / f"{request.param}.zip") as archive:
        archive.extractall(tmp_path)
    wanted = json.loads((FOLDER / f"{request.param}.json").read_text())
    return Store.open(str(tmp_path)), wanted


def test_every_version_says_what_it_said(golden: tuple[Store, dict[str, Any]]) -> None:
    """Samples, columns, quarantine, missing assets, totals, content ids, tags: all as written."""
    store, wanted = golden
    assert json.loads(json.dumps(described(store))) == wanted


def test_every_version_is_sound_and_feeds(golden: tuple[Store, dict[str, Any]]) -> None:
    """By all the checks of today, but that older versions keep what was taken down since."""
    store, wanted = golden
    for name, version in wanted["versions"].items():
        snapshot = store.snapshot(name)
        assert verify_store(store, snapshot).problems == ()
        feed = Feed(store, ref=name, batch_size=1, epochs=1)
        assert sorted(batch["sample_id"][0] for batch in feed) == sorted(version["shown"])


def test_an_old_store_takes_new_versions(golden: tuple[Store, dict[str, Any]]) -> None:
    """Appending samples of the same identity, restoring, tagging, comparing."""
    store, wanted = golden
    head = store.snapshot()
    if head.fingerprint_parts.get("made_by") == "tokenmill.testing.stores":
        (kind,) = set(store.segments(head, ["format"]).column("format").to_pylist())
        add_assets(store, {"new": "1"}, shards=ShardsConfig(format=kind))
        assert store.diff(head.number, None).counts["added"] == 1
    first = store.log.numbers()[0]
    made = store.restore(first)
    store.tag("today")
    assert verify_store(store, made).problems == ()
    shown = contents(store.at("today"))["shown"]
    assert shown == wanted["versions"][f"main:{first}"]["shown"]
    assert made.totals["samples"] == len(shown)
