"""Going back to a version, and bringing a branch home."""

from __future__ import annotations

from pathlib import Path

import pytest

from tokenmill.store import Store
from tokenmill.store.verify import verify_store
from tokenmill.testing.stores import add_assets, shown
from tokenmill_schemas.errors import ConflictError, SnapshotNotFoundError, StoreError


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """A store of two versions: four assets, then one of them changed and one is new."""
    store = Store.of(str(tmp_path / "store"))
    add_assets(store, dict.fromkeys("abcd", "1"), rejected="d")
    add_assets(store, {"a": "2", "e": "1"})
    return store


def sound(store: Store) -> dict[str, str]:
    """What the newest version shows, after proving it."""
    assert verify_store(store, store.snapshot()).problems == ()
    return shown(store.at())


def test_a_restore_brings_back_all_of_a_version(store: Store) -> None:
    """As a new version of equal content; the one that it replaces stays in the log."""
    made = store.restore(1)
    assert (made.number, made.operation, made.message) == (3, "restore", "main:1")
    assert made.content_id == store.snapshot(1).content_id
    assert made.totals == store.snapshot(1).totals
    assert sound(store) == {"a": "1", "b": "1", "c": "1"}
    assert store.restore(1).number == store.restore("latest").number == 3
    assert shown(store.at(2)) == {"a": "2", "b": "1", "c": "1", "e": "1"}
    with pytest.raises(SnapshotNotFoundError):
        store.restore(17)


def test_what_was_taken_down_stays_so_in_a_restored_version(store: Store) -> None:
    """The old version has no tombstone of it, the restored one does."""
    from tokenmill.store.takedown import takedown

    takedown(store, keys=["b"])
    made = store.restore(1)
    assert made.totals["hidden"] == 1
    assert made.totals["samples"] == 2
    assert sound(store) == {"a": "1", "c": "1"}


def test_a_branch_is_merged_again_and_again(store: Store) -> None:
    """What it added, changed and dropped since the last time comes in one version each."""
    exp = store.create_branch("exp")
    add_assets(exp, {"x": "1", "b": "2"})
    add_assets(store, {"y": "1"})
    made = store.merge("exp")
    assert (made.operation, made.message, made.merged) == ("merge", "exp:3", {"exp": 3})
    assert sound(store) == {"a": "2", "b": "2", "c": "1", "e": "1", "x": "1", "y": "1"}
    assert store.merge("exp").number == made.number
    add_assets(exp, {"d": "2"}, vanished=frozenset("c"), drop_missing=True)
    store.merge("exp")
    wanted = {"a": "2", "b": "2", "d": "2", "e": "1", "x": "1", "y": "1"}
    assert sound(store) == wanted
    assert store.at().missing().column("asset_key").to_pylist() == ["c"]
    assert store.snapshot().totals["samples"] == len(wanted)
    assert store.snapshot().totals["assets"] == len("abcdexy")
    assert store.snapshot().totals["rejected"] == 0


def test_a_merge_into_a_branch_that_stood_still_is_its_content(store: Store) -> None:
    """Nothing has to be read: the files are the branch's."""
    exp = store.create_branch("exp")
    add_assets(exp, {"x": "1"})
    made = store.merge("exp")
    assert made.content_id == exp.snapshot().content_id
    assert made.totals == exp.snapshot().totals


def test_both_sides_changing_one_asset_is_a_conflict(store: Store) -> None:
    """It names the asset and both versions; nothing is committed."""
    exp = store.create_branch("exp")
    add_assets(exp, {"a": "3"})
    add_assets(store, {"a": "4"})
    with pytest.raises(
        ConflictError, match=r"main:3 and exp:3 both .* for 1 assets \(a\); nothing .* restore exp"
    ):
        store.merge("exp")
    assert store.snapshot().number == 3


def test_only_a_branch_of_its_own_is_merged(store: Store) -> None:
    """A branch of a branch goes by way of that one."""
    exp = store.create_branch("exp")
    add_assets(exp, {"x": "1"})
    deeper = exp.create_branch("deeper")
    add_assets(deeper, {"z": "1"})
    with pytest.raises(StoreError, match="does not begin on 'main'"):
        store.merge("deeper")
    exp.merge("deeper")
    store.merge("exp")
    assert sound(store)["z"] == "1"
