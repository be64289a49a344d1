"""Windows as batches: ids, positions, segments and boundaries, against a loop that is plain."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenmill.feed.packed import collate
from tokenmill.feed.sequence.packing import Packing
from tokenmill_schemas.errors import JobError
from tokenmill_schemas.tokens import Axis, Stream

LENGTH = 16
WINDOWS = st.lists(
    st.lists(st.lists(st.integers(0, 255), min_size=1, max_size=5), min_size=1, max_size=2),
    min_size=1,
    max_size=6,
)
IDS = st.none() | st.integers(0, 70_000)


def by_loop(packing: Packing, windows: list[list[list[int]]]) -> dict[str, Any]:
    """What a batch must be, token by token."""
    out: dict[str, list[Any]] = {"ids": [], "positions": [], "segments": []}
    bounds = [0]
    for window in windows:
        ids: list[int] = []
        positions: list[int] = []
        segments: list[int] = []
        for number, document in enumerate(window, 1):
            full = [packing.bos, *document, packing.eos]
            whole = [value for value in full if value is not None]
            ids += whole
            positions += range(len(whole))
            segments += [number] * len(whole)
            bounds.append(bounds[-1] + len(whole))
        rest = packing.length - len(ids)
        if rest:
            bounds.append(bounds[-1] + rest)
        out["ids"].append(ids + [packing.pad] * rest)
        out["positions"].append([*positions, *range(rest)])
        out["segments"].append(segments + [0] * rest)
    return out | {"bounds": bounds}


@given(WINDOWS, IDS, IDS, st.integers(0, 70_000))
@settings(max_examples=120, deadline=None)
def test_a_batch_is_that_of_a_plain_loop(
    windows: list[list[list[int]]], bos: int | None, eos: int | None, pad: int
) -> None:
    """Every id at its place; boundaries in all their forms say the same."""
    packing = Packing("text", LENGTH, bos=bos, eos=eos, pad=pad)
    documents = [np.array(d, np.uint8) for window in windows for d in window]
    batch: Any = collate({"text": documents}, np.array([len(w) for w in windows]), packing)
    wanted = by_loop(packing, windows)
    assert batch["text"].tolist() == wanted["ids"]
    assert batch["position_ids"].tolist() == wanted["positions"]
    assert batch["segment_ids"].tolist() == wanted["segments"]
    assert batch["cu_seqlens"].tolist() == wanted["bounds"]
    assert batch["max_seqlen"].tolist() == [np.diff(wanted["bounds"]).max()]
    top = max(255, pad, bos or 0, eos or 0)
    kind = np.uint8 if top < 2**8 else np.uint16 if top < 2**16 else np.uint32
    assert batch["text"].dtype == kind
    kinds = {batch[n].dtype.name for n in ("position_ids", "segment_ids", "cu_seqlens")}
    assert kinds | {batch["max_seqlen"].dtype.name} == {"int32"}
    # Trainers that have position ids only find the same boundaries in them.
    assert np.flatnonzero(batch["position_ids"].ravel() == 0).tolist() == wanted["bounds"][:-1]


def test_samples_of_several_axes_are_flattened_and_fixed_ones_taken_too() -> None:
    """Grids in C order; a stream of one shape comes as one array."""
    packing = Packing("image", 8, eos=9)
    counts = np.array([1, 1])
    grids: Any = collate({"image": [np.arange(6).reshape(2, 3)] * 2}, counts, packing)
    assert grids["image"].tolist() == [[0, 1, 2, 3, 4, 5, 9, 0]] * 2
    fixed: Any = collate({"image": np.arange(12).reshape(2, 2, 3)}, counts, packing)
    assert fixed["image"][1].tolist() == [6, 7, 8, 9, 10, 11, 9, 0]


def test_ids_have_at_least_the_stored_type() -> None:
    """Whichever documents a batch happens to hold."""
    stream = Stream("text", "index", (Axis("n"),), (70_000,))
    documents: list[Any] = [np.array([1, 2], np.uint8)]
    batch: Any = collate({"text": documents}, np.array([1]), Packing("text", 4), (stream,))
    assert batch["text"].dtype == np.uint32


def test_long_samples_lose_their_end_and_what_stands_there() -> None:
    """A sample that is cut has its begin, and no end."""
    packing = Packing("text", 4, bos=7, eos=8, long="truncate")
    documents: list[Any] = [np.arange(9, dtype=np.uint8), np.arange(2, dtype=np.uint8)]
    batch: Any = collate({"text": documents}, np.array([1, 1]), packing)
    assert batch["text"].tolist() == [[7, 0, 1, 2], [7, 0, 1, 8]]
    assert batch["cu_seqlens"].tolist() == [0, 4, 8]


def test_columns_come_as_one_array_for_each_window() -> None:
    """Numbers, text and streams that vary, in the order of the window's documents."""
    packing = Packing("text", 8)
    batch: Any = collate(
        {
            "text": [np.arange(n, dtype=np.uint8) for n in (3, 4, 2)],
            "label": np.array([5, 6, 7]),
            "sample_id": np.array(["a", "b", "c"], object),
            "mask": [np.zeros(n) for n in (1, 2, 3)],
            "pair": np.arange(6).reshape(3, 2),
            "alike": [np.full((2, 2), n) for n in range(3)],
        },
        np.array([2, 1]),
        packing,
    )
    assert list(batch)[5:] == ["label", "sample_id", "mask", "pair", "alike"]
    assert [part.tolist() for part in batch["label"]] == [[5, 6], [7]]
    assert [part.tolist() for part in batch["sample_id"]] == [["a", "b"], ["c"]]
    assert [[len(m) for m in part] for part in batch["mask"]] == [[1, 2], [3]]
    assert [[m.tolist() for m in part] for part in batch["alike"]][1] == [[[2, 2], [2, 2]]]
    assert [part.tolist() for part in batch["pair"]] == [[[0, 1], [2, 3]], [[4, 5]]]


def test_mistakes_are_told() -> None:
    """Windows that overflow, counts that do not fit, names that are taken."""
    documents: list[Any] = [np.arange(3, dtype=np.uint8)] * 3
    with pytest.raises(ValueError, match="9 ids do not fit a window of 8"):
        collate({"text": documents}, np.array([3]), Packing("text", 8))
    with pytest.raises(ValueError, match="3 documents are not 2"):
        collate({"text": documents}, np.array([2]), Packing("text", 8))
    with pytest.raises(JobError, match="'segment_ids' is a name that packed batches use"):
        collate(
            {"text": documents, "segment_ids": np.arange(3)}, np.array([3]), Packing("text", 16)
        )
