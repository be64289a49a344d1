"""Increments against a plain dict: whatever a source goes through, what is done and what marked."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenmill_schemas.asset import ASSET_NAMES, ASSET_SCHEMA, DUPLICATE
from tokenmill_schemas.increment import CONTENT, Diff, Known
from tokenmill_schemas.plan import digests

KEYS = ("a", "b", "käse", "d/e", "f")
#: What a source says of an asset: its version, and what its bytes are.
Told = tuple[str, str]
TOLD = st.tuples(st.sampled_from(["v1", "v2", "v3"]), st.sampled_from(["x", "y", ""]))
SOURCES = st.dictionaries(st.sampled_from(KEYS), TOLD)


def batch(source: dict[str, Told], *, uri: str = "s3://x") -> pa.RecordBatch:
    """A listing of a source, sorted by key."""
    rows = [(key, f"{uri}/{key}", "", "image", 5, source[key][0]) for key in sorted(source)]
    columns = {name: [row[i] for row in rows] for i, name in enumerate(ASSET_NAMES)}
    return pa.RecordBatch.from_pydict(columns, schema=ASSET_SCHEMA)


def names(arrays: list[pa.Array]) -> set[str]:
    """The keys in all arrays, after checking that none is there twice."""
    found = [name for array in arrays for name in array.to_pylist()]
    assert len(set(found)) == len(found)
    return set(found)


def digest(key: str) -> bytes:
    """The digest by which plans and takedowns know a key."""
    return digests(pa.table({"key": [key]}), ("key",))[0]


@dataclass
class Store:
    """What a store's log holds, as far as increments go: plans by their job, and who is missing."""

    plans: list[tuple[pa.RecordBatch, str]] = field(default_factory=list)
    missing: dict[str, set[str]] = field(default_factory=dict)

    def known(self, job: str) -> Known:
        """What `job` is held against."""
        missing = [digest(key) for key in sorted(self.missing.get(job, ()))]
        return Known.of(((rows, scope == job != "") for rows, scope in self.plans), missing)

    def run(self, job: str, diff: Diff, batches: list[pa.RecordBatch]) -> tuple[set[str], set[str]]:
        """List, commit; returns the keys that are tokenized and those that vanished."""
        todo = [diff.sift(b) for b in batches]
        own = [rows for rows, scope in self.plans if scope == job]
        vanished = names(list(diff.vanished(own)))
        assert len(vanished) == diff.gone <= diff.there
        self.plans += [(rows, job) for rows in todo if rows.num_rows]
        missing = self.missing.setdefault(job, set())
        missing |= vanished
        missing -= names(diff.returned_keys)
        return names([rows.column("key") for rows in todo]), vanished


@dataclass
class Model:
    """The same with a dict: each asset's version, its owner, and the pairs that are missing."""

    assets: dict[str, tuple[str, str]] = field(default_factory=dict)
    missing: set[tuple[str, str]] = field(default_factory=set)


STEPS = st.lists(
    st.tuples(st.sampled_from(["daily", "other"]), SOURCES, st.booleans()), min_size=1, max_size=6
)


@settings(deadline=None)
@given(STEPS, st.data())
def test_any_history_of_two_jobs_is_that_of_a_dict(
    steps: list[tuple[str, dict[str, Told], bool]], data: st.DataObject
) -> None:
    """Added, changed, removed and returned assets, in any order, each job minding its own."""
    store, model = Store(), Model()
    for job, source, replace in steps:
        diff = Diff(store.known(job), replace=replace)
        cut = data.draw(st.integers(0, len(source)))
        whole = batch(source)
        done, vanished = store.run(job, diff, [whole.slice(0, cut), whole.slice(cut)])
        new = source.keys() - model.assets.keys()
        changed = {k for k in source.keys() - new if model.assets[k][0] != source[k][0]}
        gone = {k for k, (_, owner) in model.assets.items() if owner == job} - source.keys()
        gone -= {k for k, owner in model.missing if owner == job}
        back = {k for k in source if (k, job) in model.missing}
        assert done == new | (changed if replace else set())
        assert vanished == gone
        assert names(diff.changed_keys) == changed
        assert names(diff.returned_keys) == back
        counted = diff.new, diff.changed, diff.unchanged, diff.returned, diff.assets
        kept = len(source) - len(new) - len(changed)
        assert counted == (len(new), len(changed), kept, len(back), len(source))
        model.assets |= {k: (source[k][0], job) for k in done}
        model.missing = (model.missing | {(k, job) for k in gone}) - {(k, job) for k in back}


