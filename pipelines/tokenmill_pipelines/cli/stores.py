"""What the commands about a store say, as JSON documents; people see the same in tables."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from tokenmill.feed import Feed
from tokenmill.shards.columns import widen_bfloat16
from tokenmill.store import Store, paths
from tokenmill.store.diff import diff
from tokenmill.store.log import Log
from tokenmill.store.refs import split_uri
from tokenmill.store.verify import verify_store
from tokenmill_schemas.snapshot import Snapshot
from tokenmill_schemas.tokens import Stream

#: Batches that `feed` shows, values of each stream's first sample, and shapes that vary.
SHOWN_BATCHES = 3
SHOWN_VALUES = 8
SHOWN_SHAPES = 4


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
        | {"totals": snapshot.totals}
        for snapshot in map(log.read, numbers)
    ]


def verify(store: Store, ref: str | None, *, deep: bool) -> dict[str, Any]:
    """Return what verification found."""
    snapshot = store.snapshot(ref)
    report = asdict(verify_store(store, snapshot, deep=deep))
    return {"store": store.uri, "number": snapshot.number, "sound": not report["problems"]} | report


def read_batches(feed: Feed, batches: int, columns: tuple[str, ...] = ()) -> dict[str, Any]:
    """Read ``batches`` batches; return the first ones' contents and the speed of all.

    Of ``columns`` each batch's first value is shown.

    The first batch opens files, so it is timed apart.
    """
    shown: list[dict[str, Any]] = []
    counts: list[int] = []
    first_s, tokens, start = 0.0, 0, time.perf_counter()
    for batch in islice(feed, batches):
        first_s = first_s or time.perf_counter() - start
        counts.append(len(batch["sample_id"]))
        tokens += sum(_positions(batch, stream) for stream in feed.streams)
        if len(shown) < SHOWN_BATCHES:
            shown.append(_describe_batch(batch, feed.step - 1, feed.streams, columns))
    seconds = max(1e-9, time.perf_counter() - start)
    later_s = max(1e-9, seconds - first_s)
    later = sum(counts[1:])
    return {
        "number": feed.snapshot.number,
        "batches": len(counts),
        "samples": sum(counts),
        "tokens": tokens,
        "seconds": seconds,
        "first_batch_s": first_s,
        "samples_per_s": later / later_s if later else None,
        "tokens_per_s": tokens * later / sum(counts) / later_s if later else None,
        "shown": shown,
        "state": feed.state_dict(),
    }


def _positions(batch: Any, stream: Stream) -> int:
    arrays = batch[stream.name] if isinstance(batch[stream.name], list) else [batch[stream.name]]
    tail = {"index": 1, "bits": stream.width_bits, "float": stream.channels}[stream.kind]
    return sum(int(array.size) for array in arrays) // tail


def _describe_batch(
    batch: Any, step: int, streams: tuple[Stream, ...], columns: tuple[str, ...]
) -> dict[str, Any]:
    described = {stream.name: _describe_values(batch[stream.name], stream) for stream in streams}
    first = {name: _plain(batch[name][0]) for name in columns}
    ids = list(batch["sample_id"])
    return {"step": step, "sample_ids": ids, "streams": described, "columns": first}


def _plain(value: Any) -> Any:
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else value


def _describe_values(values: Any, stream: Stream) -> dict[str, Any]:
    """Return the type, shapes and first values of a stream in a batch, as the spec means them."""
    is_fixed = isinstance(values, np.ndarray)
    first = np.asarray(values[0])
    shown = first.ravel()[:SHOWN_VALUES]
    described: dict[str, Any] = {
        "dtype": stream.dtype if stream.kind == "float" else str(first.dtype),
        "shape": [len(values), *(first.shape if is_fixed else ["?"])],
        "first": (widen_bfloat16(shown) if _is_bits_of_bfloat16(first, stream) else shown).tolist(),
    }
    if not is_fixed:
        described["shapes"] = [list(np.shape(value)) for value in values[:SHOWN_SHAPES]]
    return described


def _is_bits_of_bfloat16(values: np.ndarray[Any, Any], stream: Stream) -> bool:
    return stream.dtype == "bfloat16" and values.dtype == np.uint16
