"""Flattening: where ids stand, how large the vocabulary is, and the way back."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenmill.feed.columns import Batch
from tokenmill.feed.sequence.draw import Draw
from tokenmill.feed.shaping import Flatten, Piece
from tokenmill_schemas.errors import JobError
from tokenmill_schemas.tokens import Axis, Stream

DRAW = Draw(0, 0, 0, 2)


def tokens(flatten: Flatten, **streams: Any) -> list[Any]:
    """The sequences of streams of one sample."""
    batch: Batch = {name: np.asarray(values)[None] for name, values in streams.items()}
    found = flatten(batch, DRAW)[flatten.into]
    assert isinstance(found, np.ndarray)
    assert found.dtype == np.int64
    return list(found[0].tolist())


def test_offsets_follow_one_another() -> None:
    """Text, specials, then each part's sizes and books."""
    flatten = Flatten(
        (Piece("a", (10,), sizes=4), Piece("b", (20, 30), depth=2), Piece("c", (5,), depth=3)),
        text_vocab=100,
        specials=("boi", "eoi"),
    )
    assert flatten.special_ids == {"boi": 100, "eoi": 101}
    assert flatten.size_offsets == (102, 116, 166)
    assert flatten.offsets == ((106,), (116, 136), (166, 171, 176))
    assert flatten.vocab_size == 181


def test_residual_depth_both_ways() -> None:
    """Position-major keeps a position's ids together, depth-major a depth's positions."""
    ids = [[0, 1], [2, 3], [4, 5]]
    own = Flatten((Piece("a", (8,), depth=2),))
    assert tokens(own, a=ids) == [0, 9, 2, 11, 4, 13]
    assert own.vocab_size == 16
    depth_first = Flatten((Piece("a", (8,), depth=2, order="depth_major"),))
    assert tokens(depth_first, a=ids) == [0, 2, 4, 9, 11, 13]
    shared = Flatten((Piece("a", (8,), depth=2, shared=True),))
    assert (tokens(shared, a=ids), shared.vocab_size) == ([0, 1, 2, 3, 4, 5], 8)


def test_rows_frames_begin_end_and_sizes() -> None:
    """A clip of two frames of 2 x 3: header, rows, frames, begin and end."""
    part = Piece("v", (50,), begin="boi", end="eoi", row_end="eol", frame_end="eof", sizes=8)
    flatten = Flatten(
        (part,), specials=("bos", "boi", "eoi", "eol", "eof", "eos"), begin="bos", end="eos"
    )
    ids = np.arange(12).reshape(2, 2, 3)
    bos, boi, eoi, eol, eof, eos = range(6)
    o = 6 + 8
    assert tokens(flatten, v=ids) == [
        bos, boi, 6 + 1, 6 + 1, 6 + 2,
        o, o + 1, o + 2, eol, o + 3, o + 4, o + 5, eol, eof,
        o + 6, o + 7, o + 8, eol, o + 9, o + 10, o + 11, eol, eof, eoi, eos,
    ]  # fmt: skip
    assert flatten.length((2, 2, 3)) == 25
    assert flatten.vocab_size == 6 + 8 + 50


def test_a_header_of_the_text_model_is_put_for_its_grid() -> None:
    """As Emu3 writes "2*3" in ids of its text vocabulary; another grid has none."""
    part = Piece("v", (50,), headers=(((2, 3), (7, 1, 9)),))
    flatten = Flatten((part,), text_vocab=10)
    assert tokens(flatten, v=np.zeros((2, 3), int)) == [7, 1, 9, *[10] * 6]
    with pytest.raises(JobError, match=r"grid \(3, 2\), for which headers has no ids"):
        tokens(flatten, v=np.zeros((3, 2), int))


def test_two_codebooks_after_each_other_and_interleaved() -> None:
    """Hita puts one after the other; FQGAN's positions hold an id of each."""
    parts = (Piece("a", (10,)), Piece("b", (20,)))
    assert tokens(Flatten(parts), a=[1, 2], b=[3, 4]) == [1, 2, 13, 14]
    assert tokens(Flatten(parts, interleave=True), a=[1, 2], b=[3, 4]) == [1, 13, 2, 14]
    with pytest.raises(JobError, match=r"same number of positions, got \[1, 2\]"):
        tokens(Flatten(parts, interleave=True), a=[1, 2], b=[3])