class Reader:
    """Hashes what a source's assets hold, and remembers whose it read."""

    def __init__(self, source: dict[str, Told]) -> None:
        self._source = source
        self.read: list[str] = []

    def __call__(self, rows: pa.RecordBatch) -> list[str]:
        """Return a hash per row, "" for what holds nothing."""
        keys = rows.column("key").to_pylist()
        self.read += keys
        return [sha256(self._source[key][1]) for key in keys]


def sha256(content: str) -> str:
    """The hash of a content; "" cannot be read."""
    return hashlib.sha256(content.encode()).hexdigest() if content else ""


@settings(deadline=None)
@given(st.lists(st.tuples(SOURCES, st.booleans()), min_size=1, max_size=6))
def test_content_tells_assets_whatever_their_version_and_place(
    steps: list[tuple[dict[str, Told], bool]],
) -> None:
    """Only what has another place or version is read, and only another content is tokenized."""
    store = Store()
    known: dict[str, tuple[str, str, str]] = {}
    for source, moved in steps:
        uri, reader = f"s3://{'y' if moved else 'x'}", Reader(source)
        done, _ = store.run("j", Diff(store.known("j"), content=reader), [batch(source, uri=uri)])
        stands = {k: (uri, *source[k]) for k in source}
        read = {k for k in source if known.get(k, ())[:2] != stands[k][:2]}
        assert sorted(reader.read) == sorted(read)
        same = {k for k in read if k in known and source[k][1] and known[k][2] == source[k][1]}
        assert done == read - same
        known |= {k: stands[k] for k in done}
    for rows, _ in store.plans:
        for row in rows.to_pylist():
            own, _, hashed = row["version"].partition(CONTENT)
            assert own in {"v1", "v2", "v3"}
            assert hashed in {"", sha256("x"), sha256("y")}


def test_a_job_may_turn_to_content_and_back_without_doing_anything_again() -> None:
    """What has a known version is not read; a hash that is there does not make it another one."""
    store, source = Store(), {"a": ("v1", "x")}
    store.run("j", Diff(store.known("j")), [batch(source)])
    reader = Reader(source)
    assert store.run("j", Diff(store.known("j"), content=reader), [batch(source)])[0] == set()
    assert reader.read == []
    source = {"a": ("v2", "x"), "b": ("v1", "y")}
    reader = Reader(source)
    done, _ = store.run("j", Diff(store.known("j"), content=reader), [batch(source)])
    assert done == {"a", "b"}, "of an asset whose hash nobody took a new version counts"
    assert store.run("j", Diff(store.known("j")), [batch(source)])[0] == set()


def test_a_source_without_versions_is_read_each_time() -> None:
    """Without a version nothing else can tell a change."""
    store, source = Store(), {"a": ("", "x"), "b": ("", "")}
    for content, expected in (("x", {"a", "b"}), ("x", set()), ("y", {"a"}), ("y", set())):
        source["a"] = ("", content)
        reader = Reader(source)
        done, _ = store.run("j", Diff(store.known("j"), content=reader), [batch(source)])
        assert (done, reader.read) == (expected, ["a", "b"])


