"""Nested prefixes: which lengths are kept, by how many samples, and what stands behind them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tokenmill.feed.sequence.draw import Draw
from tokenmill.feed.shaping import KeepPrefix
from tokenmill_schemas.errors import JobError
from tokenmill_schemas.tokens import Axis, Stream

IDS = np.arange(4 * 256).reshape(4, 256).astype(np.uint16)
STREAM = Stream("x", "index", (Axis("n", 256),), (64000,), order="prefix", min_prefix=1)


def lengths(prefix: KeepPrefix, rows: int = 4000) -> np.ndarray[Any, Any]:
    """Lengths kept for many samples."""
    return prefix.lengths_of(Draw(0, 0, 0, rows))


def test_uniform_keeps_every_length_alike() -> None:
    """One-D-Piece: each of 1 .. 8 about as often."""
    counts = np.bincount(lengths(KeepPrefix("x", "uniform", 1, 8, per_sample=True)), minlength=9)
    assert counts[0] == 0
    assert np.abs(counts[1:] - 500).max() < 5 * np.sqrt(500)


def test_powers_of_two() -> None:
    """FlexTok: 1 .. 256 alike; rounded up from uniform, half of all samples keep everything."""
    found = lengths(KeepPrefix("x", "pow2", 1, 256, per_sample=True))
    values, counts = np.unique(found, return_counts=True)
    assert values.tolist() == [1, 2, 4, 8, 16, 32, 64, 128, 256]
    assert np.abs(counts - 4000 / 9).max() < 5 * np.sqrt(4000 / 9)
    rounded = lengths(KeepPrefix("x", "uniform_pow2", 1, 256, per_sample=True))
    assert set(rounded.tolist()) <= set(values.tolist())
    assert 0.45 < (rounded == 256).mean() < 0.55


def test_groups_and_chosen_lengths() -> None:
    """D-AR decodes groups of 32, ResTok whole levels."""
    groups = lengths(KeepPrefix("x", "uniform", 1, 256, multiple_of=32, per_sample=True))
    values, counts = np.unique(groups, return_counts=True)
    assert values.tolist() == list(range(32, 257, 32))
    assert np.abs(counts - 500).max() < 5 * np.sqrt(500), "the first group as often as any"
    levels = (1, 2, 4, 8, 16, 32, 64, 128)
    among = KeepPrefix("x", "among", 1, 128, lengths=levels, per_sample=True)
    assert set(lengths(among).tolist()) == set(levels)


def test_all_samples_of_a_step_are_cut_alike() -> None:
    """On all ranks, and differently at other steps."""
    prefix = KeepPrefix.of(STREAM, "uniform")
    seen = set()
    for step in range(20):
        shapes = {
            np.asarray(prefix({"x": IDS}, Draw(0, step, first, 4))["x"]).shape for first in (0, 4)
        }
        assert len(shapes) == 1
        seen |= shapes
    assert len(seen) > 10
    batch = KeepPrefix.of(STREAM, "fixed", high=5)({"x": IDS}, Draw(0, 0, 0, 4))
    np.testing.assert_array_equal(batch["x"], IDS[:, :5])
    np.testing.assert_array_equal(batch["x.length"], [5] * 4)


def test_samples_of_their_own_length_are_masked() -> None:
    """The stream keeps its shape and type; pad stands where nothing was kept."""
    prefix = KeepPrefix.of(STREAM, "uniform", per_sample=True, pad=7)
    batch = prefix({"x": IDS}, Draw(0, 0, 0, 4))
    kept, mask, ids = (np.asarray(batch[f"x{end}"]) for end in (".length", ".mask", ""))
    assert (ids.dtype, ids.shape, mask.dtype) == (IDS.dtype, IDS.shape, np.dtype(np.bool_))
    np.testing.assert_array_equal(mask.sum(axis=1), kept)
    for row in range(4):
        np.testing.assert_array_equal(ids[row, : kept[row]], IDS[row, : kept[row]])
        assert (ids[row, kept[row] :] == 7).all()


def test_a_stream_says_which_prefixes_decode() -> None:
    """Shorter ones, ones of whole sequences and of varying ones are refused."""
    retok = Stream("x", "index", (Axis("n", 256),), (16384,), order="prefix", min_prefix=32)
    assert KeepPrefix.of(retok, "pow2").low == 32
    with pytest.raises(JobError, match="32 to 256 tokens"):
        KeepPrefix.of(retok, "uniform", low=16)
    whole = Stream("x", "index", (Axis("n", 256),), (16384,))
    with pytest.raises(JobError, match="it has no min_prefix"):
        KeepPrefix.of(whole, "uniform")
    ragged = Stream("x", "index", (Axis("n"),), (16384,), min_prefix=1)
    with pytest.raises(JobError, match="varies"):
        KeepPrefix.of(ragged, "uniform")


BAD: list[tuple[dict[str, Any], str]] = [
    ({"low": 0}, "from 0 to 8"),
    ({"low": 9}, "from 9 to 8"),
    ({"multiple_of": 3}, "no multiple of 3"),
    ({"rule": "pow2", "multiple_of": 2}, "'pow2' keeps no multiples of 2"),
    ({"rule": "among"}, "needs lengths"),
    ({"rule": "among", "lengths": (9,)}, r"must be in \[1, 8\]"),
    ({"rule": "pow2", "low": 5, "high": 7}, r"no power of two in \[5, 7\]"),
]


@pytest.mark.parametrize(("change", "text"), BAD)
def test_impossible_settings_are_refused(change: dict[str, Any], text: str) -> None:
    """At once."""
    with pytest.raises(JobError, match=text):
        KeepPrefix("x", **{"rule": "uniform", "low": 1, "high": 8, **change})


def test_too_short_a_stream_is_refused() -> None:
    """Rather than kept shorter than asked."""
    with pytest.raises(JobError, match="4 positions, fewer than 8"):
        KeepPrefix("x", "fixed", 1, 8)({"x": IDS[:, :4]}, Draw(0, 0, 0, 4))
