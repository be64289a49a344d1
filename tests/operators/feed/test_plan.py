"""Plans: what is shown and where it lies, by runs and by bits, as counting row by row would say."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as nps

from tokenmill.feed.rows.bits import Bits, Selection, count_bits, select
from tokenmill.feed.rows.plan import Plan, Rows, Runs
from tokenmill.feed.rows.stretches import Stretches
from tokenmill_schemas.errors import StoreError

#: A shard is shown wholly, not at all, or of each of its rows it is said. 256 rows are a block.
MASKS = st.one_of(
    st.builds(np.ones, st.sampled_from([0, 1, 63, 64, 65, 255, 256, 257, 700]), st.just(bool)),
    st.builds(np.zeros, st.sampled_from([0, 1, 64, 256, 300]), st.just(bool)),
    nps.arrays(np.bool_, st.integers(0, 600)),
)
Mask = npt.NDArray[np.bool_]


def facts(masks: list[Mask]) -> tuple[Rows, dict[int, Rows]]:
    """The rows of each shard, and those that are not shown."""
    hidden = {i: np.flatnonzero(~mask) for i, mask in enumerate(masks) if not mask.all()}
    return np.array([len(mask) for mask in masks], np.int64), hidden


def truth(masks: list[Mask]) -> list[tuple[int, int]]:
    """The shown rows, in order, as shard and row."""
    return [(i, row) for i, mask in enumerate(masks) for row in np.flatnonzero(mask).tolist()]


def by_bits(masks: list[Mask]) -> Bits:
    """The shown rows as bits, filled shard by shard."""
    bits = Bits.shown(facts(masks)[0])
    for shard, mask in enumerate(masks):
        bits.keep(shard, mask)
    return bits


def check(plan: Plan, masks: list[Mask]) -> None:
    """Compare a plan with counting, there and back."""
    wanted = truth(masks)
    assert plan.rows == len(wanted)
    rows = np.random.default_rng(0).permutation(plan.rows)
    shards, places = plan.locate(rows)
    assert list(zip(shards.tolist(), places.tolist(), strict=True)) == [wanted[i] for i in rows]
    every = [(i, row) for i, mask in enumerate(masks) for row in range(len(mask) + 2)]
    found = plan.logical(*np.array(every, np.int64).reshape(-1, 2).T)
    number = {place: i for i, place in enumerate(wanted)}
    assert found.tolist() == [number.get(place, -1) for place in every]


@given(st.lists(MASKS, min_size=1, max_size=6))
@settings(max_examples=150, deadline=None)
def test_both_indexes_say_what_counting_says(masks: list[Mask]) -> None:
    """Located and numbered back, by runs, by bits, and by whichever the plan takes."""
    samples, hidden = facts(masks)
    bits = by_bits(masks)
    shards, offsets, lengths = bits.runs()
    runs = Runs(Stretches.of(lengths), shards.astype(np.int32), offsets)
    assert len(lengths) == bits.count_runs()
    check(Plan(samples, Selection.of(bits)), masks)
    check(Plan(samples, runs), masks)
    check(Plan.of(samples, hidden), masks)
    check(Plan.of_bits(samples, bits), masks)
    assert np.array_equal(Bits.shown(samples, hidden).words, bits.words)
    assert bits.shards_shown().tolist() == [i for i, mask in enumerate(masks) if mask.any()]


@given(st.lists(MASKS, min_size=1, max_size=6), st.integers(1, 9))
@settings(max_examples=50, deadline=None)
def test_runs_go_on_over_the_pieces_in_which_they_are_found(masks: list[Mask], words: int) -> None:
    """However few words are looked at at once, the runs are the same."""
    bits = by_bits(masks)
    whole = bits.runs()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tokenmill.feed.rows.bits.WORDS_AT_ONCE", words)
        assert bits.count_runs() == len(whole[0])
        assert [part.tolist() for part in bits.runs()] == [part.tolist() for part in whole]


@given(st.lists(st.integers(0, 5000), min_size=1, max_size=40), st.data())
@settings(max_examples=80, deadline=None)
def test_a_row_is_in_the_stretch_that_a_search_finds(lengths: list[int], data: Any) -> None:
    """Guesses and their corrections are a search, whatever the sizes are, empty ones among them."""
    stretches = Stretches.of(np.array(lengths))
    assert stretches.rows == sum(lengths)
    if not stretches.rows:
        return
    rows = data.draw(nps.arrays(np.int64, 50, elements=st.integers(0, stretches.rows - 1)))
    wanted = np.searchsorted(np.cumsum(lengths), rows, side="right")
    assert stretches.find(rows).tolist() == wanted.tolist()


@given(nps.arrays(np.uint64, st.integers(1, 20)), st.data())
@settings(max_examples=80, deadline=None)
def test_the_nth_bit_of_a_word(words: npt.NDArray[np.uint64], data: Any) -> None:
    """What writing out the bits of each word says."""
    words = words[words > 0]
    places = [[bit for bit in range(64) if int(word) >> bit & 1] for word in words]
    ranks = [data.draw(st.integers(0, len(bits) - 1)) for bits in places]
    wanted = [bits[rank] for bits, rank in zip(places, ranks, strict=True)]
    assert select(words, np.array(ranks, np.int64)).tolist() == wanted


@given(nps.arrays(np.uint64, st.integers(0, 20)))
@settings(max_examples=60, deadline=None)
def test_bits_are_counted_by_any_numpy(words: npt.NDArray[np.uint64]) -> None:
    """Also by one that has no function for it."""
    wanted = [int(word).bit_count() for word in words]
    assert count_bits(words).tolist() == wanted
    with pytest.MonkeyPatch.context() as patch:
        patch.delattr(np, "bitwise_count", raising=False)
        assert count_bits(words).tolist() == wanted


def test_a_plan_takes_the_smaller_index() -> None:
    """Few gaps are runs, every second row is bits, and neither has an entry a row."""
    samples = np.full(50, 4000)
    few = Plan.of(samples, {3: np.array([5, 9])})
    half = Plan.of(samples, {i: np.arange(0, 4000, 2) for i in range(50)})
    assert isinstance(few.index, Runs)
    assert isinstance(half.index, Selection)
    parts = half.index.bits.words, half.index.stretches.starts, half.index.stretches.guesses
    size = sum(part.nbytes for part in parts) + half.index.shards.nbytes
    assert size < 200_000 * 2 / 8
    assert half.rows == 100_000


def test_rows_that_there_are_not_are_refused() -> None:
    """Beyond the last row, before the first, and of shards that there are not."""
    plan = Plan.of([3, 4], {1: np.array([0])})
    for row in (-1, 6):
        with pytest.raises(StoreError, match=r"rows must be in \[0, 6\)"):
            plan.locate(np.array([0, row]))
    for shard in (-1, 2):
        with pytest.raises(StoreError, match=r"shards must be in \[0, 2\)"):
            plan.logical(np.array([shard]), np.array([0]))
    none = np.empty(0, np.int64)
    assert [part.tolist() for part in plan.locate(none)] == [[], []]
    assert plan.logical(none, none).tolist() == []
