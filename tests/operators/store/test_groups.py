"""Column groups: joined as a plain dict would, extended, replaced, raced, verified."""

from __future__ import annotations

import gzip
import json
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.operators.store.scenes import Between, files, sound

from tokenmill.store import Store
from tokenmill.store.compact import compact
from tokenmill.store.groups import (
    absent_rows,
    add_group,
    drop_group,
    from_files,
    from_store,
    from_table,
    group_table,
    rewrite_group_file,
)
from tokenmill.store.groups.files import absent_bits
from tokenmill.store.verify import verify_store
from tokenmill.testing.feed import build_store
from tokenmill.testing.storage import FaultPlan, FaultyStorage, Rule
from tokenmill.testing.stores import add_assets
from tokenmill_schemas.errors import FingerprintError, JobError, TransientError
from tokenmill_schemas.job import ShardsConfig


def keys(start: int, stop: int, version: str = "1") -> dict[str, str]:
    """Assets to list: key to version."""
    return {f"k{i:03d}": version for i in range(start, stop)}


def scores(values: Mapping[str, float | None]) -> pa.Table:
    """Scores of samples by id."""
    ids, numbers = list(values), list(values.values())
    return pa.table({"sample_id": ids, "score": pa.array(numbers, pa.float64())})


def read(store: Store, column: str, group: str, ref: int | None = None) -> dict[str, Any]:
    """A group's values by sample id, of the samples that have any."""
    batches = store.at(ref).scan(["sample_id", column], [group])
    return {row["sample_id"]: row[column] for batch in batches for row in batch.to_pylist()}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Three shards, two samples an asset."""
    made = Store.of(str(tmp_path / "store"))
    add_assets(made, keys(0, 10), views=2)
    return made


@settings(max_examples=20, deadline=None)
@given(
    st.dictionaries(st.integers(0, 14), st.none() | st.floats(allow_nan=False), min_size=1),
    st.permutations(range(15)),
    st.integers(1, 6),
)
def test_a_join_is_that_of_a_dict(
    values: dict[int, float | None], order: list[int], batch: int
) -> None:
    """Whatever the order and the batches of the input, and whatever it lacks or has too much."""
    wanted = {f"k{i:03d}#0": values[i] for i in order if i in values}
    table = scores(wanted)
    with tempfile.TemporaryDirectory() as folder:
        store = Store.of(str(Path(folder, "store")))
        add_assets(store, keys(0, 10))
        held = {key: value for key, value in wanted.items() if key < "k010"}
        if not held:
            with pytest.raises(JobError, match="has the sample_id of a sample in the store"):
                add_group(store, "s", from_table(table.to_batches(batch)))
            return
        added = add_group(store, "s", from_table(table.to_batches(batch)))
        assert read(store, "score", "s") == held
        assert (added.samples, added.unmatched) == (len(held), len(wanted) - len(held))
        assert sound(store)


def test_rows_by_asset_go_to_all_of_its_samples(store: Store) -> None:
    """A caption of a picture is one of each of its views."""
    table = pa.table({"asset_key": ["k003", "k009", "k777"], "text": ["three", "nine", "none"]})
    added = add_group(store, "captions", from_table(table))
    wanted = {f"k00{n}#{v}": t for n, t in ((3, "three"), (9, "nine")) for v in (0, 1)}
    assert read(store, "text", "captions") == wanted
    assert (added.shards, added.samples, added.unmatched) == (2, 4, 1)
    assert added.snapshot.operation == "add-columns"


@pytest.mark.parametrize("kind", ["parquet", "jsonl", "jsonl.gz", "arrow"])
def test_files_of_all_kinds(store: Store, tmp_path: Path, kind: str) -> None:
    """Two of each, by a wildcard, with lists and nulls and a column that is not taken."""
    for part in range(2):
        rows = [
            {"sample_id": f"k00{i}#0", "rank": i, "parts": [i / 2, 1.5], "other": None}
            for i in range(part * 3, part * 3 + 3)
        ]
        write(tmp_path / f"part-{part}.{kind}", rows)
    source = from_files(str(tmp_path / f"part-*.{kind}"), columns={"parts": "parts", "rank": "n"})
    add_group(store, "facts", source)
    assert read(store, "n", "facts") == {f"k00{i}#0": i for i in range(6)}
    assert read(store, "parts", "facts")["k005#0"] == [2.5, 1.5]
    assert store.snapshot().groups[0].columns == ("parts", "n")


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write rows as a file of the kind that its name says."""
    table = pa.Table.from_pylist(rows)
    text = "".join(json.dumps(row) + "\n" for row in rows).encode()
    if path.suffix == ".parquet":
        pq.write_table(table, path)
    elif path.suffix == ".arrow":
        with pa.ipc.new_file(path, table.schema) as file:
            file.write_table(table)
    else:
        path.write_bytes(gzip.compress(text) if path.suffix == ".gz" else text)


