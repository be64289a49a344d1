"""What opening a snapshot reads, and what it does not: facts of shards come when they are asked."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenmill.feed import Feed, ShardCache
from tokenmill.feed.rows import manifest as manifests
from tokenmill.feed.rows.keys import rows_of_keys
from tokenmill.feed.rows.manifest import Manifest, SegmentManifest, TableManifest, open_manifest
from tokenmill.feed.rows.opening import Opened, Wanted, open_snapshot
from tokenmill.feed.rows.pruning import may_match
from tokenmill.store import Store, tables
from tokenmill.store.groups import add_group, from_table
from tokenmill.store.paths import DATA, SEGMENTS
from tokenmill.store.segments import read_segments, shard_places
from tokenmill.store.takedown import takedown
from tokenmill.testing.feed import build_store
from tokenmill.testing.stores import add_assets
from tokenmill_infra.storage import open_storage
from tokenmill_infra.storage.local import LocalStorage
from tokenmill_schemas.errors import StoreError
from tokenmill_schemas.where import parse

SAMPLES = [3, 0, 4, 1, 2, 6, 0, 5, 2, 7, 1, 1]


@dataclass(frozen=True)
class Remote(LocalStorage):
    """A folder as if it were not here, which notes the ranges that are read of each file."""

    ranges: list[tuple[str, int, int]] = field(default_factory=list, compare=False)

    def local(self, path: str) -> Path | None:
        """Say that no file is here."""
        return None

    def read(self, path: str, start: int = 0, stop: int | None = None) -> bytes:
        """Read a range."""
        data = super().read(path, start, stop)
        self.ranges.append((path, start, start + len(data)))
        return data

    def files(self, folder: str) -> Counter[str]:
        """How often each file of a folder was read from."""
        return Counter(path for path, _, _ in self.ranges if path.startswith(f"{folder}/"))


@pytest.fixture
def in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Manifest segments of four shards, large enough that columns are read by ranges."""
    monkeypatch.setattr(tables, "FILE_ROWS", 4)
    monkeypatch.setattr(tables, "WHOLE_BYTES", 0)
    monkeypatch.setattr(manifests, "WHOLE_BYTES", 0)


@pytest.fixture
def store(in_parts: None, tmp_path: Path) -> Store:
    """Twelve shards in three segments, two of them without samples."""
    return build_store(tmp_path / "store", SAMPLES)


def remote(store: Store) -> tuple[Store, Remote]:
    """The store through a storage that notes what is read."""
    storage = Remote(Path(store.uri))
    return Store(storage), storage


def opened(store: Store, cache: Path, **wanted: Any) -> Opened:
    """Open the newest version."""
    reading = Wanted(None, ("sample_id",), wanted.get("since"), wanted.get("where", ""))
    return open_snapshot(store, store.snapshot(), reading, ShardCache(cache))


def chunk(store: Store, path: str, column: str) -> range:
    """Where a segment's column lies in its file."""
    meta = pq.read_metadata(Path(store.uri, path)).row_group(0)
    found = next(
        meta.column(i) for i in range(meta.num_columns) if meta.column(i).path_in_schema == column
    )
    start = found.dictionary_page_offset or found.data_page_offset
    return range(start, start + found.total_compressed_size)


def paths_read(store: Store, storage: Remote) -> list[int]:
    """The segments of which the paths were read, by their place.

    The footer comes with the last 64 KB of a file, here all of it: such reads do not count.
    """
    sizes = {ref.path: ref.bytes for ref in store.snapshot().segments}
    touched = set()
    for path, start, stop in storage.ranges:
        if path in sizes and stop < sizes[path]:
            column = chunk(store, path, "path")
            if max(start, column.start) < min(stop, column.stop):
                touched.add(list(sizes).index(path))
    return sorted(touched)


def test_opening_reads_the_paths_of_one_segment(store: Store, tmp_path: Path) -> None:
    """Of the first, for the layout of its shards; of all, once something is hidden."""
    assert len(store.snapshot().segments) == 3
    there, storage = remote(store)
    plan = opened(there, tmp_path / "cache").plan
    assert plan.rows == sum(SAMPLES)
    assert paths_read(store, storage) == [0]
    takedown(store, keys=["a1"])
    there, storage = remote(store)
    assert opened(there, tmp_path / "cache").plan.rows == sum(SAMPLES) - 1
    assert paths_read(store, storage) == [0, 1, 2]


def test_the_facts_of_a_shard_are_read_when_it_is(store: Store, tmp_path: Path) -> None:
    """Its path and hash come with its segment, and stay for the other shards of that."""
    there, storage = remote(store)
    made = opened(there, tmp_path / "cache")
    before = len(storage.ranges)
    made.shards.gather(np.array([9, 9]), np.array([0, 6]), share=2)
    assert paths_read(store, storage) == [0, 2]
    assert storage.files(DATA)
    storage.ranges.clear()
    made.shards.gather(np.array([8, 10]), np.array([1, 0]), share=2)
    assert not storage.files(SEGMENTS)
    assert before


