"""How a stored shard is cut into pieces, and what is checked of them; the pool that fetches."""

import random
import threading
import time
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenmill.feed.shards.fetching import FetchPool
from tokenmill.feed.shards.pieces import (
    PIECE_BYTES,
    ShardIndex,
    _cut,
    footer_bytes,
    read_index,
    tail_bytes,
)
from tokenmill.shards.arrow import ArrowShardWriter
from tokenmill.shards.columns import make_batch
from tokenmill.testing.feed import SMALL_LAYOUT
from tokenmill_schemas.errors import CorruptShardError

ROWS, BATCH_ROWS = 1000, 16


@pytest.fixture(scope="module")
def shard(tmp_path_factory: pytest.TempPathFactory) -> pa.Buffer:
    """The bytes of a shard of 63 record batches."""
    path = tmp_path_factory.mktemp("shard") / "shard.arrow"
    writer = ArrowShardWriter(path, SMALL_LAYOUT, batch_rows=BATCH_ROWS)
    tokens = np.random.default_rng(0).integers(0, 1000, (ROWS, 16)).astype(np.uint16)
    names = {"sample_id": [f"s{i}" for i in range(ROWS)], "asset_key": ["a"] * ROWS}
    writer.write(make_batch(SMALL_LAYOUT, {"image": tokens}, names))
    writer.close()
    return pa.py_buffer(path.read_bytes())


def index_of(shard: pa.Buffer) -> ShardIndex:
    """Return the index, read from the shard's end as over a network."""
    tail = shard.slice(shard.size - tail_bytes(shard.size, ROWS, BATCH_ROWS))
    return read_index(tail, shard.size, ROWS, BATCH_ROWS)


@given(st.lists(st.integers(1, 3 * PIECE_BYTES), min_size=1, max_size=60))
def test_pieces_cover_all_batches_and_are_no_smaller_than_they_must(sizes: list[int]) -> None:
    """None is below the bound unless all of the shard is, nor above it by two batches' worth."""
    ends = np.cumsum(sizes).tolist()
    starts = [end - size for end, size in zip(ends, sizes, strict=True)]
    firsts = _cut(tuple(starts), tuple(ends))
    assert firsts[0] == 0
    assert firsts[-1] == len(sizes)
    assert list(firsts) == sorted(set(firsts))
    pieces = [sum(sizes[a:b]) for a, b in pairwise(firsts)]
    assert min(pieces) >= min(PIECE_BYTES, sum(sizes))
    assert max(pieces) < 2 * PIECE_BYTES + max(sizes)


def test_all_rows_are_in_the_pieces(shard: pa.Buffer) -> None:
    """In order, once, whatever a piece holds."""
    index = index_of(shard)
    assert [index.piece_of(b) for b in range(63)] == [0] * 63
    start, stop = index.span(0)
    data = shard.slice(start, stop - start)
    index.check(0, data)
    names = [name for batch in index.read(0, data) for name in batch["sample_id"].to_pylist()]
    assert names == [f"s{i}" for i in range(ROWS)]


def test_every_flipped_byte_of_the_buffers_is_found(shard: pa.Buffer) -> None:
    """Or else changes nothing that is read: padding, and what nobody looks at."""
    index = index_of(shard)
    start, stop = index.span(0)
    right = pa.Table.from_batches(index.read(0, shard.slice(start, stop - start)))
    rng, found = random.Random(0), 0
    for place in rng.sample(range(stop - start), 600):
        data = bytearray(shard.slice(start, stop - start))
        data[place] ^= 1 << rng.randrange(8)
        buffer = pa.py_buffer(bytes(data))
        try:
            index.check(0, buffer)
        except CorruptShardError:
            found += 1
        else:
            assert pa.Table.from_batches(index.read(0, buffer)).equals(right)
    assert found > 300


def test_a_message_without_a_sum_is_read(tmp_path: Path) -> None:
    """Other writers may leave it out; what is malformed is found nevertheless."""
    schema = SMALL_LAYOUT.schema
    tokens = np.zeros((BATCH_ROWS, 16), np.uint16)
    names = {"sample_id": ["s"] * BATCH_ROWS, "asset_key": ["a"] * BATCH_ROWS}
    batch = make_batch(SMALL_LAYOUT, {"image": tokens}, names)
    with pa.ipc.new_file(tmp_path / "plain.arrow", schema) as writer:
        writer.write_batch(batch)
    data = pa.py_buffer((tmp_path / "plain.arrow").read_bytes())
    index = read_index(data, data.size, BATCH_ROWS, BATCH_ROWS)
    start, stop = index.span(0)
    index.check(0, data.slice(start, stop - start))
    with pytest.raises(CorruptShardError, match="expected 15 rows, found 16"):
        read_index(data, data.size, 15, BATCH_ROWS).check(0, data.slice(start, stop - start))


@pytest.mark.parametrize("cut", [1, 5, 10, 40, 700])
def test_no_footer(shard: pa.Buffer, cut: int) -> None:
    """An end that is cut off, or of another file, is no index."""
    short = shard.slice(0, shard.size - cut)
    with pytest.raises(CorruptShardError):
        read_index(short, short.size, ROWS, BATCH_ROWS)
    with pytest.raises(CorruptShardError, match="63 record batches for 1001"):
        read_index(shard, shard.size, 1001, 1)
    with pytest.raises(CorruptShardError, match="longer"):
        read_index(shard.slice(shard.size - 100), shard.size, ROWS, BATCH_ROWS)
    assert footer_bytes(shard) < tail_bytes(10**9, ROWS, BATCH_ROWS)


def test_the_urgent_come_first_and_what_is_hurried_is_done_once() -> None:
    """One thread, held up while others queue."""
    pool, order, held = FetchPool(threads=1), list[str](), threading.Event()
    pool.submit(held.wait, urgent=True)
    ahead = [pool.submit(lambda n=name: order.append(n), urgent=False) for name in "abc"]  # type: ignore[misc]
    urgent = pool.submit(lambda: order.append("d"), urgent=True)
    pool.hurry(ahead[2])
    held.set()
    for fetch in (*ahead, urgent):
        fetch.result.result(5)
    pool.hurry(ahead[0])
    assert pool.submit(lambda: 7, urgent=True).result.result(5) == 7
    assert order == ["d", "c", "a", "b"]
    pool.close()


def test_a_pool_ends_without_what_it_has_not_begun() -> None:
    """A process that is done does not wait for what was asked for ahead; errors reach who asks."""
    pool, held = FetchPool(threads=1), threading.Event()
    failed = pool.submit(lambda: 1 // 0, urgent=True)
    with pytest.raises(ZeroDivisionError):
        failed.result.result(5)
    pool.submit(held.wait, urgent=True)
    rest = [pool.submit(lambda: time.sleep(60), urgent=False) for _ in range(10)]
    begin = time.monotonic()
    pool.close()
    assert time.monotonic() - begin < 5
    assert all(fetch.result.cancelled() for fetch in rest)
    assert pool.submit(lambda: 7, urgent=True).result.result(0) == 7
    held.set()