def test_tokens_of_another_store_keep_what_made_them(tmp_path: Path) -> None:
    """The fingerprint and its parts; other tokens are refused under the same name."""
    store, other = (build_store(tmp_path / name, [30, 20]) for name in ("a", "b"))
    group = add_group(store, "second", from_store(other.at(), {"image": "sem"})).group
    assert group.fingerprint == other.snapshot().fingerprint
    assert group.fingerprint_parts == other.snapshot().fingerprint_parts
    assert [stream.name for stream in group.spec.streams] == ["sem"]
    mine, theirs = (
        {r["sample_id"]: r[n] for b in batches for r in b.to_pylist()}
        for n, batches in (
            ("sem", store.at().scan(["sample_id", "sem"], ["second"])),
            ("image", other.at().scan(["sample_id", "image"])),
        )
    )
    assert mine == theirs
    third = Store.of(str(tmp_path / "third"))
    add_assets(third, keys(0, 3))
    with pytest.raises(FingerprintError, match=r"made_by is 'tokenmill\.testing' there"):
        add_group(store, "second", from_store(third.at(), {"image": "sem"}), covered="keep")


def test_a_group_is_extended_to_newer_shards(store: Store) -> None:
    """Old files stay; integers join a column of floats; covered shards are not read over."""
    add_group(store, "s", from_table(scores({"k001#0": 1.0, "k009#1": 9.0})))
    add_assets(store, keys(20, 25), views=2)
    table = pa.table({"sample_id": ["k020#0", "k024#1"], "score": [20, 24]})
    added = add_group(store, "s", from_table(table))
    assert added.shards == 2
    wanted = {"k001#0": 1.0, "k009#1": 9.0, "k020#0": 20.0, "k024#1": 24.0}
    assert read(store, "score", "s") == wanted
    assert read(store, "score", "s", 2) == {"k001#0": 1.0, "k009#1": 9.0}
    assert sound(store)


def test_covered_shards_are_refused_kept_or_replaced(store: Store) -> None:
    """As one says; by default an input with other values for them is not taken in silence."""
    add_group(store, "s", from_table(scores({"k001#0": 1.0, "k009#1": 9.0})))
    add_assets(store, keys(20, 22))
    again = from_table(scores({"k002#0": 2.0, "k020#0": 20.0}))
    with pytest.raises(JobError, match=r"covers data/.* already"):
        add_group(store, "s", again)
    assert store.log.numbers() == [1, 2, 3]
    kept = add_group(store, "s", again, covered="keep")
    assert (kept.samples, kept.unmatched) == (1, 1)
    assert read(store, "score", "s") == {"k001#0": 1.0, "k009#1": 9.0, "k020#0": 20.0}
    assert add_group(store, "s", again, covered="keep").snapshot.number == 4
    replaced = add_group(store, "s", again, covered="replace")
    assert replaced.shards == 2
    assert read(store, "score", "s") == {"k002#0": 2.0, "k009#1": 9.0, "k020#0": 20.0}
    with pytest.raises(JobError, match="of other types"):
        add_group(store, "s", from_table(scores({"k1": 1.0}), columns={"score": "mark"}))
    assert sound(store)


