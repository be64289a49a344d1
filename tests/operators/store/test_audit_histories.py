"""Histories in which names come again: of shards, of branches, of tags, of keys of records."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pyarrow as pa
import pytest

from tokenmill.store import Store, intents, paths
from tokenmill.store.gc import gc
from tokenmill.store.groups import add_group, from_table
from tokenmill.store.purge import execute_due, purge
from tokenmill.store.takedown import takedown
from tokenmill.store.transaction import next_version
from tokenmill.store.verify import verify_store
from tokenmill.testing.stores import add_assets, encode_assets, shown
from tokenmill_infra.storage.local import LocalStorage
from tokenmill_infra.storage.storage import Entry
from tokenmill_schemas.errors import ConflictError, SnapshotNotFoundError, StoreError
from tokenmill_schemas.snapshot import Snapshot


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """A store that is not there yet."""
    return Store.of(str(tmp_path / "store"))


def sound(store: Store, ref: str | int | None = None) -> None:
    """A version keeps all that it says."""
    assert verify_store(store, store.snapshot(ref)).problems == ()


def test_a_branch_of_an_old_name_is_merged_from_where_it_begins(store: Store) -> None:
    """What was merged of an earlier branch of that name says nothing of this one."""
    add_assets(store, {"a": "1"})
    branch = store.create_branch("b")
    for key in "cde":
        add_assets(branch, {key: "1"})
    store.merge("b")
    store.delete_branch("b")
    try:
        again = store.create_branch("b", 1)
    except ConflictError:
        return
    for key in "fgh":
        add_assets(again, {key: "1"})
    store.merge("b")
    assert set(shown(store.at())) == set("acdefgh")


def test_what_a_deleted_branch_left_is_no_part_of_the_next_of_that_name(store: Store) -> None:
    """A commit that ended after its branch was deleted leaves a file."""
    add_assets(store, {"a": "1"})
    branch = store.create_branch("b")

    def change(head: Snapshot | None) -> Snapshot | None:
        assert head is not None
        store.delete_branch("b")
        return next_version(branch.log, head, "lost", message="x")

    with pytest.raises(SnapshotNotFoundError):
        branch.transact(change)
    try:
        again = store.create_branch("b")
    except ConflictError:
        gc(store, grace_s=0)
        again = store.create_branch("b")
    assert again.snapshot().operation != "lost"


def test_a_gc_of_a_newer_library_is_waited_for(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Keys that a reader does not know are ignored, in intents too."""
    add_assets(store, {"a": "1"})
    monkeypatch.setattr(intents, "GC_WAIT_S", 0.0)
    monkeypatch.setattr(intents, "GC_POLL_S", 0.0)
    value = {"kind": "gc", "intent_id": "x", "host": "h", "pid": 1, "note": "", "since": 3}
    store.storage.create(f"{paths.RUNNING}/x-00000000.json", json.dumps(value).encode())
    with pytest.raises(StoreError, match="cleaned"), store.hold("run"):
        pass


def test_files_of_groups_go_with_their_shards_in_a_merge(store: Store) -> None:
    """A branch went back to before a shard; the other gave that shard values."""
    add_assets(store, {"a": "1"})
    add_group(store, "g", from_table(pa.table({"asset_key": ["a"], "x": [1.0]})))
    add_assets(store, {"b": "1"})
    branch = store.create_branch("back")
    branch.restore(2)
    add_group(store, "g", from_table(pa.table({"asset_key": ["b"], "x": [2.0]})))
    store.merge("back")
    assert set(shown(store.at())) == {"a"}
    sound(store)


def test_a_difference_has_no_asset_that_was_taken_down_since(store: Store) -> None:
    """It lists what samples are shown of, and of those none are."""
    add_assets(store, {"a": "1"})
    add_assets(store, {"b": "1", "c": "1"})
    takedown(store, keys=["b"])
    found = store.diff(1, 2)
    assert found.keys("added") == ["c"]
    assert found.new_samples().column("asset_key").to_pylist() == ["c"]


