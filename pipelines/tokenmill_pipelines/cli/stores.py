"""What the commands about a store say, as JSON documents; people see the same in tables."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tokenmill.store import Store, paths
from tokenmill.store.diff import diff
from tokenmill.store.log import Log
from tokenmill.store.refs import split_uri
from tokenmill.store.verify import verify_store
from tokenmill_schemas.entropy import GROUPS, entropy_of
from tokenmill_schemas.snapshot import Snapshot
from tokenmill_schemas.tokens import Stream


def open_at(text: str, ref: str | None = None) -> tuple[Store, str | None]:
    """Open ``STORE[@REF]`` as people type it; returns the store and the ref, ``ref`` if given.

    A folder whose own name has an ``@`` is taken for itself.

    Raises:
        StoreError: there is no such store.
    """
    uri, named = split_uri(text)
    if named is None or Path(text, paths.LOG).is_dir():
        return Store.open(text), ref
    return Store.open(uri), ref or named


def describe_diff(before: str, after: str, *, limit: int) -> dict[str, Any]:
    """Return which assets differ between two versions, ``STORE[@REF]`` or ``@REF`` of the first."""
    store, ref = open_at(before)
    other, other_ref = (store, after[1:]) if after.startswith("@") else open_at(after)
    found = diff(store.at(ref), other.at(other_ref))
    rows = found.table.slice(0, limit) if limit else found.table
    sides = ((v.store.uri, v.snapshot.branch, v.number) for v in (found.before, found.after))
    named = [dict(zip(("store", "branch", "number"), side, strict=True)) for side in sides]
    return {
        "before": named[0],
        "after": named[1],
        "counts": found.counts,
        "assets": rows.to_pylist(),
    }


def describe_branches(store: Store) -> list[dict[str, Any]]:
    """Return every branch, its newest version, and where it began."""
    described, named = [], _tags(store)
    for name, head in store.branches().items():
        fork = store.on(name).log.fork()
        began = f"{fork.branch}:{fork.number}" if fork else ""
        # The newest version of a branch that made none yet is another branch's.
        version = _version(head, named.get((head.branch, head.number), []))
        described.append({"branch": name, "began": began, **(version | {"branch": name})})
    return described


def describe_store(store: Store, ref: str | None) -> dict[str, Any]:
    """Return what a version holds, how it was made and what it is called."""
    version = store.at(ref)
    snapshot = version.snapshot
    reasons = Counter(version.rejects().column("reason").to_pylist())
    hidden = Counter(version.tombstones().column("reason").to_pylist())
    tags = _tags(store).get((snapshot.branch, snapshot.number), [])
    files = [entry.path for entry in store.storage.list(paths.REPORTS)]
    reports = [file for file in files if f"/{snapshot.number:06d}-" in file]
    return {
        "store": store.uri,
        **_version(snapshot, tags),
        "totals": snapshot.totals,
        "fingerprint": snapshot.fingerprint,
        "fingerprint_parts": snapshot.fingerprint_parts,
        "spec": snapshot.spec.to_json(),
        "streams": [describe_stream(stream) for stream in snapshot.spec.streams],
        "entropy": _entropy(snapshot),
        "rejects": dict(reasons.most_common()),
        "hidden": dict(hidden.most_common()),
        "missing": version.missing().num_rows,
        "groups": [
            {
                "name": group.name,
                "streams": [stream.name for stream in group.spec.streams],
                "columns": list(group.columns),
            }
            for group in snapshot.groups
        ],
        "report": reports[-1] if reports else "",
    }


def describe_stream(stream: Stream) -> dict[str, Any]:
    """Return a stream in words."""
    size = {
        "index": f"{sum(stream.vocab_sizes):,} ids",
        "bits": f"{stream.width_bits} bits",
        "float": f"{stream.channels} channels, {stream.dtype}",
    }
    return {
        "name": stream.name,
        "kind": stream.kind,
        "axes": " x ".join(f"{axis.name} {axis.size or '?'}" for axis in stream.axes),
        "values": size[stream.kind],
        "order": stream.order,
    }


def _entropy(snapshot: Snapshot) -> list[dict[str, Any]]:
    """Return how varied a version's ids are, in bits an id; nothing of one that keeps no sums."""
    found = (
        (stream, size, entropy_of(snapshot.entropy, stream, size))
        for stream in snapshot.entropy
        for size in GROUPS
    )
    return [
        {
            "stream": stream,
            "samples": size,
            "bits": round(entropy.mean_bits, 4),
            "error": round(entropy.error_bits, 4),
            "ids": round(entropy.mean_ids, 1),
            "groups": entropy.groups,
        }
        for stream, size, entropy in found
        if entropy.groups
    ]


def _version(snapshot: Snapshot, tags: list[str]) -> dict[str, Any]:
    return {
        "number": snapshot.number,
        "branch": snapshot.branch,
        "tags": tags,
        "created_at": snapshot.created_at,
        "operation": snapshot.operation,
        "message": snapshot.message,
        "content_id": snapshot.content_id,
        "commit_id": snapshot.commit_id,
    }


def _tags(store: Store) -> dict[tuple[str, int], list[str]]:
    """Return the tags of every version that has some, by branch and number."""
    named: dict[tuple[str, int], list[str]] = {}
    for name, tagged in sorted(store.refs.tags().items()):
        named.setdefault((tagged.branch, tagged.number), []).append(name)
    return named


def describe_log(store: Store, ref: str | None = None) -> list[dict[str, Any]]:
    """Return the versions up to ``ref``, newest first; a branch's if ``ref`` is one."""
    newest = store.snapshot(ref)
    log = Log(store.storage, newest.branch)
    numbers = [number for number in reversed(log.numbers()) if number <= newest.number]
    named = _tags(store)
    return [
        _version(snapshot, named.get((snapshot.branch, snapshot.number), []))
        | {"totals": snapshot.totals, "entropy": _entropy(snapshot)}
        for snapshot in map(log.read, numbers)
    ]


def verify(store: Store, ref: str | None, *, deep: bool) -> dict[str, Any]:
    """Return what verification found."""
    snapshot = store.snapshot(ref)
    report = asdict(verify_store(store, snapshot, deep=deep))
    return {"store": store.uri, "number": snapshot.number, "sound": not report["problems"]} | report
