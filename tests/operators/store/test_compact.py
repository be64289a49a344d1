"""Compaction: fewer shards, and nothing that a reader sees is another."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.operators.store.scenes import Between, files, sound

from tokenmill.feed import Feed
from tokenmill.shards.select import read_columns
from tokenmill.store import Store, Version, paths
from tokenmill.store.compact import Target, compact
from tokenmill.store.compact.grouping import Units, blocks, merges
from tokenmill.store.diff import diff
from tokenmill.store.groups import add_group, from_table
from tokenmill.store.plans import listed
from tokenmill.store.takedown import takedown
from tokenmill.testing.storage import FaultPlan, FaultyStorage, Rule
from tokenmill.testing.stores import add_assets, encode_assets, shown
from tokenmill_schemas.errors import JobError, TransientError
from tokenmill_schemas.job import ShardsConfig

Format = Literal["arrow", "webdataset"]
FORMATS: tuple[Format, ...] = ("arrow", "webdataset")


def keys(start: int, stop: int, version: str = "1") -> dict[str, str]:
    """Assets to list: key to version."""
    return {f"k{i:03d}": version for i in range(start, stop)}


def rows(version: Version, groups: tuple[str, ...] = ()) -> list[dict[str, Any]]:
    """All that a version shows, in order."""
    return [row for batch in version.scan(groups=groups) for row in batch.to_pylist()]


def reasons(store: Store) -> set[str]:
    """Why the newest version hides samples."""
    return set(store.at().tombstones().column("reason").to_pylist())


def planned(store: Store) -> list[str]:
    """The keys that the newest version lists, in order."""
    batches = (b for part in store.snapshot().plans for b in listed(store.storage, part, ["key"]))
    return [key for batch in batches for key in batch.column("key").to_pylist()]


def change(store: Store, assets: dict[str, str], **how: Any) -> None:
    """Commit assets as a run does: those that are known are replaced, those missed are back."""
    missing = store.at().missing().column("asset_key").to_pylist()
    known, back = frozenset(planned(store)), frozenset(missing)
    commit = encode_assets(store, assets, **how)
    replaced, returned = known.intersection(assets), back.intersection(assets)
    store.commit(replace(commit, drop_missing=True, replaced=replaced, returned=returned))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Three increments: eleven shards, quarantine, replaced and vanished assets."""
    made = Store.of(str(tmp_path / "store"))
    add_assets(made, keys(0, 18), rejected=["k004", "k005", "k006", "k007"])
    add_assets(made, keys(16, 21, "2") | keys(2, 3, "2"), views=2)
    add_assets(made, keys(30, 42), vanished=frozenset(["k010", "k011"]), drop_missing=True)
    return made


def test_samples_and_their_order_stay_and_shards_get_few(store: Store) -> None:
    """One shard of all; what was replaced is gone for good, what vanished stays hidden."""
    before, wanted = store.at(), rows(store.at())
    done = compact(store)
    after = store.at()
    assert rows(after) == wanted
    assert (done.number, done.made, done.into) == (4, True, 1)
    assert (done.shards_before, done.shards_after, done.dropped) == (9, 1, 3)
    assert after.snapshot.totals["shards"] == after.segments().num_rows == 1
    assert reasons(store) == {"vanished"}
    assert after.snapshot.operation == "compact"
    assert len(after.snapshot.plans) == 1
    assert diff(before, after).table.num_rows == 0
    assert sound(store)
    assert rows(store.at(3)) == wanted
    assert before.snapshot.totals["samples"] == after.snapshot.totals["samples"] == len(wanted)
    assert before.snapshot.totals["assets"] == after.snapshot.totals["assets"]


def test_again_there_is_nothing_to_do(store: Store) -> None:
    """No version is made, and the newest one is told."""
    compact(store, target_rows=12)
    before = files(Path(store.uri))
    done = compact(store, target_rows=12)
    assert (done.number, done.made, done.units) == (4, False, 0)
    assert files(Path(store.uri)) == before


def test_what_vanished_may_return_and_what_returned_is_shown(store: Store) -> None:
    """The samples of an asset that was away are in the new shard, at their old place."""
    compact(store)
    add_assets(store, {}, returned=frozenset(["k011"]))
    ids = [row["sample_id"] for row in rows(store.at())]
    assert "k011#0" in ids
    assert "k010#0" not in ids
    assert ids.index("k011#0") < ids.index("k012#0")
    assert sound(store)


