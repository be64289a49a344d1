"""Verification: read a version's files back and prove what it claims.

Checked: every file's sha256; rows, batches and columns of every shard; every id below its
vocabulary; the fingerprint against its readable parts; and the ledger: each asset that was listed
is in exactly one of samples, quarantine or filtered.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tokenmill.shards.base import ShardReader
from tokenmill.shards.columns import decode_stream
from tokenmill.store.plans import listed
from tokenmill.store.store import Store
from tokenmill_schemas.canonical import digest
from tokenmill_schemas.errors import StoreError
from tokenmill_schemas.snapshot import FileRef, Snapshot
from tokenmill_schemas.tokens import Stream

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
    sample_ids: Counter[str] = field(default_factory=Counter)


def verify_store(store: Store, snapshot: Snapshot, *, deep: bool = True) -> VerifyReport:
    """Check one version; ``deep`` also reads every shard's bytes and ids.

    Returns:
        The problems found, in words; reading goes on after each, so that one run shows all.
    """
    found = _Findings()
    if digest(snapshot.fingerprint_parts) != snapshot.fingerprint:
        found.problems.append("the fingerprint is not the hash of its parts")
    for row in _rows(store, snapshot, found):
        if row["path"]:
            _verify_shard(store, snapshot, row, found=found, deep=deep)
    repeated = [name for name, count in found.sample_ids.items() if count > 1]
    found.problems += _list_some("sample ids occur more than once", repeated)
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
        found.problems.append(_words(store, error))
        return []


def _verify_shard(
    store: Store, snapshot: Snapshot, row: dict[str, Any], *, found: _Findings, deep: bool
) -> None:
    found.shards += 1
    path = row["path"]
    if not store.storage.exists(path):
        found.problems.append(f"{path} is missing")
        return
    if not deep:
        return
    sha256, size = _file_digest(store, path)
    found.checked_bytes += size
    if sha256 != row["sha256"] or size != row["bytes"]:
        found.problems.append(f"{path}: its bytes are not those that were committed")
        return
    try:
        with store.shard(path) as shard:
            found.problems += [f"{path}: {p}" for p in _shard_problems(shard, snapshot, row)]
            _collect(shard, found)
    except StoreError as error:
        found.problems.append(_words(store, error))


def _file_digest(store: Store, path: str) -> tuple[str, int]:
    local = store.storage.local(path)
    if local is None:
        data = store.storage.read(path)
        return hashlib.sha256(data).hexdigest(), len(data)
    with local.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest(), local.stat().st_size


def _shard_problems(shard: ShardReader, snapshot: Snapshot, row: dict[str, Any]) -> Iterator[str]:
    if shard.rows != row["samples"]:
        yield f"holds {shard.rows} rows, committed were {row['samples']}"
    if shard.layout.spec != snapshot.spec:
        yield "its token spec is not the store's"
        return
    for batch in shard.batches():
        for stream in snapshot.spec.streams:
            problem = _range_problem(batch, stream, shard)
            if problem:
                yield problem
                return


def _range_problem(batch: pa.RecordBatch, stream: Stream, shard: ShardReader) -> str:
    values = decode_stream(batch, stream, shard.layout.packing)
    arrays = values if isinstance(values, list) else [values]
    for array in arrays:
        if stream.kind == "index" and array.size:
            tops = np.asarray(stream.vocab_sizes, dtype=np.uint64)
            if np.any(array.astype(np.uint64) >= tops):
                return f"stream {stream.name!r} holds ids outside its vocabulary"
        if stream.kind == "float" and stream.dtype != "bfloat16" and not np.isfinite(array).all():
            return f"stream {stream.name!r} holds values that are not finite"
    return ""


def _collect(shard: ShardReader, found: _Findings) -> None:
    for batch in shard.batches():
        found.samples += batch.num_rows
        found.asset_keys.update(pc.unique(batch.column("asset_key")).to_pylist())
        found.sample_ids.update(batch.column("sample_id").to_pylist())


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
    accounted = found.asset_keys.union(rejected)
    found.problems += _list_some("listed assets are unaccounted for", sorted(keys - accounted))
    if found.plans_whole:
        found.problems += _list_some("assets were never listed", sorted(accounted - keys))
    return len(keys)


def _rejected(store: Store, snapshot: Snapshot, found: _Findings) -> list[str]:
    try:
        keys: list[str] = store.rejects(snapshot).column("asset_key").to_pylist()
    except StoreError as error:
        found.problems.append(_words(store, error))
        return []
    return keys


def _planned(store: Store, ref: FileRef, found: _Findings) -> Iterator[str]:
    if not store.storage.exists(ref.path):
        found.plans_whole = False
        found.problems.append(f"{ref.path} is missing")
        return
    sha256, size = _file_digest(store, ref.path)
    found.checked_bytes += size
    if sha256 != ref.sha256:
        found.plans_whole = False
        found.problems.append(f"{ref.path}: its bytes are not those that were committed")
        return
    for batch in listed(store.storage, ref, ["key"]):
        yield from batch.column("key").to_pylist()


def _words(store: Store, error: StoreError) -> str:
    """An error's message with the file first, as all problems have it: the store is known."""
    return str(error).removeprefix(f"{store.uri}: ").removeprefix(f"{store.uri.rstrip('/')}/")


def _list_some(what: str, names: list[str]) -> list[str]:
    if not names:
        return []
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return [f"{len(names)} {what}: {', '.join(names[:SHOWN])}{more}"]
