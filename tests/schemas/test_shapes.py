"""Shapes of a shard's samples as the manifest has them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenmill_schemas.shapes import decode_shapes, encode_shapes, variable_axes
from tokenmill_schemas.tokens import Axis, Stream, TokenSpec

FIXED = Stream("image", "index", (Axis("n", 4),), (1000,))
GRID = Stream("grid", "index", (Axis("h"), Axis("w"), Axis("depth", 2)), (1000,))
LATENT = Stream("latent", "float", (Axis("n"),), channels=3, dtype="float16")
SPEC = TokenSpec((FIXED, GRID, LATENT))


@given(
    st.lists(st.tuples(*[st.integers(0, 70_000)] * 3), max_size=8),
    st.sampled_from([70_000, 2**16 - 1, 100]),
)
def test_shapes_come_back_from_their_bytes(rows: list[tuple[int, int, int]], top: int) -> None:
    """Two bytes a size where all fit, else four; the sizes of the variable axes only."""
    sizes = np.minimum(np.array(rows, np.int64).reshape(-1, 3), top)
    count = len(sizes)
    grid = np.column_stack([sizes[:, :2], np.full(count, 2)])
    latent = np.column_stack([sizes[:, 2:], np.full(count, 3)])
    encoded = encode_shapes(SPEC, {"grid": grid, "latent": latent})
    width = 2 if sizes.size and sizes.max() < 2**16 else 4
    assert len(encoded) == (1 + width * sizes.size if sizes.size else 0)
    found = decode_shapes(SPEC, encoded, count)
    if count:
        assert list(found) == ["grid", "latent"]
        assert np.array_equal(found["grid"], sizes[:, :2])
        assert np.array_equal(found["latent"], sizes[:, 2:])
    else:
        assert found == {}


def test_the_bytes_are_those_that_the_format_says() -> None:
    """Width, then stream by stream, row by row, axis by axis, little-endian."""
    shapes = {"grid": [[1, 2, 2], [3, 256, 2]], "latent": [[5, 3], [6, 3]]}
    assert encode_shapes(SPEC, shapes) == bytes([2, 1, 0, 2, 0, 3, 0, 0, 1, 5, 0, 6, 0])
    wide = encode_shapes(SPEC, {"grid": [[1, 65536, 2]], "latent": [[5, 3]]})
    assert wide == bytes([4, 1, 0, 0, 0, 0, 0, 1, 0, 5, 0, 0, 0])


def test_nothing_is_said_of_streams_that_do_not_vary() -> None:
    """No byte, so that the manifests of such stores stay what they were."""
    assert variable_axes(FIXED) == ()
    assert variable_axes(GRID) == (0, 1)
    assert encode_shapes(TokenSpec((FIXED,)), {}) == b""


def test_sizes_that_cannot_be_are_refused() -> None:
    """Negative ones, and streams of different numbers of rows."""
    with pytest.raises(ValueError, match="from -1"):
        encode_shapes(SPEC, {"grid": [[-1, 2, 2]], "latent": [[5, 3]]})
    with pytest.raises(ValueError, match=r"\[1, 2\] rows"):
        encode_shapes(SPEC, {"grid": [[1, 2, 2]], "latent": [[5, 3], [5, 3]]})
    with pytest.raises(KeyError):
        encode_shapes(SPEC, {"grid": [[1, 2, 2]]})


@pytest.mark.parametrize("cut", [1, 5, 12])
def test_bytes_of_other_rows_are_refused(cut: int) -> None:
    """A blob that was cut, or of another number of rows, is no shapes."""
    encoded = encode_shapes(SPEC, {"grid": [[1, 2, 2], [3, 4, 2]], "latent": [[5, 3], [6, 3]]})
    with pytest.raises(ValueError, match="are not 3 sizes of each of 2 rows"):
        decode_shapes(SPEC, encoded[:cut], 2)
    with pytest.raises(ValueError, match="each of 3 rows"):
        decode_shapes(SPEC, encoded, 3)
    with pytest.raises(ValueError, match="of width 3"):
        decode_shapes(SPEC, b"\x03" + encoded[1:], 2)
