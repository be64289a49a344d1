"""Best fit decreasing on a histogram: the windows of a loop over documents, in less time."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenmill.feed.sequence.best_fit import Windows, count_windows, pack, ragged

LENGTHS = st.dictionaries(st.integers(1, 40), st.integers(1, 30), min_size=1, max_size=12)


def contents(windows: Windows, lengths: np.ndarray) -> list[tuple[int, ...]]:
    """The lengths in each window, as they were put in."""
    parts = np.split(lengths[windows.places], windows.starts[1:-1])
    return [tuple(part.tolist()) for part in parts]


def by_loop(histogram: dict[int, int], window: int) -> Counter[int]:
    """Best fit decreasing as its definition says it: one document after the other."""
    made: list[list[int]] = []
    for length in sorted(histogram, reverse=True):
        for _ in range(histogram[length]):
            fits = [w for w in made if sum(w) + length <= window]
            if fits:
                max(fits, key=sum).append(length)
            else:
                made.append([length])
    return Counter(window - sum(w) for w in made)


@given(LENGTHS, st.integers(40, 100))
@settings(max_examples=100, deadline=None)
def test_windows_are_those_of_best_fit_decreasing(histogram: dict[int, int], window: int) -> None:
    """As many windows, with the same room left in them, as when documents come one by one."""
    lengths, counts = (np.array(list(v), np.int64) for v in (histogram, histogram.values()))
    found = contents(pack(lengths, counts, window), lengths)
    assert Counter(n for each in found for n in each) == histogram
    assert all(0 < sum(each) <= window for each in found)
    assert all(list(each) == sorted(each, reverse=True) for each in found)
    assert Counter(window - sum(each) for each in found) == by_loop(histogram, window)
    assert count_windows(lengths, counts, window) == len(found)
    filled = [sum(each) for each in found]
    assert filled == sorted(filled, reverse=True)


def test_the_order_of_lengths_does_not_matter() -> None:
    """The windows of a group are a function of the multiset of its lengths."""
    lengths, counts = np.array([7, 3, 11, 2]), np.array([5, 9, 4, 6])
    order = np.array([2, 0, 3, 1])
    one = contents(pack(lengths, counts, 20), lengths)
    other = contents(pack(lengths[order], counts[order], 20), lengths[order])
    assert one == other


@pytest.mark.parametrize(("window", "least"), [(8192, 0.999), (2048, 0.995), (1024, 0.99)])
def test_hardly_anything_is_padding(window: int, least: float) -> None:
    """A hundred thousand log-normal lengths: of the positions all but a fraction hold tokens."""
    drawn = np.random.default_rng(0).lognormal(5.5, 0.8, 100_000).astype(int)
    lengths, counts = np.unique(np.clip(drawn, 1, window), return_counts=True)
    tokens = int((lengths * counts).sum())
    assert tokens / (count_windows(lengths, counts, window) * window) >= least


def test_windows_of_one_length_are_made_at_once() -> None:
    """A million alike take as long as one: no loop over documents."""
    windows = pack(np.array([256]), np.array([1_000_001]), 1024)
    assert len(windows) == 250_001
    assert np.diff(windows.starts).tolist().count(1) == 1


def test_ragged_ranges() -> None:
    """Ranges one behind the other, empty ones among them."""
    found = ragged(np.array([5, 9, 0]), np.array([2, 0, 3]))
    assert found.tolist() == [5, 6, 0, 1, 2]
    assert ragged(np.empty(0, np.int64), np.empty(0, np.int64)).tolist() == []