def test_assets_are_counted_once_after_a_restore_that_came_first(store: Store) -> None:
    """A commit replaces what a restore has just taken away."""
    add_assets(store, {"a": "1"})
    add_assets(store, {"b": "1"})
    commit = replace(encode_assets(store, {"b": "2"}), replaced=frozenset("b"))
    store.restore(1)
    made = store.commit(commit)
    assert shown(store.at()) == {"a": "1", "b": "2"}
    assert made.totals["assets"] == 2
    sound(store)


@dataclass(frozen=True)
class Watched(LocalStorage):
    """A local storage that counts what is listed, and lists files that have just gone."""

    listed: list[str] = field(default_factory=list, compare=False)
    gone: tuple[str, ...] = ()

    def list(self, prefix: str) -> Iterator[Entry]:
        """List a folder."""
        self.listed.append(prefix)
        yield from super().list(prefix)
        yield from (Entry(path, 1, 1.0) for path in self.gone if path.startswith(f"{prefix}/"))


def test_a_few_receipts_are_looked_up_without_listing_all(store: Store, tmp_path: Path) -> None:
    """A nightly increment must not list the receipts of years."""
    commit = encode_assets(store, {"a": "1"})
    seen = Store(Watched(tmp_path / "store"))
    unit = commit.receipts[0].unit_id
    assert set(seen.receipts([unit, "0" * 32])) == {unit}
    assert isinstance(seen.storage, Watched)
    assert seen.storage.listed == []


def test_a_tag_that_goes_while_it_is_read_is_no_error(store: Store, tmp_path: Path) -> None:
    """Purges delete tags, and listings are late."""
    add_assets(store, {"a": "1"})
    store.tag("t")
    seen = Store(Watched(tmp_path / "store", gone=(paths.tag_file("old"),)))
    assert seen.tags() == {"t": 1}
    assert seen.snapshot("t").number == 1
    with pytest.raises(SnapshotNotFoundError):
        seen.snapshot("old")


def test_a_number_in_other_digits_is_no_version(store: Store) -> None:
    """Superscripts are digits, and no numbers."""
    add_assets(store, {"a": "1"})
    with pytest.raises(SnapshotNotFoundError):
        store.snapshot("\u00b2")


@dataclass(frozen=True)
class Far(Watched):
    """A local storage as a far one: it has no paths, and every question is counted."""

    asked: list[str] = field(default_factory=list, compare=False)
    waiting: list[str] = field(default_factory=list, compare=False)
    most: list[int] = field(default_factory=list, compare=False)

    def local(self, path: str) -> Path | None:
        """Return None, as an object store."""
        return None

    def exists(self, path: str) -> bool:
        """Whether there is such a file."""
        self.asked.append(path)
        return super().exists(path)

    def read(self, path: str, start: int = 0, stop: int | None = None) -> bytes:
        """Return a file's bytes, some milliseconds later."""
        self.waiting.append(path)
        time.sleep(0.02)
        self.most.append(len(self.waiting))
        self.waiting.remove(path)
        return super().read(path, start, stop)


def test_many_takedowns_are_read_at_once_and_purged_ones_are_not_looked_for(
    store: Store, tmp_path: Path
) -> None:
    """What an opening asks of an object store must not wait for one answer after the other."""
    add_assets(store, dict.fromkeys("abcdefgh", "1"))
    for key in "abcd":
        takedown(store, keys=[key])
    storage = Far(tmp_path / "store")
    assert set(shown(Store(storage).at())) == set("efgh")
    assert max(storage.most) >= 4
    purge(store, grace_s=0)
    assert execute_due(store).number is not None
    after = Far(tmp_path / "store")
    assert Store(after).hidden(store.snapshot()).count == 0
    assert not [path for path in after.asked if path.startswith(f"{paths.TAKEDOWNS}/tables")]