@pytest.mark.parametrize(
    ("name", "columns", "words"),
    [
        ("s", {"score": "image"}, "the store has a 'image' already"),
        ("s", {"score": "asset.version"}, "the store has a 'asset.version' already"),
        ("s", {"score": "taken"}, "the column group 'first' has a 'taken' already"),
        ("s", {"score": "s.present"}, "may end in '.present'"),
        ("../s", {"score": "x"}, "must start with a letter"),
        ("s", {"sore": "x"}, "no 'sore'; did you mean 'score'"),
    ],
)
def test_names_are_one_columns_in_all_of_a_store(
    store: Store, name: str, columns: dict[str, str], words: str
) -> None:
    """Not two columns of a name, wherever they lie, and no name that leaves the folder."""
    table = scores({"k001#0": 1.0})
    add_group(store, "first", from_table(table, columns={"score": "taken"}))
    with pytest.raises(JobError, match=words):
        add_group(store, name, from_table(table, columns=columns))
    assert store.log.numbers() == [1, 2]


def test_inputs_that_say_nothing_clear_are_refused(store: Store) -> None:
    """Two rows of one key, rows without one, and tables without a key."""
    twice = pa.table({"sample_id": ["k001#0", "x", "k001#0"], "score": [1.0, 2.0, 3.0]})
    with pytest.raises(JobError, match="1 rows have the sample_id of another one: rows 0 and 2"):
        add_group(store, "s", from_table(twice))
    null = pa.table({"sample_id": pa.array(["k001#0", None]), "score": [1.0, 2.0]})
    with pytest.raises(JobError, match="1 rows have no 'sample_id'"):
        add_group(store, "s", from_table(null))
    with pytest.raises(JobError, match="no column 'sample_id' to join by"):
        from_table(pa.table({"score": [1.0]}))


def test_equal_inputs_make_equal_bytes(tmp_path: Path) -> None:
    """Whatever order and batches they came in; equal versions have equal content."""
    found = []
    for name in ("a", "b"):
        store = Store.of(str(tmp_path / name))
        add_assets(store, keys(0, 9))
        values = {f"k{i:03d}#0": i / 8 for i in range(9)}
        items = sorted(values.items(), reverse=name == "b")
        batches = scores(dict(items)).to_batches(2 if name == "b" else 100)
        add_group(store, "s", from_table(batches))
        found.append((store.snapshot().content_id, files(Path(store.uri, "columns"))))
    assert found[0] == found[1]


def test_shards_that_come_meanwhile_are_joined_too(store: Store) -> None:
    """A compaction and an append that come first: the group goes with what is there then."""

    def meanwhile() -> None:
        add_assets(store, keys(30, 32), views=2)
        compact(store)

    between = Between(store.storage, f"{2:020d}.json", meanwhile)
    added = add_group(Store(between), "s", from_table(scores({"k001#0": 1.0, "k031#1": 3.0})))
    assert (added.snapshot.number, added.shards) == (4, 1)
    assert read(store, "score", "s") == {"k001#0": 1.0, "k031#1": 3.0}
    assert sound(store)


def test_interrupted_anywhere_a_repeat_gives_the_same_version(store: Store, tmp_path: Path) -> None:
    """An error at the n-th write, for every n; then the same content as without any."""
    source = from_table(scores({f"k{i:03d}#0": float(i) for i in range(10)}))
    clean = Store.of(str(shutil.copytree(store.uri, tmp_path / "clean")))
    counting = FaultyStorage(clean.storage)
    add_group(Store(counting), "s", source)
    assert len(counting.writes) >= 5
    for n in range(1, len(counting.writes) + 1):
        broken = Store.of(str(shutil.copytree(store.uri, tmp_path / f"broken-{n}")))
        faulty = FaultyStorage(broken.storage, FaultPlan((Rule("busy", first=n),)))
        try:
            add_group(Store(faulty), "s", source)
        except TransientError:
            assert broken.log.numbers() == [1]
        else:
            assert counting.writes[n - 1][0] == "delete", "of the intent, when all was done"
        add_group(broken, "s", source, covered="replace")
        assert broken.snapshot().content_id == clean.snapshot().content_id