def facts(manifest: Manifest) -> list[tuple[Any, ...]]:
    """All that a manifest knows, shard by shard."""
    return [
        (manifest.path(i), manifest.sha256(i), manifest.bytes(i), manifest.batch_rows(i))
        for i in range(len(manifest.samples))
    ]


@pytest.mark.parametrize("limit", [1, 2, 16])
def test_facts_on_disk_are_those_in_memory(store: Store, limit: int) -> None:
    """In any order of asking, however few segments are kept."""
    refs = store.snapshot().segments
    table = read_segments(store.storage, refs)
    whole = TableManifest(table, table["samples"].to_numpy())
    parts = SegmentManifest(store.storage, refs, limit=limit)
    assert facts(parts) == facts(whole)
    assert facts(parts)[::-1] == facts(whole)[::-1]
    assert parts.samples.tolist() == whole.samples.tolist() == SAMPLES
    assert parts.format == "arrow"
    assert isinstance(open_manifest(store.storage, refs), SegmentManifest)


def test_a_small_manifest_is_read_once(tmp_path: Path) -> None:
    """Its files are read whole anyway, so one request each is all."""
    store = build_store(tmp_path / "store", SAMPLES)
    there, storage = remote(store)
    made = opened(there, tmp_path / "cache")
    made.shards.gather(np.array([0, 11]), np.array([0, 0]), share=2)
    assert isinstance(made.manifest, TableManifest)
    assert set(storage.files(SEGMENTS).values()) == {1}


def test_where_shards_stand_in_the_manifest(store: Store) -> None:
    """Over all segments, in the order asked for; unknown paths nowhere."""
    refs = store.snapshot().segments
    paths = read_segments(store.storage, refs, ["path"])["path"].to_pylist()
    wanted = [paths[7], "data/none.arrow", paths[0], paths[11]]
    assert shard_places(store.storage, refs, wanted).tolist() == [7, -1, 0, 11]
    assert shard_places(store.storage, refs, []).tolist() == []


def test_a_version_without_samples_is_refused(tmp_path: Path) -> None:
    """There is no shard to tell the columns."""
    store = build_store(tmp_path / "store", [0, 0])
    with pytest.raises(StoreError, match="snapshot 1 has no samples"):
        opened(store, tmp_path / "cache")


def test_new_samples_are_shown_by_groups_of_old_ones_too(tmp_path: Path) -> None:
    """A group that has values of some old samples adds none of them to what is new."""
    store = Store.of(str(tmp_path / "store"))
    add_assets(store, dict.fromkeys("abcdefgh", "1"))
    before = store.snapshot()
    add_assets(store, {"i": "2", "j": "2"})
    keys = [key for key in "abcdefghij" if key not in "cej"]
    rows = pa.table({"asset_key": keys, "score": [float(i) for i in range(len(keys))]})
    add_group(store, "marks", from_table(rows))
    wanted = Wanted(None, ("sample_id", "score"), before)
    made = open_snapshot(store, store.snapshot(), wanted, ShardCache(tmp_path / "cache"))
    assert made.plan.rows == 1
    chunk = made.shards.gather(*made.plan.locate(np.array([0])), share=1)
    assert chunk.columns["sample_id"].to_pylist() == ["i#0"]
    assert chunk.columns["score"].to_pylist() == [6.0]


@pytest.fixture
def keyed(tmp_path: Path) -> Store:
    """Assets of two views, some of them in two versions of which one is hidden."""
    store = Store.of(str(tmp_path / "keyed"))
    add_assets(store, dict.fromkeys("abcdefgh", "1"), views=2)
    add_assets(store, {"b": "2", "k": "2"}, views=2)
    takedown(store, keys=["c#1"], by="sample_id")
    return store


@pytest.mark.parametrize(
    ("keys", "by", "wanted"),
    [
        (["b"], "asset_key", ["b#0", "b#1"]),
        (["k", "a", "none"], "asset_key", ["a#0", "a#1", "k#0", "k#1"]),
        (["c"], "asset_key", ["c#0"]),
        (["c#1"], "sample_id", []),
        (["h#1", "a#0", "z#0"], "sample_id", ["a#0", "h#1"]),
        ([], "sample_id", []),
    ],
)
def test_rows_of_keys(keyed: Store, tmp_path: Path, keys: list[str], by: Any, wanted: Any) -> None:
    """Sorted, each once, of what is shown alone; found without opening other shards."""
    made = opened(keyed, tmp_path / "cache")
    rows = rows_of_keys(keyed, made, keys, by)
    assert sorted(set(rows.tolist())) == rows.tolist()
    assert len(rows) == len(wanted)
    if wanted:
        chunk = made.shards.gather(*made.plan.locate(rows), share=len(rows))
        assert chunk.columns["sample_id"].to_pylist() == wanted