def test_an_asset_that_changed_while_it_was_away_returns_once(store: Store) -> None:
    """Its old samples are replaced and no longer vanished: they never come back beside the new."""
    change(store, {"k010": "9"})
    add_assets(store, {}, vanished=frozenset(["k010"]), drop_missing=True)
    add_assets(store, {}, returned=frozenset(["k010"]))
    assert shown(store.at())["k010"] == "9"
    compact(store)
    assert shown(store.at())["k010"] == "9"
    assert sound(store)


@pytest.mark.parametrize("form", FORMATS)
def test_the_bytes_are_those_of_a_shard_that_was_large_from_the_start(
    tmp_path: Path, form: Format
) -> None:
    """Merged batches begin anew at every batch's size, whatever sizes they came in."""
    small = ShardsConfig(format=form, unit_assets=3, batch_rows=4)
    store, other = (Store.of(str(tmp_path / name)) for name in ("small", "large"))
    add_assets(store, keys(0, 23), shards=small, views=2)
    add_assets(other, keys(0, 23), shards=replace(small, unit_assets=100), views=2)
    compact(store)
    one, large = (each.at().segments().to_pylist()[0] for each in (store, other))
    assert (one["sha256"], one["bytes"]) == (large["sha256"], large["bytes"])
    for name in ("samples", "tokens", "assets", "rejected", "batch_rows", "min_key", "max_key"):
        assert one[name] == large[name]
    assert planned(store) == planned(other)


@pytest.mark.parametrize("form", FORMATS)
def test_a_feed_in_manifest_order_shows_the_same(tmp_path: Path, form: Format) -> None:
    """Batch for batch, with the columns of a group; the shuffled order is another's."""
    store = Store.of(str(tmp_path / "store"))
    shards = ShardsConfig(format=form, unit_assets=5, batch_rows=4)
    add_assets(store, keys(0, 20), shards=shards)
    ids = [row["sample_id"] for row in rows(store.at())]
    table = pa.table({"sample_id": ids[:18:2], "score": [float(i) for i in range(9)]})
    add_group(store, "scores", from_table(table))
    add_assets(store, keys(7, 9, "2") | keys(40, 45), shards=shards)
    number = store.snapshot().number
    wanted = rows(store.at(), ("scores",))
    compact(store)
    assert rows(store.at(), ("scores",)) == wanted
    assert store.at().segments().num_rows == 2, "one that the group covers, one that it does not"
    options: dict[str, Any] = {"batch_size": 3, "shuffle": "none", "epochs": 1, "threads": 0}
    for columns in (("sample_id",), ("sample_id", "score")):
        old, new = (Feed(store, ref=r, columns=columns, **options) for r in (number, None))
        assert old.rows == new.rows
        for one, other in zip(old, new, strict=True):
            assert all(np.array_equal(one[name], other[name]) for name in one)
    assert sound(store)


def test_taken_down_samples_are_left_out_and_the_ledger_holds(store: Store) -> None:
    """An asset without samples is filtered, until a purge removes its name; no diff tells of it."""
    takedown(store, keys=["k001", "k017"])
    takedown(store, keys=["k003#0", "k018#0"], by="sample_id")
    wanted, before = rows(store.at()), store.at()
    compact(store)
    assert rows(store.at()) == wanted
    path = store.at().segments().column("path")[0].as_py()
    names = read_columns(store.storage, path, ["sample_id"]).column(0).to_pylist()
    assert not {"k001#0", "k017#0", "k017#1", "k003#0", "k018#0"}.intersection(names)
    assert "k018#1" in names
    rejects = {row["asset_key"]: row for row in store.at().rejects().to_pylist()}
    assert (rejects["k003"]["disposition"], rejects["k003"]["uri"]) == ("filtered", "memory://k003")
    taken = {key for key, row in rejects.items() if row["reason"] == "taken_down"}
    assert taken == {"k001", "k003", "k017"}
    assert not diff(before, store.at()).table.num_rows
    totals = [version.snapshot.totals["assets"] for version in (before, store.at())]
    assert totals[0] == totals[1]
    assert sound(store)


def test_jobs_keep_listings_of_their_own(store: Store) -> None:
    """Units of two jobs are not merged, nor are their plan parts; each job's own are."""
    commit = encode_assets(store, keys(60, 69))
    store.commit(replace(commit, scope="another"))
    add_assets(store, keys(70, 79))
    wanted = rows(store.at())
    compact(store)
    assert rows(store.at()) == wanted
    assert [part.scope for part in store.snapshot().plans] == ["testing", "another", "testing"]
    assert store.at().segments().num_rows == 3
    assert sound(store)


