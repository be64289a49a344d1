import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenmill_schemas.errors import FormatVersionError, Reason
from tokenmill_schemas.snapshot import (
    FileRef,
    Receipt,
    Reject,
    Snapshot,
    receipt_from_json,
    snapshot_from_json,
)
from tokenmill_schemas.tokens import Axis, Stream, TokenSpec

SPEC = TokenSpec((Stream("image", "index", (Axis("h", 2), Axis("w", 2)), vocab_sizes=(512,)),))
COUNT = st.integers(0, 2**40)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(), inner, max_size=2),
    max_leaves=4,
)
REFS = st.lists(st.builds(FileRef, st.text(), st.text(), COUNT, COUNT), max_size=3).map(tuple)
REJECTS = st.lists(
    st.builds(
        Reject,
        st.text(),
        st.text(),
        st.sampled_from([str(reason) for reason in Reason]),
        st.sampled_from(["fetch", "decode", "view", "encode"]),
        st.text(),
        st.sampled_from(["quarantine", "filtered"]),
    ),
    max_size=3,
).map(tuple)
RECEIPTS = st.builds(
    Receipt,
    unit_id=st.text(),
    plan=st.text(),
    row_group=COUNT,
    path=st.text(),
    format=st.text(),
    samples=COUNT,
    tokens=COUNT,
    bytes=COUNT,
    sha256=st.text(),
    assets=COUNT,
    batch_rows=COUNT,
    rejects=REJECTS,
    seconds=st.dictionaries(st.text(), st.floats(0, 1e9), max_size=2),
    statistics=st.dictionaries(st.text(), JSON, max_size=2),
    attempt=COUNT,
)
SNAPSHOTS = st.builds(
    Snapshot,
    number=COUNT,
    commit_id=st.text(),
    parent=st.text(),
    operation=st.text(),
    created_at=st.text(),
    spec=st.just(SPEC),
    fingerprint=st.text(),
    fingerprint_parts=st.dictionaries(st.text(), JSON, max_size=2),
    layout=st.text(),
    segments=REFS,
    rejects=REFS,
    plans=REFS,
    tombstones=REFS,
    totals=st.dictionaries(st.text(), COUNT, max_size=2),
    message=st.text(),
    job=st.dictionaries(st.text(), JSON, max_size=2),
)


@given(RECEIPTS)
def test_a_receipt_is_what_its_json_says(receipt: Receipt) -> None:
    """Through a file and back."""
    assert receipt_from_json(json.loads(json.dumps(receipt.to_json()))) == receipt


@given(SNAPSHOTS)
def test_a_snapshot_is_what_its_bytes_say(snapshot: Snapshot) -> None:
    """Through a log file and back; the same value gives the same bytes."""
    copy = snapshot_from_json(json.loads(snapshot.to_bytes()))
    assert copy == snapshot
    assert copy.to_bytes() == snapshot.to_bytes()
    assert json.loads(snapshot.to_bytes())["content_id"] == snapshot.content_id


@given(SNAPSHOTS, st.text(), COUNT)
def test_the_content_id_ignores_when_and_by_whom(snapshot: Snapshot, text: str, n: int) -> None:
    """Number, commit, parent, time, message, job and totals do not change what a version holds."""
    other: dict[str, Any] = {"number": n, "totals": {text: n}, "job": {text: n}}
    for name in ("commit_id", "parent", "created_at", "message", "operation", "branch"):
        other[name] = text
    assert replace(snapshot, **other).content_id == snapshot.content_id


@given(SNAPSHOTS)
def test_the_content_id_sees_all_that_is_held(snapshot: Snapshot) -> None:
    """Another shard list, reject list, plan, tombstone, layout or fingerprint is another id."""
    more = FileRef("new", "new-hash", 1, 1)
    for name in ("segments", "rejects", "plans", "tombstones"):
        value: Any = (*getattr(snapshot, name), more)
        changed = replace(snapshot, **{name: value})
        assert changed.content_id != snapshot.content_id
    for name in ("fingerprint", "layout"):
        changed = replace(snapshot, **{name: getattr(snapshot, name) + "x"})
        assert changed.content_id != snapshot.content_id
    assert replace(snapshot, spec=SPEC.sized(h=9)).content_id != snapshot.content_id


def test_a_newer_format_is_refused_with_what_to_do() -> None:
    """An old library never guesses at a new store."""
    with pytest.raises(FormatVersionError, match=r"s3://x: format version 99 .* update tokenmill"):
        snapshot_from_json({"format_version": 99}, uri="s3://x")
