"""What a feed will cost, held to what it then costs."""

import json
from dataclasses import replace
from math import comb
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenmill.feed import Feed, Follow, Mixture, Packing, Part, ShardCache
from tokenmill.feed.costs import files, memory, mixing
from tokenmill.feed.costs.fetching import Cut
from tokenmill.feed.costs.mixing import expected
from tokenmill.feed.costs.parts import open_costs
from tokenmill.feed.estimate import estimate
from tokenmill.feed.sequence.packing import PackedLane
from tokenmill.feed.shards.pieces import read_index
from tokenmill.feed.values import values_of
from tokenmill.store import Store
from tokenmill.store.groups import add_group, from_table
from tokenmill.testing.feed import build_store
from tokenmill_infra.storage.direct import DirectRanges
from tokenmill_schemas.arrow import ShardLayout
from tokenmill_schemas.errors import JobError
from tokenmill_schemas.job import ShardsConfig
from tokenmill_schemas.tokens import Axis, Stream, TokenSpec

IMAGE = Stream("image", "index", (Axis("n", 16),), (1000,))
TEXT = Stream("text", "index", (Axis("n"),), (1000,))
LAYOUT = ShardLayout(TokenSpec((IMAGE, TEXT)), extras=(pa.field("label", pa.int32()),))
SHARDS = [300, 500, 200]
#: Ten classes, one after the other.
LABELS = {"label": [row // 100 for row in range(sum(SHARDS))]}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A thousand samples of ten classes, sorted by them."""
    folder = tmp_path_factory.mktemp("estimate") / "store"
    return build_store(folder, SHARDS, layout=LAYOUT, values=LABELS)


def test_an_epoch_is_counted_as_it_is_read(store: Store) -> None:
    """Steps, samples, positions, and the bytes of what lies on the disk."""
    feed = Feed(store, batch_size=64, epochs=1, world_size=2, rank=1)
    found = estimate(feed)
    whole = list(Feed(store, batch_size=64, epochs=1))
    assert (found.epoch_steps, found.epoch_samples) == (len(whole), 64 * len(whole))
    assert (found.samples, found.left_out, found.repeated) == (1000, 1000 - 64 * 15, 0)
    assert found.tokens["image"] == sum(np.size(batch["image"]) for batch in whole)
    read = sum(len(text) for batch in whole for text in batch["text"])
    assert found.exact
    assert found.tokens["text"] == pytest.approx(read, rel=0.02)
    data = list(Path(store.uri, "data").rglob("*.arrow"))
    assert found.stored_bytes == sum(file.stat().st_size for file in data)
    assert found.state_bytes == len(json.dumps(feed.state_dict()))
    assert feed.step == 0


def test_bytes_are_those_of_what_is_chosen(store: Store) -> None:
    """Ids of two bytes each, and the text of the column; a rank reads its part of a step."""
    found = estimate(Feed(store, batch_size=10, world_size=2, streams=["image"]))
    names = pa.array([f"s{i}" for i in range(300)])  # of the shard that is looked at
    row = 32 + names.nbytes / 300
    assert found.read_bytes == pytest.approx(1000 * row, rel=0.02)
    assert found.step_read_bytes == pytest.approx(5 * row, rel=0.02)
    assert found.batch_bytes == 5 * 32
    assert list(found.tokens) == ["image"]


def test_packed_bits_take_as_many_bits(tmp_path: Path) -> None:
    """Sixteen ids below 1,000 are 20 bytes on the disk and 32 in a batch."""
    layout = replace(LAYOUT, packing="bits")
    store = build_store(tmp_path / "store", [500], layout=layout)
    found = estimate(Feed(store, batch_size=10, streams=["image"], columns=["label"]))
    assert found.read_bytes == 500 * (20 + 4)
    assert found.batch_bytes == 10 * 32
    text = estimate(Feed(store, batch_size=10, streams=["text"], columns=[]))
    column = pa.ipc.open_file(next(Path(store.uri, "data").rglob("*.arrow"))).read_all()
    stored = sum(column.column(name).nbytes for name in ("text", "text.shape"))
    assert text.read_bytes == pytest.approx(stored, rel=0.1)


def test_columns_of_groups_are_files_of_their_own(tmp_path: Path) -> None:
    """Alone they cost their own files, with the rest both; of shards without one nothing."""
    store = build_store(tmp_path / "store", [60, 40])
    scores = pa.table({"asset_key": [f"a{i}" for i in range(60)], "score": [0.5] * 60})
    add_group(store, "scores", from_table(scores))
    sizes = [f.stat().st_size for f in Path(store.uri).rglob("*.arrow") if "data" not in f.parts]
    alone = estimate(Feed(store, batch_size=10, streams=[], columns=["score"]))
    assert (alone.samples, alone.stored_bytes) == (60, sum(sizes))
    assert alone.read_bytes == 60 * 8
    both = estimate(Feed(store, batch_size=10, columns=["score"]))
    own = estimate(Feed(store, batch_size=10, columns=[]))
    assert alone.stored_bytes < both.stored_bytes < own.stored_bytes + alone.stored_bytes
    assert both.read_bytes == 60 * (32 + 8)


def test_what_is_repeated_is_said(store: Store) -> None:
    """Without drop_last the last batch has samples of the epoch's beginning."""
    found = estimate(Feed(store, batch_size=64, drop_last=False))
    assert (found.epoch_steps, found.left_out, found.repeated) == (16, 0, 24)


def test_padding_is_what_the_windows_then_have(store: Store) -> None:
    """Exactly, and so are the ids in them, special ones too."""
    packing = Packing("text", 32, eos=999)
    feed = Feed(store, batch_size=4, epochs=1, drop_last=False, packing=packing)
    found = estimate(feed)
    (costs,) = open_costs(feed)
    assert isinstance(costs.lane, PackedLane)
    windows = costs.lane.plan.windows
    segments = np.concatenate([batch["segment_ids"] for batch in feed])[:windows]
    assert found.padding_share == pytest.approx(np.mean(segments == 0), abs=1e-3)
    assert found.step_samples == pytest.approx(1000 / windows * 4, rel=0.05)
    ids = np.count_nonzero(segments)
    assert found.tokens["text"] == pytest.approx(ids * found.epoch_steps * 4 / windows, rel=1e-3)


def test_rare_shapes_are_left_out_of_buckets(store: Store) -> None:
    """As many as the lane's whole batches do not have."""
    feed = Feed(store, batch_size=50, buckets="text", epochs=1)
    found = estimate(feed)
    shown = {name for batch in feed for name in batch["sample_id"]}
    assert found.left_out == 1000 - len(shown)
    assert found.padding_share == 0


def test_parts_of_a_mixture_have_their_shares(store: Store, tmp_path: Path) -> None:
    """By weight, as the steps of an epoch have them."""
    other = build_store(tmp_path / "other", [400], layout=LAYOUT)
    feed = Feed(Mixture((Part(store, 3.0), Part(other, 1.0, name="small"))), batch_size=8)
    found = estimate(feed, classes="label")
    counts = np.zeros(2, np.int64)
    for step in range(len(feed)):
        counts += np.bincount(feed.samples_of(step).parts, minlength=2)
    assert [part.epoch_samples for part in found.parts] == counts.tolist()
    assert [part.share for part in found.parts] == pytest.approx([0.75, 0.25], abs=0.01)
    assert found.parts[1].name == "small"
    assert found.mixing.shards.kinds == 4
    # Each store knows its own labels; one that both have is one class.
    assert found.mixing.classes is not None
    assert found.mixing.classes.kinds > 10


def test_distinct_kinds_are_those_of_the_steps(store: Store) -> None:
    """Counted by hand on every step of an epoch, which 'none' keeps in few shards."""
    for shuffle in ("none", "block", "full"):
        feed = Feed(store, batch_size=20, shuffle=shuffle, columns=["label"], epochs=1)
        found = estimate(feed, classes="label", steps=1000).mixing
        assert found.steps == len(feed) == 50
        plan = feed.parts[0].opened.plan
        shards = [len(set(plan.locate(feed.samples_of(i).rows)[0].tolist())) for i in range(50)]
        blocks = [len(set((feed.samples_of(i).rows // 256).tolist())) for i in range(50)]
        classes = [len(np.unique(np.asarray(batch["label"]))) for batch in feed]
        assert found.classes is not None
        for one, each in zip(
            (found.shards, found.blocks, found.classes), (shards, blocks, classes), strict=True
        ):
            assert one.mean == pytest.approx(np.mean(each))
        assert (found.shards.kinds, found.blocks.kinds, found.classes.kinds) == (3, 4, 10)
        if shuffle == "none":
            assert found.classes.mean == 1
            assert found.classes.full > 8
        else:
            assert found.classes.mean == pytest.approx(found.classes.full, rel=0.05)


@given(st.lists(st.integers(0, 6), min_size=1, max_size=6).filter(any), st.data())
def test_a_full_shuffle_expects_what_counting_says(counts: list[int], data: st.DataObject) -> None:
    """Of all ways to draw a batch, the share that misses a kind."""
    total = sum(counts)
    draws = data.draw(st.integers(0, total))
    ways = comb(total, draws)
    exact = sum(1 - comb(total - count, draws) / ways for count in counts if count)
    assert expected([np.array(counts)], [draws]) == pytest.approx(exact, abs=1e-9)


def test_many_kinds_are_expected_as_independent_draws_would_give_them() -> None:
    """The limit for large stores; parts add up, and more draws than samples find everything."""
    counts = np.full(1000, 10**6)
    want = 1000 * (1 - (1 - 1 / 1000) ** 256)
    assert expected([counts], [256]) == pytest.approx(want, rel=1e-4)
    assert expected([counts, counts], [256, 256]) == pytest.approx(2 * want, rel=1e-4)
    assert expected([np.array([1, 2, 0])], [50.5]) == 2


def test_classes_of_a_column_group_leave_out_what_it_does_not_know(tmp_path: Path) -> None:
    """The feed need not read the group, and so shows samples without a class."""
    store = build_store(tmp_path / "store", [60, 40])
    keys = [f"a{i}" for i in range(0, 60, 2)]
    given_ = pa.table({"asset_key": keys, "kind": [key[-1] for key in keys]})
    add_group(store, "kinds", from_table(given_))
    feed = Feed(store, batch_size=10)
    found = estimate(feed, classes="kind", steps=100).mixing.classes
    assert found is not None
    assert found.kinds == 5
    assert 1 < found.mean <= 5
    table = values_of(feed.parts[0], np.array([0, 1, 99]), ["kind", "asset_key"])
    assert table.to_pylist() == [
        {"kind": "0", "asset_key": "a0"},
        {"kind": None, "asset_key": None},
        {"kind": None, "asset_key": None},
    ]


def test_values_are_those_of_the_rows_that_a_filter_shows(store: Store) -> None:
    """Logical rows are of the feed's plan, not of the store's."""
    feed = Feed(store, batch_size=5, where="label >= 7")
    table = values_of(feed.parts[0], np.array([99, 0, 299]), ["label", "sample_id"])
    assert table.column("sample_id").to_pylist() == ["s799", "s700", "s999"]
    assert table.column("label").to_pylist() == [7, 7, 9]
    assert estimate(feed).mixing.shards.kinds == 2


def test_lengths_of_large_stores_are_those_of_some_shards(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beyond a limit only some are looked at, and the estimate says so."""
    exact = estimate(Feed(store, batch_size=10)).tokens["text"]
    monkeypatch.setattr(files, "EXACT_SHARDS", 2)
    monkeypatch.setattr(files, "SAMPLED_SHARDS", 2)
    found = estimate(Feed(store, batch_size=10))
    assert not found.exact
    assert found.tokens["text"] == pytest.approx(exact, rel=0.1)
    assert found.tokens["image"] == 16_000


def test_memory_is_that_of_the_arrays(store: Store) -> None:
    """Each once, however often it is found; what is mapped is the kernel's."""
    array, table = np.zeros(1000, np.int64), pa.table({"a": np.zeros(10)})
    assert memory.held_bytes([array, {"again": array}, table, "text", None], set()) == 8080
    feed = Feed(store, batch_size=10, threads=3)
    plain, packed = estimate(feed), estimate(Feed(store, batch_size=10, packing=_pack()))
    assert plain.memory.ahead == 4 * 2 * 2**20
    assert plain.memory.total == plain.memory.index + plain.memory.ahead
    assert packed.memory.index > plain.memory.index
    assert plain.memory.pieces == 0


class Counted:
    """Range requests that were made, instead of those on a network."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, store: Store) -> None:
        self.sizes: list[int] = []
        read = DirectRanges.read

        def counted(ranges: DirectRanges, path: str, start: int, stop: int) -> Any:
            data = read(ranges, path, start, stop)
            self.sizes.append(len(data))
            return data

        monkeypatch.setattr(DirectRanges, "read", counted)
        monkeypatch.setattr(type(store.storage), "local", lambda *_: None)


@pytest.mark.parametrize("shuffle", ["block", "full", "none"])
def test_requests_are_those_that_are_made(
    shuffle: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of large shards and small ones, with a cache that holds them, before the first batch too."""
    layout = ShardLayout(TokenSpec((replace(IMAGE, axes=(Axis("n", 256),)),)))
    shards = ShardsConfig(batch_rows=256)
    store = build_store(tmp_path / "store", [6000, 4000, 300], layout=layout, shards=shards)
    counted = Counted(monkeypatch, store)
    cache = ShardCache(tmp_path / "cache")
    feed = Feed(store, batch_size=20, shuffle=shuffle, epochs=1, threads=0, cache=cache)
    found = estimate(feed).remote
    assert found is not None
    counted.sizes.clear()
    batches = iter(feed)
    next(batches)
    assert len(counted.sizes) == found.first_requests
    assert sum(counted.sizes) == pytest.approx(found.first_bytes, rel=0.2)
    assert all(batches)
    assert len(counted.sizes) == found.requests
    assert sum(counted.sizes) == pytest.approx(found.fetched_bytes, rel=0.01)
    one = found.cache_bytes < found.fetched_bytes / 4
    assert one == (shuffle == "none")


@pytest.mark.parametrize("batch_rows", [64, 250, 256, 700])
def test_shards_are_cut_as_their_footers_cut_them(batch_rows: int, tmp_path: Path) -> None:
    """Told from the manifest alone: how many pieces, and where every row is."""
    layout = ShardLayout(TokenSpec((replace(IMAGE, axes=(Axis("n", 256),)),)))
    shards = ShardsConfig(batch_rows=batch_rows)
    store = build_store(tmp_path / "store", [2600, 3130, 4096], layout=layout, shards=shards)
    feed = Feed(store, batch_size=20)
    (costs,) = open_costs(feed)
    cut, manifest = Cut.of(costs.files[0]), feed.parts[0].opened.manifest
    for shard, rows in enumerate([2600, 3130, 4096]):
        data = pa.py_buffer(Path(store.uri, manifest.path(shard)).read_bytes())
        index = read_index(data, data.size, rows, batch_rows)
        assert cut.pieces[shard] == len(index.firsts) - 1
        every = np.arange(rows)
        pieces = [index.piece_of(batch) for batch in (every // batch_rows).tolist()]
        for row in (0, rows // 3, rows // 2, rows - 1):
            same = every[: row + 1][np.array(pieces[: row + 1]) <= pieces[row]]
            found = cut.of_rows(np.full(len(same), shard), same).requests - 1
            assert found == (pieces[row] + 1) * cut.piece_requests[shard]


def test_windows_that_share_pieces_need_all_of_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of short rows a piece has blocks of many windows, and each window would fetch it again."""
    store = build_store(tmp_path / "store", [70_000] * 4)
    Counted(monkeypatch, store)
    found = estimate(Feed(store, batch_size=500)).remote
    assert found is not None
    # Two windows, each of which has blocks of every piece.
    assert found.window_bytes == pytest.approx(found.fetched_bytes, rel=0.01)
    assert found.again_bytes == pytest.approx(2 * found.fetched_bytes, rel=0.02)
    assert found.cache_bytes == found.fetched_bytes


def test_classes_of_remote_stores_are_read_for_few_steps(
    store: Store, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Each needs some pieces; what was looked at is said."""
    Counted(monkeypatch, store)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    found = estimate(Feed(store, batch_size=20), classes="label").mixing
    assert (found.steps, found.class_steps) == (32, 4)
    assert found.classes is not None
    assert found.classes.kinds == 10


def test_what_has_no_epoch_has_no_estimate(store: Store) -> None:
    """A followed store; and a column must be there, and have one value a sample."""
    with pytest.raises(JobError, match="still written"):
        estimate(Feed(store, batch_size=4, follow=Follow("done")))
    feed = Feed(store, batch_size=4)
    with pytest.raises(JobError, match="there is no 'lable'; did you mean 'label'"):
        estimate(feed, classes="lable")
    with pytest.raises(JobError, match="at least one"):
        estimate(feed, steps=0)


def test_samples_are_few_where_batches_are_large(store: Store) -> None:
    """The time of an estimate does not grow with the batch."""
    steps = mixing.sample_steps(Feed(store, batch_size=10), 32)
    assert len(steps) == 32
    assert all(len(step.rows) == 10 for step in steps)
    assert len({step.rows.tobytes() for step in steps}) == 32


def _pack() -> Packing:
    return Packing("text", 32)
