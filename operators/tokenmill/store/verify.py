"""Verification: read a version's files back and prove what it claims.

Checked: every file's sha256; rows, batches and columns of every shard and of every column group's
files; every id below its vocabulary; the fingerprint against its readable parts; that what is
hidden is there; and the ledger: each asset that was listed is in exactly one of samples (shown or
hidden), quarantine or filtered.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from tokenmill.shards.base import ShardReader
from tokenmill.shards.columns import encoded_shapes, stored_shapes
from tokenmill.shards.select import read_columns
from tokenmill.store.checks import file_digest, value_problems, words
from tokenmill.store.groups import group_problems
from tokenmill.store.plans import listed
from tokenmill.store.store import Store
from tokenmill.store.tables import read_tables
from tokenmill_schemas.canonical import digest
from tokenmill_schemas.errors import StoreError
from tokenmill_schemas.snapshot import TOMBSTONE_SCHEMA, FileRef, Snapshot

#: Problems of one kind that are spelled out; the rest are counted.
SHOWN = 20


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """What `verify_store` found; a sound version has no ``problems``."""

    problems: tuple[str, ...]
    shards: int
    samples: int
    assets: int
    checked_bytes: int


@dataclass(slots=True)
class _Findings:
    problems: list[str] = field(default_factory=list)
    shards: int = 0
    samples: int = 0
    checked_bytes: int = 0
    plans_whole: bool = True
    asset_keys: set[str] = field(default_factory=set)
    hidden_keys: set[str] = field(default_factory=set)
    sample_ids: Counter[str] = field(default_factory=Counter)


def verify_store(store: Store, snapshot: Snapshot, *, deep: bool = True) -> VerifyReport:
    """Check one version; ``deep`` also reads every shard's bytes and ids.

    Returns:
        The problems found, in words; reading goes on after each, so that one run shows all.
    """
    found = _Findings()
    if digest(snapshot.fingerprint_parts) != snapshot.fingerprint:
        found.problems.append("the fingerprint is not the hash of its parts")
    tombstones = _tombstones(store, snapshot, found)
    for row in _rows(store, snapshot, found):
        if row["path"]:
            hidden = tombstones.pop(row["path"], {})
            if _is_sound(store, snapshot, row, found=found, deep=deep):
                _collect(store, row, hidden, found=found)
    found.problems += _list_some("shards with hidden samples are not there", sorted(tombstones))
    repeated = [name for name, count in found.sample_ids.items() if count > 1]
    found.problems += _list_some("sample ids occur more than once", repeated)
    found.problems += group_problems(store, snapshot, deep=deep)
    assets = _verify_ledger(store, snapshot, found) if deep else snapshot.totals.get("assets", 0)
    if deep and found.samples != snapshot.totals.get("samples"):
        found.problems.append(
            f"the snapshot says {snapshot.totals.get('samples')} samples; shards hold "
            f"{found.samples}"
        )
    return VerifyReport(
        tuple(found.problems), found.shards, found.samples, assets, found.checked_bytes
    )


def _rows(store: Store, snapshot: Snapshot, found: _Findings) -> list[dict[str, Any]]:
    try:
        return list(store.segments(snapshot).to_pylist())
    except StoreError as error:
        found.problems.append(words(store.storage, error))
        return []


def _tombstones(
    store: Store, snapshot: Snapshot, found: _Findings
) -> dict[str, dict[int, tuple[str, str]]]:
    """Return by shard and row the asset's key and the sample's id that a tombstone names."""
    by_path: dict[str, dict[int, tuple[str, str]]] = {}
    try:
        rows = read_tables(store.storage, snapshot.tombstones, TOMBSTONE_SCHEMA).to_pylist()
    except StoreError as error:
        found.problems.append(words(store.storage, error))
        return {}
    for row in rows:
        keys = row["asset_key"], row["sample_id"]
        by_path.setdefault(row["path"], {})[row["row"]] = keys
    return by_path


def _is_sound(
    store: Store, snapshot: Snapshot, row: dict[str, Any], *, found: _Findings, deep: bool
) -> bool:
    """Check one shard's bytes and rows; ``deep`` False only looks whether it is there."""
    found.shards += 1
    path = row["path"]
    if not store.storage.exists(path):
        found.problems.append(f"{path} is missing")
        return False
    if not deep:
        return False
    sha256, size = file_digest(store.storage, path)
    found.checked_bytes += size
    if sha256 != row["sha256"] or size != row["bytes"]:
        found.problems.append(f"{path}: its bytes are not those that were committed")
        return False
    try:
        with store.shard(path) as shard:
            found.problems += [f"{path}: {p}" for p in _shard_problems(shard, snapshot, row)]
    except StoreError as error:
        found.problems.append(words(store.storage, error))
        return False
    return True


