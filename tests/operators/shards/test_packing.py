from unittest import mock

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tokenmill.shards import packing


def _naive(values: list[int], bits: int) -> bytes:
    """One big integer per row: value i stands at bit i * bits."""
    number = sum(value << (i * bits) for i, value in enumerate(values))
    return number.to_bytes((len(values) * bits + 7) // 8, "little")


@st.composite
def matrices(draw: st.DrawFn) -> tuple[npt.NDArray[np.uint64], int]:
    """Draw a width in bits and a matrix of values of that width."""
    bits = draw(st.integers(1, 64))
    shape = (draw(st.integers(0, 4)), draw(st.integers(0, 40)))
    elements = st.integers(0, 2**bits - 1)
    return draw(hnp.arrays(np.uint64, shape, elements=elements)), bits


@given(matrices())
def test_packing_agrees_with_one_big_integer_per_row(
    case: tuple[npt.NDArray[np.uint64], int],
) -> None:
    """The bytes are those of the naive reference, for every width and ragged row ends."""
    values, bits = case
    packed = packing.pack(values, bits)
    assert packed.dtype == np.uint8
    assert packed.shape == (len(values), packing.packed_bytes(values.shape[1], bits))
    assert [row.tobytes() for row in packed] == [_naive(r, bits) for r in values.tolist()]


@given(matrices())
def test_unpacking_gives_back_what_was_packed(
    case: tuple[npt.NDArray[np.uint64], int],
) -> None:
    """Round trip, in the narrowest type that holds the width."""
    values, bits = case
    back = packing.unpack(packing.pack(values, bits), bits, values.shape[1])
    assert back.dtype == packing.narrowest(bits)
    assert np.array_equal(back, values)


@given(matrices(), st.integers(1, 9))
def test_unpacking_by_pieces_into_an_array_is_the_same(
    case: tuple[npt.NDArray[np.uint64], int], piece: int
) -> None:
    """Where words are cut into pieces changes nothing, nor does whose array they go to."""
    values, bits = case
    out = np.empty(values.shape, packing.narrowest(bits))
    with mock.patch.object(packing, "PIECE_WORDS", piece):
        back = packing.unpack(packing.pack(values, bits), bits, values.shape[1], out)
    assert back is out
    assert np.array_equal(out, values)


def test_an_array_of_another_type_or_shape_is_refused() -> None:
    """What is written to must be what would have been returned."""
    packed = packing.pack(np.zeros((2, 8), np.uint16), 14)
    for out in (np.empty((2, 8), np.uint32), np.empty((1, 8), np.uint16)):
        with pytest.raises(ValueError, match="out must be"):
            packing.unpack(packed, 14, 8, out)


@pytest.mark.parametrize("bits", [10, 14, 18, 33])
def test_rows_longer_than_a_block_and_many_blocks(
    bits: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cutting the work into blocks of rows changes nothing."""
    values = np.random.default_rng(bits).integers(0, 2**bits, (37, 100), dtype=np.uint64)
    whole = packing.pack(values, bits)
    monkeypatch.setattr(packing, "BLOCK_VALUES", 300)
    assert np.array_equal(packing.pack(values, bits), whole)
    assert np.array_equal(packing.unpack(whole, bits, 100), values)


def test_higher_bits_are_dropped_and_neighbours_stay_whole() -> None:
    """A value that is too wide never spills into the next one."""
    packed = packing.pack(np.array([[0xFFFF, 0, 0x123]], np.uint16), 12)
    assert packing.unpack(packed, 12, 3).tolist() == [[0xFFF, 0, 0x123]]


def test_unpacking_reads_rows_that_are_not_contiguous() -> None:
    """A column cut out of a wider matrix unpacks like a copy of it."""
    values = np.arange(24, dtype=np.uint16).reshape(3, 8)
    for bits in (8, 11, 16):
        wide = np.pad(packing.pack(values, bits), ((0, 0), (2, 5)))
        cut = wide[:, 2 : 2 + packing.packed_bytes(8, bits)]
        assert np.array_equal(packing.unpack(cut, bits, 8), values)


@pytest.mark.parametrize("bits", [0, 65])
def test_widths_outside_1_to_64_are_refused(bits: int) -> None:
    """There is no id of no bits, nor of more than 64."""
    with pytest.raises(ValueError, match="from 1 to 64"):
        packing.pack(np.zeros((1, 1), np.uint8), bits)
    with pytest.raises(ValueError, match="from 1 to 64"):
        packing.unpack(np.zeros((1, 1), np.uint8), bits, 1)


def test_wrong_shapes_are_refused() -> None:
    """Rows of other than the packed size, and arrays that are not matrices, are errors."""
    with pytest.raises(ValueError, match="rows of 14 bytes"):
        packing.unpack(np.zeros((2, 13), np.uint8), 14, 8)
    with pytest.raises(ValueError, match="matrix"):
        packing.pack(np.zeros(4, np.uint8), 3)
