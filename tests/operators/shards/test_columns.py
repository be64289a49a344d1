from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenmill.shards.columns import (
    decode_stream,
    encode_streams,
    make_batch,
    to_bfloat16,
    widen_bfloat16,
)
from tokenmill_schemas.arrow import ShardLayout
from tokenmill_schemas.tokens import Axis, Stream, TokenSpec

GRID = Stream("image", "index", (Axis("h", 2), Axis("w", 3)), vocab_sizes=(100,))
SET = Stream("mesh", "index", (Axis("n"), Axis("coord", 3)), vocab_sizes=(128,))
NAMES = {"sample_id": ["a#0", "b#0"], "asset_key": ["a", "b"]}


def _layout(*streams: Stream) -> ShardLayout:
    return ShardLayout(TokenSpec(streams))


def test_a_batch_of_fixed_shape_is_wrapped_and_read_without_a_copy() -> None:
    """Tokens of the storage type go into a batch, and come out of it, in the same memory."""
    tokens = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    batch = make_batch(_layout(GRID), {"image": tokens}, NAMES)
    back = decode_stream(batch, GRID, "raw")
    assert isinstance(back, np.ndarray)
    assert np.array_equal(back, tokens)
    assert np.shares_memory(back, tokens)
    assert not back.flags.writeable


def test_a_list_and_an_array_give_equal_columns() -> None:
    """The worker may hand over samples one by one or stacked."""
    tokens = np.arange(12).reshape(2, 2, 3)
    layout = _layout(GRID)
    assert encode_streams(layout, {"image": tokens}) == encode_streams(
        layout, {"image": list(tokens)}
    )


def test_slices_of_a_batch_decode_to_their_own_rows() -> None:
    """Offsets of a sliced batch are honoured, fixed, variable, raw and packed."""
    for packing in ("raw", "bits"):
        layout = ShardLayout(TokenSpec((GRID, SET)), packing)
        grid = np.arange(24).reshape(4, 2, 3)
        sets = [np.full((n, 3), n) for n in (2, 0, 3, 1)]
        names = {k: list("abcd") for k in ("sample_id", "asset_key")}
        batch = make_batch(layout, {"image": grid, "mesh": sets}, names).slice(1, 2)
        assert np.array_equal(np.asarray(decode_stream(batch, GRID, packing)), grid[1:3])
        for got, want in zip(decode_stream(batch, SET, packing), sets[1:3], strict=True):
            assert np.array_equal(got, want)


@pytest.mark.parametrize(
    ("stream", "tokens", "message"),
    [
        (GRID, np.full((1, 2, 3), 100), r"\[0, 100\), got 100 to 100"),
        (GRID, np.full((1, 2, 3), -1), r"\[0, 100\), got -1"),
        (GRID, np.zeros((1, 3, 2), int), r"shape is \(2, 3\), got \(3, 2\)"),
        (GRID, [np.zeros((2, 3), int), np.zeros(6, int)], r"shape is \(2, 3\), got \(6,\)"),
        (GRID, np.zeros((1, 2, 3)), "holds integers, got dtype float64"),
        (SET, [np.zeros((4, 2), int)], r"shape is \('any', 3\), got \(4, 2\)"),
        (SET, [np.full((4, 3), 128)], r"\[0, 128\)"),
        (
            Stream("depth", "index", (Axis("n", 2), Axis("depth", 2)), vocab_sizes=(4, 900)),
            np.array([[[3, 899], [4, 0]]]),
            r"\[0, 4\), got 0 to 4",
        ),
        (Stream("code", "bits", (Axis("n", 1),), width_bits=3), np.full((1, 1, 3), 2), r"\[0, 2\)"),
        (
            Stream("z", "float", (Axis("n", 1),), channels=1, dtype="float16"),
            np.full((1, 1, 1), 1e6, np.float32),
            "beyond float16",
        ),
        (
            Stream("z", "float", (Axis("n", 1),), channels=1, dtype="float16"),
            np.zeros((1, 1, 1), np.int32),
            "holds float16, got dtype int32",
        ),
    ],
)
def test_tokens_that_do_not_fit_the_spec_are_refused(
    stream: Stream, tokens: Any, message: str
) -> None:
    """The error names the stream, what was asked and what was got."""
    with pytest.raises(ValueError, match=message) as caught:
        encode_streams(_layout(stream), {stream.name: tokens})
    assert repr(stream.name) in str(caught.value)


def test_missing_and_unknown_names_are_refused() -> None:
    """Neither a stream nor a column is ever filled in or dropped silently."""
    tokens = {"image": np.zeros((2, 2, 3), int)}
    with pytest.raises(ValueError, match=r"missing \['image'\], unknown \['imgae'\]"):
        encode_streams(_layout(GRID), {"imgae": tokens["image"]})
    with pytest.raises(ValueError, match=r"missing \['asset_key'\], unknown \[\]"):
        make_batch(_layout(GRID), tokens, {"sample_id": ["a", "b"]})
    with pytest.raises(ValueError, match="'sample_id' has 3 rows, the first one 2"):
        make_batch(_layout(GRID), tokens, {**NAMES, "sample_id": ["a", "b", "c"]})
    with pytest.raises(ValueError, match="'asset_key' has 1 nulls"):
        make_batch(_layout(GRID), tokens, {**NAMES, "asset_key": ["a", None]})


def test_companion_columns_may_come_as_a_record_batch() -> None:
    """A listing's own columns are taken over, cast to the layout's types."""
    layout = ShardLayout(TokenSpec((GRID,)), "raw", pa.schema([pa.field("label", pa.int64())]))
    extras = pa.record_batch({**NAMES, "label": pa.array([1, None], pa.int8())})
    batch = make_batch(layout, {"image": np.zeros((2, 2, 3), int)}, extras)
    assert batch.schema == layout.schema
    assert batch.column("label").to_pylist() == [1, None]


@given(st.floats(width=32))
def test_bfloat16_is_the_nearest_one(value: float) -> None:
    """No neighbouring bfloat16 is nearer; NaN and infinities stay what they are."""
    bits = to_bfloat16(np.array([value], np.float32))
    back = float(widen_bfloat16(bits)[0])
    if np.isnan(value) or np.isinf(back) or np.isinf(value):
        assert np.isnan(back) if np.isnan(value) else abs(value) >= 3.3895313892515355e38
        return
    around = np.array([bits[0] - 1 if bits[0] & 0x7FFF else bits[0], bits[0] + 1], np.uint16)
    others = widen_bfloat16(around).astype(np.float64)
    others = others[np.isfinite(others)]
    assert np.all(abs(back - value) <= np.abs(others - value))
    assert widen_bfloat16(to_bfloat16(np.array([back]))).tolist() == [back]


def test_bfloat16_bits_are_taken_as_they_are() -> None:
    """An encoder that has bfloat16 hands over its bits as uint16."""
    stream = Stream("z", "float", (Axis("n", 1),), channels=2, dtype="bfloat16")
    bits = np.array([[[0x3F80, 0x7FC1]]], np.uint16)
    batch = make_batch(_layout(stream), {"z": bits}, {k: ["a"] for k in ("sample_id", "asset_key")})
    assert np.array_equal(np.asarray(decode_stream(batch, stream, "raw")), bits)
    assert widen_bfloat16(bits)[0, 0, 0] == 1.0