def _shard_problems(shard: ShardReader, snapshot: Snapshot, row: dict[str, Any]) -> Iterator[str]:
    if shard.rows != row["samples"]:
        yield f"holds {shard.rows} rows, committed were {row['samples']}"
    if shard.layout.spec != snapshot.spec:
        yield "its token spec is not the store's"
        return
    shapes = []
    for batch in shard.batches():
        shapes.append(stored_shapes(snapshot.spec, batch))
        problem = value_problems(batch, snapshot.spec, shard.layout.packing)
        if problem:
            yield problem
            return
    if row["shapes"] and row["shapes"] != encoded_shapes(snapshot.spec, shapes):
        yield "the shapes of its samples are not those in its manifest row"


def _collect(
    store: Store, row: dict[str, Any], hidden: dict[int, tuple[str, str]], *, found: _Findings
) -> None:
    """Note the samples of a shard, and compare those that are hidden with what hides them."""
    path = row["path"]
    table = read_columns(store.storage, path, ["asset_key", "sample_id"])
    keys, ids = (table.column(name).to_pylist() for name in table.column_names)
    wrong = [i for i, names in hidden.items() if i >= len(ids) or names != (keys[i], ids[i])]
    if wrong:
        found.problems.append(f"{path}: tombstones of rows {wrong[:SHOWN]} name other samples")
    if row["max_key"] and keys and not row["min_key"] <= min(keys) <= max(keys) <= row["max_key"]:
        found.problems.append(f"{path}: holds keys outside the bounds in its manifest row")
    shown = [i for i in range(len(ids)) if i not in hidden]
    found.samples += len(shown)
    found.asset_keys.update(keys[i] for i in shown)
    found.hidden_keys.update(keys[i] for i in hidden if i < len(keys))
    found.sample_ids.update(ids[i] for i in shown)


def _verify_ledger(store: Store, snapshot: Snapshot, found: _Findings) -> int:
    """Compare the listing with what became of it; returns how many assets were listed."""
    rejected = _rejected(store, snapshot, found)
    twice = [key for key, count in Counter(rejected).items() if count > 1]
    found.problems += _list_some("assets are rejected more than once", twice)
    both = sorted(found.asset_keys.intersection(rejected))
    found.problems += _list_some("assets have samples and are rejected as well", both)
    keys: set[str] = set()
    for ref in snapshot.plans:
        keys.update(_planned(store, ref, found))
    accounted = found.asset_keys.union(rejected, found.hidden_keys)
    found.problems += _list_some("listed assets are unaccounted for", sorted(keys - accounted))
    if found.plans_whole:
        found.problems += _list_some("assets were never listed", sorted(accounted - keys))
    return len(keys)


def _rejected(store: Store, snapshot: Snapshot, found: _Findings) -> list[str]:
    try:
        keys: list[str] = store.rejects(snapshot).column("asset_key").to_pylist()
    except StoreError as error:
        found.problems.append(words(store.storage, error))
        return []
    return keys


def _planned(store: Store, ref: FileRef, found: _Findings) -> Iterator[str]:
    if not store.storage.exists(ref.path):
        found.plans_whole = False
        found.problems.append(f"{ref.path} is missing")
        return
    sha256, size = file_digest(store.storage, ref.path)
    found.checked_bytes += size
    if sha256 != ref.sha256:
        found.plans_whole = False
        found.problems.append(f"{ref.path}: its bytes are not those that were committed")
        return
    for batch in listed(store.storage, ref, ["key"]):
        yield from batch.column("key").to_pylist()


def _list_some(what: str, names: list[str]) -> list[str]:
    if not names:
        return []
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return [f"{len(names)} {what}: {', '.join(names[:SHOWN])}{more}"]