def test_varying_shapes_become_a_list() -> None:
    """Each sample has the layout of its own grid."""
    flatten = Flatten((Piece("a", (10,), row_end="eol"),), specials=("eol",))
    grids = [np.zeros((1, 2), np.uint8), np.zeros((2, 1), np.uint8)]
    found = flatten({"a": grids}, DRAW)["tokens"]
    assert [row.tolist() for row in found] == [[1, 1, 0], [1, 0, 1, 0]]


def test_parts_are_told_from_specs() -> None:
    """A depth axis, or several vocabularies, are several ids of a position."""
    residual = Stream("a", "index", (Axis("n", 4), Axis("depth", 2)), (16,))
    product = Stream("b", "index", (Axis("n", 4), Axis("coord", 3)), (2, 3, 4))
    plain = Stream("c", "index", (Axis("h"), Axis("w")), (9,))
    flatten = Flatten.of((residual, product, plain))
    assert [part.depth for part in flatten.pieces] == [2, 3, 0]
    assert flatten.vocab_size == 2 * 16 + 9 + 9
    with pytest.raises(JobError, match="not of ids"):
        Piece.of(Stream("z", "float", (Axis("n", 4),), channels=2, dtype="float32"))


@settings(max_examples=40, deadline=None)
@given(
    st.tuples(st.integers(1, 3), st.integers(1, 4), st.integers(1, 4)),
    st.integers(0, 3),
    st.booleans(),
    st.sampled_from(["position_major", "depth_major"]),
    st.integers(0, 9),
)
def test_unflatten_is_the_inverse(
    grid: tuple[int, int, int], depth: int, shared: bool, order: Any, text: int
) -> None:
    """Whatever the layout, ids come back, all of them below the vocabulary's size."""
    marks: dict[str, Any] = (
        {} if depth and order == "depth_major" else {"row_end": "eol", "frame_end": "eof"}
    )
    parts = (
        Piece("a", (7,), depth=depth, shared=shared, order=order, begin="boi", **marks),
        Piece("b", (11,)),
    )
    flatten = Flatten(parts, text_vocab=text, specials=("boi", "eol", "eof"), end="boi")
    rng = np.random.default_rng(0)
    shapes = {"a": (*grid, depth) if depth else grid, "b": (5,)}
    batch = {"a": rng.integers(0, 7, (2, *shapes["a"])), "b": rng.integers(0, 11, (2, 5))}
    found = flatten(dict(batch), DRAW)["tokens"]
    assert isinstance(found, np.ndarray)
    assert text <= found.min() <= found.max() < flatten.vocab_size
    assert found.shape[1] == flatten.length(shapes["a"], shapes["b"])
    back = flatten.unflatten(found, shapes)
    for name, ids in batch.items():
        np.testing.assert_array_equal(back[name], ids)


def test_a_sampled_id_out_of_place_is_refused() -> None:
    """A model that predicts a word within a picture has drawn no picture."""
    flatten = Flatten((Piece("a", (10,)),), text_vocab=5)
    with pytest.raises(JobError, match="does not belong"):
        flatten.unflatten(np.array([[5, 4]]), {"a": (2,)})
    with pytest.raises(JobError, match=r"\[B, 2\]"):
        flatten.unflatten(np.array([[5, 6, 7]]), {"a": (2,)})


BAD = [
    (lambda: Piece("a", (0,)), "positive"),
    (lambda: Piece("a", (3, 4)), "2 vocabularies for 0 ids"),
    (lambda: Piece("a", (3, 4), depth=2, shared=True), "not shared"),
    (lambda: Piece("a", (3,), depth=2, order="depth_major", row_end="eol"), "position-major"),
    (lambda: Piece("a", (3,), sizes=2, headers=(((1,), (1,)),)), "either sizes or headers"),
    (lambda: Flatten(()), "at least one piece"),
    (lambda: Flatten((Piece("a", (3,), begin="boi"),)), r"\['boi'\] are not among the specials"),
    (lambda: Flatten((Piece("a", (3,), sizes=2),), interleave=True), "no marks of their own"),
]


@pytest.mark.parametrize(("make", "text"), BAD)
def test_impossible_settings_are_refused(make: Any, text: str) -> None:
    """At once, not at the first batch."""
    with pytest.raises(JobError, match=text):
        make()


def test_a_depth_that_is_not_the_streams_is_refused() -> None:
    """The last axis must hold as many ids as the part says."""
    with pytest.raises(JobError, match="not 2 ids a position"):
        tokens(Flatten((Piece("a", (3,), depth=2),)), a=np.zeros((4, 3), int))
