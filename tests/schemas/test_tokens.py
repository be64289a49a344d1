import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenmill_schemas.canonical import canonical_json
from tokenmill_schemas.tokens import (
    AXES,
    FLOAT_BITS,
    Axis,
    Kind,
    Latent,
    Stream,
    TokenSpec,
    spec_from_json,
)

SIZES = st.none() | st.integers(1, 64)
AXIS = st.builds(Axis, st.sampled_from(AXES), SIZES)
FLOATS = st.floats(allow_nan=False, allow_infinity=False, width=32)
LATENT = st.builds(
    Latent,
    st.sampled_from(["sample", "mean", "mean_logvar"]),
    st.lists(FLOATS, min_size=1, max_size=3).map(tuple),
    st.lists(FLOATS, min_size=1, max_size=3).map(tuple),
)


@st.composite
def streams(draw: st.DrawFn, name: str) -> Stream:
    """A stream of any kind."""
    axes = tuple(draw(st.lists(AXIS, min_size=1, max_size=3)))
    kind: Kind = draw(st.sampled_from(["index", "bits", "float"]))
    own: dict[str, Any] = {}
    if kind == "index":
        last = axes[-1].size
        count = draw(st.sampled_from([1, last or 1]))
        sizes = st.lists(st.integers(1, 2**40), min_size=count, max_size=count)
        own["vocab_sizes"] = tuple(draw(sizes))
        own["special_ids"] = tuple(
            draw(st.lists(st.tuples(st.text(), st.integers(0, 9)), max_size=2))
        )
    elif kind == "bits":
        own["width_bits"] = draw(st.integers(1, 256))
    else:
        own |= {"channels": draw(st.integers(1, 64)), "dtype": draw(st.sampled_from([*FLOAT_BITS]))}
        own["latent"] = draw(st.none() | LATENT)
    pyramid = st.lists(st.lists(st.integers(1, 16), min_size=1, max_size=2).map(tuple), max_size=3)
    own["levels"] = tuple(draw(pyramid))
    own["min_prefix"] = draw(st.integers(0, 5))
    return Stream(name, kind, axes, **own)


SPECS = st.lists(st.sampled_from("abcd"), min_size=1, unique=True).flatmap(
    lambda names: st.tuples(*(streams(name) for name in names)).map(TokenSpec)
)


@given(SPECS)
def test_a_spec_is_what_its_json_says(spec: TokenSpec) -> None:
    """Through the bytes of a snapshot and back, equal and with equal bytes again."""
    text = canonical_json(spec.to_json())
    copy = spec_from_json(json.loads(text))
    assert copy == spec
    assert canonical_json(copy.to_json()) == text


@given(streams("x"))
def test_the_storage_type_holds_every_id_and_no_narrower_one_does(stream: Stream) -> None:
    """The narrowest unsigned type; packed width and type agree."""
    if stream.kind != "index":
        return
    top = max(stream.vocab_sizes) - 1
    dtype = np.dtype(stream.storage_dtype)
    assert top <= np.iinfo(dtype).max
    if dtype.itemsize > 1:
        assert top > np.iinfo(f"uint{dtype.itemsize * 4}").max
    assert top < 2**stream.bits_per_token <= 2 * max(1, top) or top == 0


@given(SPECS, st.integers(1, 9))
def test_sizing_an_axis_fixes_it_everywhere(spec: TokenSpec, size: int) -> None:
    """`sized` leaves other axes alone."""
    try:
        sized = spec.sized(h=size)
    except ValueError:
        return  # a product code whose books no longer match its last axis is refused
    for before, after in zip(spec.streams, sized.streams, strict=True):
        for old, new in zip(before.axes, after.axes, strict=True):
            assert new.size == (size if old.name == "h" else old.size)


def test_shape_and_positions_count_tokens_and_not_their_bits() -> None:
    """Bits and channels are a last dimension, not positions."""
    grid = (Axis("h", 4), Axis("w", 3))
    bits = Stream("b", "bits", grid, width_bits=18)
    assert (bits.shape, bits.positions, bits.bits_per_token) == ((4, 3, 18), 12, 18)
    latent = Stream("f", "float", grid, channels=8, dtype="bfloat16")
    assert (latent.shape, latent.positions, latent.bits_per_token) == ((4, 3, 8), 12, 128)
    assert latent.storage_dtype == "uint16"
    loose = Stream("i", "index", (Axis("n"),), vocab_sizes=(256,))
    assert (loose.shape, loose.positions, loose.is_fixed) == ((None,), None, False)
    assert (loose.storage_dtype, loose.bits_per_token) == ("uint8", 8)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Axis("q"), "is not one of"),
        (lambda: Axis("h", 0), "must be positive"),
        (lambda: Stream("a", "index", ()), "vocab_sizes"),
        (lambda: Stream("a", "index", (), vocab_sizes=(4,)), "at least one axis"),
        (lambda: Stream("a", "index", (Axis("n", 2),), vocab_sizes=(4, 0)), "positive"),
        (lambda: Stream("a", "index", (Axis("n", 2),), vocab_sizes=(4, 4, 4)), "last axis"),
        (lambda: Stream("a", "bits", (Axis("n"),)), "width_bits"),
        (lambda: Stream("a", "float", (Axis("n"),), channels=4, dtype="float64"), "dtype"),
        (lambda: Stream("a", "float", (Axis("n"),), dtype="float32"), "channels"),
    ],
)
def test_what_cannot_be_is_refused(make: Any, says: str) -> None:
    """A spec that a trainer could not size its tables by is never made."""
    with pytest.raises(ValueError, match=says):
        make()


def test_streams_are_found_by_name_and_names_are_distinct() -> None:
    """A missing one is told with those that are there; alignment needs its partner."""
    one = Stream("one", "index", (Axis("n", 2),), vocab_sizes=(4,))
    spec = TokenSpec((one,))
    assert spec["one"] is one
    with pytest.raises(KeyError, match="two"):
        spec["two"]
    with pytest.raises(ValueError, match="distinct"):
        TokenSpec((one, one))
    other = Stream("b", "index", (Axis("n", 2),), vocab_sizes=(4,), aligned_with="c")
    with pytest.raises(ValueError, match="aligned"):
        TokenSpec((one, other))