def test_units_without_samples_become_one_and_keep_their_reasons(tmp_path: Path) -> None:
    """All rejected: no shard before and none after, and a retry finds every asset."""
    store = Store.of(str(tmp_path / "store"))
    add_assets(store, keys(0, 12), rejected=list(keys(0, 12)))
    compact(store)
    table = store.at().segments().to_pylist()
    assert [(row["path"], row["assets"], row["rejected"]) for row in table] == [("", 12, 12)]
    assert store.at().rejects().column("unit_id").to_pylist() == [table[0]["unit_id"]] * 12
    assert planned(store) == list(keys(0, 12))
    assert sound(store)


def test_a_dry_run_says_what_a_run_then_does(store: Store) -> None:
    """It writes nothing; counts are those of the run but for what was made."""
    before = files(Path(store.uri))
    would = compact(store, dry_run=True)
    assert files(Path(store.uri)) == before
    did = compact(store)
    assert (would.made, would.number) == (False, 3)
    assert replace(would, made=True, number=4) == did
    with pytest.raises(JobError, match="must be positive"):
        compact(store, target_bytes=0)


def test_an_append_that_comes_first_stays(store: Store) -> None:
    """The compaction follows it, and writes anew only what the append has hidden rows of."""
    between = Between(store.storage, f"{4:020d}.json", lambda: add_assets(store, keys(0, 1, "3")))
    done = compact(Store(between))
    assert (done.number, between.done) == (5, [paths.log_file(4)])
    found = shown(store.at())
    assert found["k000"] == "3"
    assert found == shown(store.at(4))
    assert rows(store.at()) == rows(store.at(4))
    assert sound(store)


def test_two_compactions_at_once_make_the_same_files(store: Store) -> None:
    """The second to commit finds nothing left to do."""
    between = Between(store.storage, f"{4:020d}.json", lambda: compact(store))
    done = compact(Store(between))
    assert (done.number, done.made) == (4, False)
    assert store.log.numbers() == [1, 2, 3, 4]
    data = [name for name in files(Path(store.uri)) if name.startswith("data/")]
    live = store.at().segments().column("path").to_pylist()
    olds = {p for n in (1, 2, 3) for p in store.at(n).segments().column("path").to_pylist() if p}
    assert set(data) == olds.union(live)


def test_a_takedown_that_comes_between_holds_in_the_new_shard(store: Store) -> None:
    """Whoever looks last hides it; no version shows it."""
    act = Between(store.storage, f"{4:020d}.json", lambda: takedown(store, keys=["k012"]))
    compact(Store(act))
    for version in store.snapshots():
        assert "k012" not in shown(Version(store, version))
    assert sound(store)


def test_interrupted_anywhere_a_repeat_gives_the_same_version(tmp_path: Path) -> None:
    """An error at the n-th write, for every n; then the same content as without any."""

    def built(name: str) -> Store:
        made = Store.of(str(tmp_path / name))
        add_assets(made, keys(0, 10))
        add_assets(made, keys(3, 5, "2"))
        table = pa.table({"asset_key": ["k000", "k004"], "score": [1.0, 2.0]})
        add_group(made, "scores", from_table(table))
        return made

    def writes(target: Store) -> Iterator[int]:
        storage = FaultyStorage(target.storage)
        compact(Store(storage))
        yield from range(1, len(storage.writes) + 1)

    clean = built("clean")
    counts = list(writes(clean))
    assert len(counts) == 8
    for n in counts:
        broken = built(f"broken-{n}")
        storage = FaultyStorage(broken.storage, FaultPlan((Rule("busy", first=n),)))
        try:
            compact(Store(storage))
        except TransientError:
            assert broken.snapshot().number in (3, 4)
        compact(broken)
        assert broken.snapshot().content_id == clean.snapshot().content_id
        assert rows(broken.at(), ("scores",)) == rows(clean.at(), ("scores",))


@pytest.mark.s3
def test_on_an_object_store(s3_root: str) -> None:
    """The same, fetched and put in whole objects."""
    store = Store.of(s3_root)
    add_assets(store, keys(0, 12))
    add_assets(store, keys(2, 4, "2"))
    ids = [row["sample_id"] for row in rows(store.at())]
    add_group(store, "n", from_table(pa.table({"sample_id": ids, "n": list(range(12))})))
    wanted = rows(store.at(), ("n",))
    done = compact(store)
    assert (done.shards_before, done.shards_after) == (4, 1)
    assert rows(store.at(), ("n",)) == wanted
    assert sound(store)


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.integers(0, 12), st.integers(1, 9)),
        st.tuples(st.just("vanish"), st.integers(0, 20), st.just(0)),
        st.tuples(st.just("return"), st.integers(0, 20), st.just(0)),
        st.tuples(st.just("takedown"), st.integers(0, 20), st.integers(0, 1)),
        st.tuples(st.just("compact"), st.integers(1, 9), st.just(0)),
    ),
    min_size=2,
    max_size=7,
)


