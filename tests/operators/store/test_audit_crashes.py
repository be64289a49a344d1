"""Crashes and races around takedowns, receipts and shards of other libraries."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from tokenmill.store import Store, paths
from tokenmill.store import commit as commits
from tokenmill.store.compact import compact
from tokenmill.store.gc import gc
from tokenmill.store.intents import Intent, process_space
from tokenmill.store.purge import execute_due, purge
from tokenmill.store.takedown import takedown
from tokenmill.store.transaction import transact
from tokenmill.store.verify import verify_store
from tokenmill.testing.stores import add_assets, encode_assets, shown
from tokenmill_schemas.arrow import layout_of
from tokenmill_schemas.errors import FormatVersionError
from tokenmill_schemas.snapshot import Snapshot


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """A store that is not there yet."""
    return Store.of(str(tmp_path / "store"))


def sound(store: Store) -> None:
    """The newest version keeps all that it says."""
    assert verify_store(store, store.snapshot()).problems == ()


class Killed(BaseException):
    """The process is gone."""


def killed_before_its_second_look(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A commit brings back what was taken down while it was made, and is killed right after."""
    add_assets(store, {"a": "1"})
    commit = encode_assets(store, {"b": "1", "c": "1"})

    def late(*given: Any) -> Snapshot | None:
        def change(head: Snapshot | None) -> Snapshot | None:
            wanted: Snapshot | None = given[1](head)
            if not store.takedowns.newest():
                takedown(store, keys=["b"])
            return wanted

        return transact(given[0], change)

    def killed(*_: Any) -> None:
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(commits, "transact", late)
        patched.setattr(commits, "recheck", killed)
        with pytest.raises(Killed):
            store.commit(commit)


def test_a_purge_finds_what_a_killed_commit_brought_back(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is left of it, in the shard neither."""
    killed_before_its_second_look(store, monkeypatch)
    purge(store, grace_s=0)
    assert execute_due(store).held == ""
    assert set(shown(store.at())) == {"a", "c"}
    sound(store)


def test_a_gc_that_finds_a_dead_operation_hides_what_it_brought_back(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody has to ask for it; the samples stay until a purge."""
    killed_before_its_second_look(store, monkeypatch)
    dead = Intent("run", "x", "here", 2**22 + 1, space=process_space())
    path = f"{paths.RUNNING}/x-00000000.json"
    store.storage.create(path, json.dumps(asdict(dead)).encode())
    assert gc(store).dead_intents == 1
    assert set(shown(store.at())) == {"a", "c"}
    assert store.snapshot().totals["hidden"] == 1
    newest = store.takedowns.newest()
    gc(store)
    assert store.takedowns.newest() == newest
    sound(store)


def test_who_comes_second_deletes_no_shard_that_a_version_has(store: Store) -> None:
    """After compaction and gc a unit's receipt is gone, and its shard is another unit's."""
    add_assets(store, {"a": "1"})
    add_assets(store, {"e": "1"}, rejected={"e"})
    first = store.receipt(store.segments(store.snapshot()).column("unit_id")[0].as_py())
    assert first is not None
    compact(store)
    gc(store, grace_s=0, expire_older_than_s=0)
    other = json.loads(json.dumps(first.to_json())) | {"path": "data/other.arrow"}
    store.storage.delete(paths.receipt_file(first.unit_id))
    store.storage.create(paths.receipt_file(first.unit_id), json.dumps(other).encode())
    store.publish(first)
    assert shown(store.at()) == {"a": "1"}


def test_a_shard_of_a_newer_format_is_refused() -> None:
    """Its own version says so, whatever names it."""
    metadata = {"tokenmill.format_version": "2", "tokenmill.packing": "raw"}
    with pytest.raises(FormatVersionError):
        layout_of(pa.schema([], metadata | {"tokenmill.spec": '{"streams": []}'}))