def test_shards_without_room_for_a_key_are_not_read(keyed: Store, tmp_path: Path) -> None:
    """Four assets are a shard; a filter by keys reads the shards that may have them."""
    there, storage = remote(keyed)
    made = opened(there, tmp_path / "cache", where="asset_key in ('a', 'b') and sample_id != 'a#1'")
    found = made.shards.gather(*made.plan.locate(np.arange(made.plan.rows)), share=9)
    assert found.columns["sample_id"].to_pylist() == ["a#0", "b#0", "b#1"]
    segments = keyed.segments(keyed.snapshot())
    may = [low <= "b" for low in segments["min_key"].to_pylist()]
    paths = segments["path"].to_pylist()
    unread = {path for path, there in zip(paths, may, strict=True) if path and not there}
    assert unread
    # The first shard's footer tells the layout of all.
    assert not (unread - {paths[0]}) & set(storage.files(DATA))


KEYS = st.text("abc_%", max_size=3)
SIGNS = ["=", "!=", "<", "<=", ">", ">="]
TERMS = st.one_of(
    st.builds(lambda s, k: f"asset_key {s} '{k}'", st.sampled_from(SIGNS), KEYS),
    st.builds(lambda ks: f"asset_key in ({', '.join(map(repr, ks))})", st.lists(KEYS, min_size=1)),
    st.builds(lambda k: f"asset_key like '{k}'", KEYS),
    st.sampled_from(["width > 3", "asset_key is null", "true", "false"]),
)
FILTERS = st.recursive(
    TERMS,
    lambda inner: st.one_of(
        inner.map(lambda one: f"not ({one})"),
        st.builds(lambda a, w, b: f"({a}) {w} ({b})", inner, st.sampled_from(["and", "or"]), inner),
    ),
    max_leaves=4,
)


@given(FILTERS, st.lists(st.lists(KEYS, min_size=1), min_size=1, max_size=5), st.integers(1, 64))
@settings(max_examples=150, deadline=None)
def test_no_shard_is_left_out_that_has_a_match(
    text: str, shards: list[list[str]], few: int
) -> None:
    """Whatever the filter says and the keys are, bounds unknown or known."""
    where = parse(text)
    bounds = [(min(keys), max(keys)) for keys in shards]
    lows, highs = (pa.array(part, pa.string()) for part in zip(*bounds, strict=True))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tokenmill.feed.rows.pruning.FEW_VALUES", few)
        may = may_match(where, lows, highs)
    for possible, keys in zip(may.tolist(), shards, strict=True):
        rows = pa.table({"asset_key": keys, "width": pa.array([4] * len(keys), pa.int32())})
        assert possible or not any(where.mask(rows).to_pylist())
    unknown = pa.array([""], pa.string())
    assert may_match(where, unknown, unknown).tolist() == [True]


def test_likes_and_ranges_leave_shards_out() -> None:
    """Beginnings, lists and orders of keys: what a listing in order makes of them."""
    lows = pa.array(["art/0", "cars/0", "dogs/0"], pa.string())
    highs = pa.array(["art/9", "cats/9", "dogs/9"], pa.string())

    def found(text: str) -> list[bool]:
        return [bool(may) for may in may_match(parse(text), lows, highs)]

    assert found("asset_key like 'cats/%'") == [False, True, False]
    assert found("asset_key like '%cats/%'") == [True, True, True]
    assert found("asset_key >= 'd' or asset_key = 'art/5'") == [True, False, True]
    assert found("asset_key in ('cat', 'dog') and width > 3") == [False, True, False]
    assert found("asset_key < 'cars/1'") == [True, True, False]


@pytest.mark.s3
def test_a_filter_on_an_object_store(s3_root: str, tmp_path: Path) -> None:
    """Columns by range reads, in threads; and the facts of shards as they are asked for."""
    store = build_store(tmp_path / "store", SAMPLES)
    takedown(store, keys=["a4"])
    there = open_storage(s3_root)
    for base, _, names in os.walk(store.uri):
        for name in names:
            path = Path(base, name).relative_to(store.uri)
            if not path.parts[0].startswith("."):
                there.create(str(path), Path(base, name).read_bytes())
    where = "sample_id like '%1' or asset_key like '%4'"
    feed = Feed(s3_root, batch_size=1, where=where, cache=ShardCache(tmp_path / "cache"))
    seen = [str(batch["sample_id"][0]) for batch in islice(feed, feed.rows)]
    wanted = [
        name
        for batch in store.at().scan(["sample_id", "asset_key"])
        for name in batch.filter(parse(where).mask(batch))["sample_id"].to_pylist()
    ]
    assert len(wanted) > 3
    assert sorted(seen) == sorted(wanted)