@settings(max_examples=10, deadline=None)
@given(STEPS, st.integers(1, 12))
def test_whatever_happened_before_the_samples_shown_are_the_same(
    steps: list[tuple[str, int, int]], target_rows: int
) -> None:
    """Versions, rejects, what vanished, returned or was taken down, and earlier compactions."""
    with tempfile.TemporaryDirectory() as folder:
        store = Store.of(str(Path(folder, "store")))
        add_assets(store, keys(0, 9), rejected=["k001"])
        for n, (what, a, b) in enumerate(steps):
            _happens(store, what, f"k{a:03d}", (n, a, b))
        before, wanted = store.at(), rows(store.at())
        compact(store, target_rows=target_rows)
        assert rows(store.at()) == wanted
        assert "replaced" not in reasons(store)
        assert before.snapshot.totals["samples"] == store.snapshot().totals["samples"]
        failed = {k for v in store.snapshots() for k in store.rejects(v)["asset_key"].to_pylist()}
        assert set(diff(before, store.at()).table["asset_key"].to_pylist()) <= failed
        assert sound(store)
        assert not compact(store, target_rows=target_rows).made


def _happens(store: Store, what: str, key: str, numbers: tuple[int, int, int]) -> None:
    n, a, b = numbers
    known = {*planned(store)}
    if what == "add":
        taken = store.denied()
        assets = {k: v for k, v in keys(a, a + b, f"v{n}").items() if not taken}
        if assets:
            failed = store.at().rejects().column("asset_key").to_pylist()
            rejected = [key] if b > 4 and key not in failed else []
            change(store, assets, rejected=rejected, views=1 + b % 2)
    elif what in ("vanish", "return") and key in known:
        name = "vanished" if what == "vanish" else "returned"
        changes: dict[str, Any] = {name: frozenset([key]), "drop_missing": True}
        add_assets(store, {}, **changes)
    elif what == "takedown" and key in known:
        takedown(store, keys=[key if b else f"{key}#0"], by="asset_key" if b else "sample_id")
    elif what == "compact":
        compact(store, target_rows=a)


UNITS = st.lists(
    st.tuples(st.integers(0, 20), st.integers(0, 3), st.integers(0, 2), st.integers(0, 1)),
    max_size=30,
)


@given(UNITS, st.integers(5, 40))
def test_merges_are_neighbours_that_fit(
    found: list[tuple[int, int, int, int]], target: int
) -> None:
    """Stretches in order, of one run and one cover, within the target, and never to no purpose."""
    size, dropped, run, cover = np.array(found, np.int64).reshape(-1, 4).T
    run = np.sort(run)
    units = Units(size * 10, size, np.where(size, dropped, 0), size + 1, run, run, cover)
    made = merges(units, Target(bytes=10 * target))
    flat = [i for places in made for i in places]
    assert flat == sorted(set(flat))
    for places in made:
        assert places == tuple(range(places[0], places[-1] + 1))
        some = list(places)
        assert len({int(run[i]) for i in some}) == 1
        assert len({int(cover[i]) for i in some if size[i]}) <= 1
        assert len(some) > 1 or units.dropped[some[0]]
        assert len(some) == 1 or size[some].sum() <= target
    assert all(i in flat for i in np.flatnonzero(units.dropped))
    for one, other in pairwise(made):
        if one[-1] + 1 == other[0] and run[one[-1]] == run[other[0]]:
            alone = [size[i] >= 0.75 * target for i in (one[-1], other[0])]
            fits = size[list(one)].sum() + size[other[0]] <= target
            covers = {int(cover[i]) for i in [*one, other[0]] if size[i]}
            assert any(alone) or not fits or len(covers) > 1


def test_blocks_hold_their_spans_whole() -> None:
    """Overlapping spans are one block; touching ones are two."""
    assert blocks([(4, 6), (0, 1), (1, 2), (7, 7), (5, 5)]) == [(0, 2), (4, 6), (7, 7)]
    assert blocks([]) == []


def test_an_asset_that_was_mended_and_then_taken_down_stays_accounted_for(tmp_path: Path) -> None:
    """Its first listing lies in a unit that is left as it is, with neither samples nor a reason."""
    store = Store.of(str(tmp_path / "store"))
    big = ShardsConfig(unit_assets=8)
    add_assets(store, dict.fromkeys("abcdefgh", "1"), rejected="b", shards=big)
    add_assets(store, {"b": "2", "x": "2"})
    add_assets(store, {"y": "3"})
    takedown(store, keys=["b"])
    assert compact(store, target_rows=8).made
    assert sound(store)