def test_verify_finds_what_is_wrong_with_a_group(store: Store) -> None:
    """A file that is gone, or changed, or of other rows; a shard that is not the version's."""
    group = add_group(store, "s", from_table(scores({"k001#0": 1.0, "k009#1": 9.0}))).group
    root, snapshot = Path(store.uri), store.snapshot()
    first, last = group_table(store.storage, group).column("path").to_pylist()
    (root / first).rename(root / "kept")
    assert problems(store) == [f"{first} is missing"]
    assert verify_store(store, snapshot, deep=False).problems == (f"{first} is missing",)
    (root / first).write_bytes((root / last).read_bytes())
    assert problems(store) == [f"{first}: its bytes are not those that were committed"]
    (root / first).unlink()
    (root / "kept").rename(root / first)
    assert problems(store) == []
    (root / group.segments[0].path).unlink()
    (found,) = problems(store)
    assert found == f"group s: {group.segments[0].path} is missing"


def problems(store: Store) -> list[str]:
    """What `verify` says of the newest version."""
    return list(verify_store(store, store.snapshot()).problems)


def test_a_file_is_rewritten_without_some_rows(store: Store) -> None:
    """Its rows stay beside those of the shard; without values left there is no file."""
    group = add_group(store, "s", from_table(scores({"k000#1": 1.0, "k002#0": 2.0}))).group
    (row,) = group_table(store.storage, group).to_pylist()
    assert (row["samples"], row["present"]) == (8, 2)
    assert absent_rows(row["absent"], 8).tolist() == [0, 2, 3, 5, 6, 7]
    keep = np.array([0, 1, 5, 6])
    made = rewrite_group_file(store.storage, group, row, keep, shard="data/new.arrow")
    assert made is not None
    assert (made["shard"], made["samples"], made["present"]) == ("data/new.arrow", 4, 1)
    assert absent_rows(made["absent"], 4).tolist() == [0, 2, 3]
    assert rewrite_group_file(store.storage, group, row, np.array([0, 7]), shard="x") is None


@given(st.lists(st.booleans(), max_size=40))
def test_absent_bits_are_read_back(flags: list[bool]) -> None:
    """For any rows; none at all are no bytes."""
    absent = np.flatnonzero(np.array(flags, bool))
    bits = absent_bits(absent, len(flags))
    assert absent_rows(bits, len(flags)).tolist() == absent.tolist()
    assert bool(bits) == bool(len(absent))


def test_a_dropped_group_is_gone_and_older_versions_keep_it(store: Store) -> None:
    """Dropping is a version; what is not there cannot be dropped."""
    number = add_group(store, "s", from_table(scores({"k001#0": 1.0}))).snapshot.number
    assert drop_group(store, "s").groups == ()
    assert store.snapshot().operation == "drop-columns"
    assert read(store, "score", "s", number) == {"k001#0": 1.0}
    with pytest.raises(JobError, match="no column group 's'; it has none"):
        drop_group(store, "s")
    assert sound(store)


@pytest.mark.s3
def test_on_an_object_store(s3_root: str, tmp_path: Path) -> None:
    """A store there, files here and there, and another store's tokens."""
    store, other = Store.of(s3_root), Store.of(str(tmp_path / "other"))
    tar = ShardsConfig(format="webdataset", unit_assets=5)
    add_assets(store, keys(0, 10), shards=tar)
    add_assets(other, keys(3, 12))
    add_group(store, "second", from_store(other.at(), {"image": "sem"}))
    store.storage.create("captions.jsonl", b'{"sample_id": "k004#0", "text": "four"}\n')
    add_group(store, "text", from_files(f"{s3_root}/captions.jsonl"))
    (row,) = [
        row
        for batch in store.at().scan(["sample_id", "image", "sem", "text"], ["second", "text"])
        for row in batch.to_pylist()
    ]
    assert (row["sample_id"], row["text"]) == ("k004#0", "four")
    assert row["image"] == row["sem"]
    assert sound(store)
