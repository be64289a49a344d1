"""Rows copied from maps, ids unpacked on the way, and the order that saved states rest on."""

import hashlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenmill.feed import Feed
from tokenmill.feed.sequence import permutation
from tokenmill.feed.sequence.order import Order, Shuffle
from tokenmill.feed.shards import gather, mapped
from tokenmill.feed.shards.gather import AddressSpan
from tokenmill.testing.feed import build_store
from tokenmill_schemas.arrow import Packing, ShardLayout
from tokenmill_schemas.tokens import Axis, Stream, TokenSpec

#: No deadline per example: the machine may be busy.
LAWS = settings(max_examples=60, deadline=None)


@LAWS
@given(st.lists(st.binary(min_size=1, max_size=700), min_size=1, max_size=4), st.data())
def test_any_bytes_of_any_buffer_are_copied(parts: list[bytes], data: st.DataObject) -> None:
    """Items lie at any byte of any buffer, in any order, more than once, fetched before or not."""
    width = data.draw(st.integers(1, max(map(len, parts))))
    buffers = [pa.py_buffer(part) for part in parts]
    span = AddressSpan(buffers)
    fits = [i for i, part in enumerate(parts) if len(part) >= width]
    chosen = data.draw(st.lists(st.sampled_from(fits), max_size=20))
    starts = [data.draw(st.integers(0, len(parts[i]) - width)) for i in chosen]
    pairs = list(zip(chosen, starts, strict=True))
    places = np.array([buffers[i].address - span.low + at for i, at in pairs], np.int64)
    assert [item.tobytes() for item in span.copy(places, width)] == [
        parts[i][at : at + width] for i, at in pairs
    ]


@pytest.mark.parametrize("packing", ["raw", "bits"])
@pytest.mark.parametrize("limit", [1, 40, 10**6])
def test_batches_unpacked_in_parts_are_what_was_stored(
    tmp_path: Path, packing: Packing, limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However few values are unpacked at once, and whatever threads read them."""
    monkeypatch.setattr(mapped, "UNPACKED_VALUES", limit)
    monkeypatch.setattr(gather, "FETCHED", limit)
    spec = TokenSpec((Stream("image", "index", (Axis("h", 3), Axis("w", 5)), (5000,)),))
    stored = [
        build_store(tmp_path / kind, [70, 30, 44], layout=ShardLayout(spec, kind))
        for kind in ("raw", packing)
    ]
    plain = Feed(stored[0], batch_size=16, epochs=2, shuffle="none", drop_last=False)
    for threads in (0, 2):
        other = Feed(
            stored[1],
            batch_size=16,
            epochs=2,
            shuffle="none",
            drop_last=False,
            columns=("asset_key",),
            threads=threads,
        )
        for mine, want in zip(other, plain, strict=True):
            assert mine["image"].dtype == np.uint16  # type: ignore[union-attr]
            assert np.array_equal(mine["image"], want["image"])
            assert [key[1:] for key in mine["asset_key"]] == [key[1:] for key in want["sample_id"]]
        plain.seek(0)


@pytest.mark.parametrize(
    ("shuffle", "digest"),
    [("block", "471cadfe10a3c8f951e53697d8b1e07a"), ("full", "04f64700725e03ff347b250dc5a5fb00")],
)
def test_orders_never_change(shuffle: Shuffle, digest: str) -> None:
    """Saved states name positions: another library must show the same rows there."""
    found = hashlib.sha256()
    for rows in (1, 257, 131_073, 10**6 + 77, 2**40 + 1):
        positions = np.arange(min(rows, 20_000)) if rows < 2**40 else np.arange(500) * (rows // 500)
        found.update(Order(rows, 5, shuffle).at(3, positions).astype("<i8").tobytes())
    assert found.hexdigest()[:32] == digest


@LAWS
@given(
    st.integers(1, 5000),
    st.integers(1, 40),
    st.integers(1, 6),
    st.lists(st.integers(0, 10**6), max_size=60),
)
def test_any_positions_of_any_windows_in_one_call(
    rows: int, block_rows: int, window_blocks: int, wanted: list[int]
) -> None:
    """Positions of many windows, in no order and twice, are those asked for one at a time."""
    order = Order(rows, 1, "block", block_rows, window_blocks)
    positions = np.array([p % rows for p in wanted], np.int64)
    together = order.at(2, positions)
    alone = [order.at(2, positions[i : i + 1]).tolist() for i in range(len(positions))]
    assert together.tolist() == [row for rows in alone for row in rows]
    assert np.array_equal(order.positions_of(2, together), positions)


@LAWS
@given(st.integers(1, 3000), st.integers(1, 50))
def test_pieces_of_a_permutation_change_nothing(n: int, piece: int) -> None:
    """How many values are enciphered at once is no part of the order."""
    whole = permutation.permute(np.arange(n), n, 7)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(permutation, "PIECE", piece)
        assert np.array_equal(permutation.permute(np.arange(n), n, 7), whole)
        assert np.array_equal(permutation.unpermute(whole, n, 7), np.arange(n))
