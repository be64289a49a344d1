"""Bits, implicit codebooks, windows and near codes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenmill.feed.sequence.draw import Draw
from tokenmill.feed.shaping import (
    GroupBits,
    MergeWindows,
    Perturb,
    Signs,
    SplitIds,
    fsq_codebook,
    lfq_codebook,
    nearest_codes,
)
from tokenmill.feed.shaping.bits import (
    bits_to_ids,
    group_bits,
    ids_to_bits,
    join_ids,
    signs,
    split_ids,
    unpack_bits,
)
from tokenmill.feed.shaping.implicit import fsq_codes, fsq_digits
from tokenmill.feed.shaping.windows import merge_windows, split_windows
from tokenmill_schemas.errors import JobError

DRAW = Draw(0, 0, 0, 2)


@given(st.integers(1, 63), st.booleans(), st.integers(0, 2**63 - 1))
def test_ids_and_bits_are_one(width: int, big: bool, number: int) -> None:
    """Least or most significant first."""
    ids = np.array([[number % (1 << width)]], np.uint64)
    bits = ids_to_bits(ids, width, big_endian=big)
    assert (bits.shape, bits.dtype) == ((1, 1, width), np.dtype(np.uint8))
    assert bits_to_ids(bits, big_endian=big)[0, 0] == ids[0, 0]
    assert bits[0, 0, -1 if big else 0] == number % (1 << width) % 2


def test_signs_are_plus_and_minus_one() -> None:
    """Or on the unit sphere."""
    bits = np.array([[0, 1, 1, 0]], np.uint8)
    np.testing.assert_array_equal(signs(bits), [[-1, 1, 1, -1]])
    np.testing.assert_array_equal(signs(bits, unit_norm=True), [[-0.5, 0.5, 0.5, -0.5]])
    ids = Signs("x", 4)({"x": np.array([[6]])}, DRAW)["x"]
    np.testing.assert_array_equal(ids, [[[-1, 1, 1, -1]]])


def test_packed_bytes_unpack_low_bit_first() -> None:
    """As stores pack them."""
    bits = np.random.default_rng(0).integers(0, 2, (3, 5, 18)).astype(np.uint8)
    packed = np.packbits(bits, axis=-1, bitorder="little")
    np.testing.assert_array_equal(unpack_bits(packed, 18), bits)
    with pytest.raises(JobError, match=r"18 bits are uint8\[..., 3\]"):
        unpack_bits(packed[..., :2], 18)


@given(st.lists(st.integers(1, 20), min_size=1, max_size=3), st.integers(0, 2**60))
def test_split_ids_join_again(widths: list[int], number: int) -> None:
    """The first part has the lowest bits."""
    whole = number % (1 << sum(widths))
    parts = split_ids(np.array([whole]), tuple(widths))
    assert parts[0, 0] == whole % (1 << widths[0])
    assert (parts[0] < [1 << width for width in widths]).all()
    assert join_ids(parts, tuple(widths))[0] == whole


def test_groups_are_ids_of_their_bits() -> None:
    """As splitting the id of all bits would give."""
    bits = np.random.default_rng(0).integers(0, 2, (2, 5, 32)).astype(np.uint8)
    found = GroupBits("x", 8)({"x": bits}, DRAW)["x"]
    np.testing.assert_array_equal(found, split_ids(bits_to_ids(bits), (8, 8, 8, 8)))
    with pytest.raises(JobError, match="no groups of 5"):
        group_bits(bits, 5)
    with pytest.raises(JobError, match="64 bits are no id"):
        bits_to_ids(np.zeros((1, 64)))
    with pytest.raises(JobError, match="ids of 64 bits"):
        SplitIds("x", (32, 32))
    assert SplitIds("x", (6, 12)).vocab_sizes == (64, 4096)


def test_fsq_codes_of_cosmos() -> None:
    """8, 8, 8, 5, 5, 5: 64,000 different codes in [-1, 1], the first dimension fastest."""
    levels = (8, 8, 8, 5, 5, 5)
    book = fsq_codebook(levels)
    assert (book.shape, book.dtype) == ((64000, 6), np.dtype(np.float32))
    assert len(np.unique(book, axis=0)) == 64000
    np.testing.assert_array_equal(book[0], [-1] * 6)
    np.testing.assert_array_equal(book[1], [-0.75, *[-1] * 5])
    np.testing.assert_array_equal(book[-1], [0.75, 0.75, 0.75, 1, 1, 1])
    ids = np.array([0, 7, 8, 63999])
    basis = [1, 8, 64, 512, 2560, 12800]
    np.testing.assert_array_equal(fsq_digits(ids, levels) @ basis, ids)
    np.testing.assert_array_equal(fsq_codes(ids, levels), book[ids])


def test_lfq_codes() -> None:
    """Bit i of an id is the sign of channel i."""
    book = lfq_codebook(3)
    np.testing.assert_array_equal(book[[0, 1, 6]], [[-1, -1, -1], [1, -1, -1], [-1, 1, 1]])


@given(st.integers(1, 4), st.integers(1, 4), st.integers(1, 3), st.integers(0, 2))
def test_windows_split_again(h: int, w: int, size: int, tail: int) -> None:
    """For any grid and payload; a window holds its own square of the grid."""
    shape = (2, h * size, w * size, *(3, 5)[:tail])
    values = np.arange(int(np.prod(shape))).reshape(shape)
    merged = merge_windows(values, size, tail=tail)
    assert merged.shape == (2, h, w, size * size, *(3, 5)[:tail])
    square = values[:, -size:, :size].reshape(2, size * size, *shape[3:])
    np.testing.assert_array_equal(merged[:, -1, 0], square)
    np.testing.assert_array_equal(split_windows(merged, size, tail=tail), values)


def test_windows_that_do_not_fit_are_refused() -> None:
    """Grids of other sides, windows of other sizes."""
    with pytest.raises(JobError, match="no whole windows of 2 x 2"):
        MergeWindows("x", 2)({"x": np.zeros((1, 3, 4))}, DRAW)
    with pytest.raises(JobError, match="two grid axes"):
        merge_windows(np.zeros(4), 2)
    with pytest.raises(JobError, match="needs windows"):
        split_windows(np.zeros((2, 2, 3)), 2)
    with pytest.raises(JobError, match="positive size"):
        MergeWindows("x", 0)


@settings(max_examples=25, deadline=None)
@given(st.integers(2, 40), st.integers(1, 6), st.integers(0, 2**32 - 1), st.integers(1, 3))
def test_near_codes_are_those_of_plain_search(n: int, count: int, seed: int, high: int) -> None:
    """With many ties (few integer codes) and in chunks of any size."""
    count = min(count, n - 1)
    book = np.random.default_rng(seed).integers(0, high + 1, (n, 3)).astype(np.float32)
    wanted = []
    for row in range(n):
        squared = np.square(book.astype(np.float64) - book[row]).sum(axis=1)
        others = [i for i in range(n) if i != row]
        wanted.append(sorted(others, key=lambda i: (squared[i], i))[:count])
    for chunk_bytes in (1, 4096, 2**26):
        found = nearest_codes(book, count, chunk_bytes=chunk_bytes)
        assert found.dtype == np.int32
        np.testing.assert_array_equal(found, wanted)


def test_perturbed_ids_are_near_ones() -> None:
    """In a share of samples a share of ids, each one of its delta nearest codes."""
    book = np.random.default_rng(0).standard_normal((100, 4)).astype(np.float32)
    ids = np.random.default_rng(1).integers(0, 100, (400, 64)).astype(np.uint16)
    shaped = Perturb.of("x", book, delta=5, alpha=0.5, beta=0.25)
    batch = shaped({"x": ids}, Draw(0, 0, 0, 400))
    found, hit = np.asarray(batch["x"]), np.asarray(batch["x.perturbed"])
    assert (found.dtype, hit.dtype) == (np.dtype(np.int64), np.dtype(np.bool_))
    np.testing.assert_array_equal(found != ids, hit)
    assert (shaped.table[ids[hit]] == found[hit][:, None]).any(axis=1).all()
    touched = hit.any(axis=1)
    assert 0.15 < touched.mean() < 0.35
    assert 0.45 < hit[touched].mean() < 0.55
    which = (shaped.table[ids[hit]] == found[hit][:, None]).argmax(axis=1)
    assert np.bincount(which, minlength=5).min() > 0.8 * len(which) / 5


def test_impossible_perturbations_are_refused() -> None:
    """Settings and ids."""
    book = np.eye(4, dtype=np.float32)
    with pytest.raises(JobError, match="no 4 nearest other codes"):
        nearest_codes(book, 4)
    with pytest.raises(JobError, match=r"alpha must be in \[0, 1\]"):
        Perturb.of("x", book, delta=1, alpha=2.0)
    with pytest.raises(JobError, match="id 4, the table 4 codes"):
        Perturb.of("x", book, delta=1, alpha=1.0)({"x": np.full((2, 3), 4)}, DRAW)
    with pytest.raises(JobError, match="needs ids, got float64"):
        Perturb.of("x", book, delta=1, alpha=1.0)({"x": np.zeros((2, 3))}, DRAW)
