"""`tokenmill columns` and `tokenmill compact` on stores that they really change."""

import json
from pathlib import Path

import pytest
from tests.pipelines.cli.conftest import call

from tokenmill.feed import Feed
from tokenmill.store import Store
from tokenmill.testing.feed import build_store
from tokenmill.testing.stores import add_assets, shown


@pytest.fixture
def store(tmp_path: Path) -> str:
    """Five small shards, in two versions."""
    made = Store.of(str(tmp_path / "store"))
    add_assets(made, {f"k{i:02d}": "1" for i in range(12)})
    add_assets(made, {f"k{i:02d}": "2" for i in range(3, 9)})
    return made.uri


def captions(path: Path, keys: range) -> str:
    """A JSONL file of captions by asset."""
    lines = ({"asset_key": f"k{i:02d}", "text": f"caption {i}", "score": i / 2} for i in keys)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return str(path)


def test_captions_are_added_listed_and_dropped(store: str, tmp_path: Path) -> None:
    """Under a new name, and a feed reads them; then they are gone."""
    file = captions(tmp_path / "captions.jsonl", range(6))
    added = call("columns", "add", store, "text", file, "--columns", "text:caption", "--json")
    assert added.document() == {
        "group": "text",
        "snapshot": 3,
        "shards": 3,
        "samples": 9,
        "unmatched": 0,
    }
    assert Feed(store, batch_size=1, columns=("caption",)).rows == 6
    (group,) = call("columns", "list", store, "--json").document()
    assert (group["group"], group["columns"], group["samples"]) == ("text", ["caption"], 9)
    assert "caption" in call("columns", "list", f"{store}@3").out
    dropped = call("columns", "drop", store, "text", "--json").document()
    assert dropped == {"dropped": "text", "snapshot": 4}
    assert call("columns", "list", store, "--json").document() == []


def test_streams_of_another_store(tmp_path: Path) -> None:
    """By the ids of samples, at a version of that store, under another name."""
    one, other = (build_store(tmp_path / name, [9, 4]).uri for name in ("one", "other"))
    added = call(
        *("columns", "add", one, "second", "--from-store", f"{other}@1"),
        *("--streams", "image:semantic", "--json"),
    )
    assert added.document()["samples"] == 13
    assert call("verify", one, "--quick", "--json").document()["sound"]


def test_wrong_uses_say_what_to_do(store: str, tmp_path: Path) -> None:
    """Exit code 2, and words; nothing is committed."""
    file = captions(tmp_path / "captions.jsonl", range(2))
    for args, words in (
        ((), "name files or --from-store"),
        ((file, "--from-store", store), "name files or --from-store"),
        ((file, "--streams", "image"), "say --from-store"),
        (("--from-store", store, "--by", "asset_key"), "joined by sample_id"),
        ((file, "--columns", "txt"), "did you mean 'text'"),
        ((file, "--columns", "text:image"), "has a 'image' already"),
        ((str(tmp_path / "none.jsonl"),), "there is nothing at"),
    ):
        done = call("columns", "add", store, "text", *args)
        assert (done.code, words in done.err) == (2, True), done.err
    assert Store.open(store).log.numbers() == [1, 2]


def test_compact_says_what_it_would_do_and_does_it(store: str) -> None:
    """A dry run leaves the store alone."""
    before = shown(Store.open(store).at())
    would = call("compact", store, "--dry-run", "--json").document()
    assert (would["number"], would["made"], would["shards_after"]) == (2, False, 1)
    assert Store.open(store).log.numbers() == [1, 2]
    did = call("compact", store, "--target-mb", "1", "--target-rows", "20", "--json").document()
    assert did == would | {"number": 3, "made": True, "dry_run": False}
    assert did["dropped"] == 6
    assert shown(Store.open(store).at()) == before
    assert "nothing to do" in call("compact", store).out