@given(SOURCES, SOURCES, st.sets(st.sampled_from(KEYS)))
def test_what_was_taken_down_is_neither_done_nor_missed(
    first: dict[str, Told], second: dict[str, Told], denied: set[str]
) -> None:
    """It is counted where it is listed, and that is all."""
    store, hidden = Store(), frozenset(map(digest, denied))
    store.run("j", Diff(store.known("j")), [batch(first)])
    diff = Diff(store.known("j"), hidden)
    done, vanished = store.run("j", diff, [batch(second)])
    assert diff.withheld == len(denied & second.keys())
    assert diff.assets == len(second)
    assert vanished == first.keys() - second.keys() - denied
    assert diff.there == len(first.keys() - denied)
    assert not done & denied


def listed_twice(*keys: str) -> pa.RecordBatch:
    """A listing of these keys in this order, all of one version."""
    rows = [(key, f"s3://x/{key}", "", "image", 5, "v1") for key in keys]
    columns = {name: [row[i] for row in rows] for i, name in enumerate(ASSET_NAMES)}
    return pa.RecordBatch.from_pydict(columns, schema=ASSET_SCHEMA)


@given(st.lists(st.sampled_from(["a", "b", "a#duplicate-1"]), max_size=8), st.integers(0, 8))
def test_repeated_keys_are_known_again_one_by_one(keys: list[str], cut: int) -> None:
    """Whatever they are called, each row has a key of its own, and the same the next time."""
    store, whole = Store(), listed_twice(*keys)
    parts = [whole.slice(0, cut), whole.slice(cut)]
    diff = Diff(store.known("j"))
    done, _ = store.run("j", diff, parts)
    assert len(done) == len(keys)
    # A copy may take the name of a row that comes later, which then is the one too many.
    assert len(keys) - len(set(keys)) <= diff.duplicates < max(1, len(keys))
    locators = [row["locator"] for rows, _ in store.plans for row in rows.to_pylist()]
    assert locators.count(DUPLICATE) == diff.duplicates
    again = Diff(store.known("j"))
    assert store.run("j", again, parts) == (set(), set())
    assert (again.unchanged, again.gone) == (len(keys), 0)


def test_one_repeated_key_less_is_one_missing_and_no_other() -> None:
    """Copies are counted by their own key, so that one key's do not rename another's."""
    store = Store()
    first = listed_twice("a", "b", "a", "b")
    assert store.run("j", Diff(store.known("j")), [first])[0] == {
        *("a", "b", "a#duplicate-1", "b#duplicate-1")
    }
    done, vanished = store.run("j", Diff(store.known("j")), [listed_twice("a", "b", "b")])
    assert (done, vanished) == (set(), {"a#duplicate-1"})


def test_plans_of_nobody_are_never_missed() -> None:
    """Stores that were written before jobs signed their plans keep all that they list."""
    store = Store(plans=[(batch({"a": ("v1", "x")}), "")])
    for job in ("j", ""):
        diff = Diff(store.known(job))
        assert store.run(job, diff, [batch({})]) == (set(), set())
        assert diff.there == 0


@pytest.mark.parametrize("asked", [[0, 1, 2, 3, 4], [4, 2, 0, 2], [5], []])
def test_digests_that_begin_alike_are_told_apart(asked: list[int]) -> None:
    """Eight equal bytes happen once in a few billion assets; they must not cost one."""
    made = [b"same-8-b" + bytes([i]) * 8 for i in range(1, 4)]
    keys = np.frombuffer(b"".join([b"\0" * 8 + b"a" * 8, *made, b"z" * 16]), "S16")
    empty = np.zeros(5, np.bool_)
    heads = np.frombuffer(keys.tobytes(), ">u8")[::2].astype(np.uint64)
    known = Known(keys, heads, keys, keys, empty, empty)
    others = np.frombuffer(b"same-8-b" + b"\x09" * 8, "S16")
    pool = np.concatenate([keys, others])
    expected = [index if index < 5 else -1 for index in asked]
    assert known.find(pool[asked]).tolist() == expected
