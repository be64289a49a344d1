from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenmill.views.timing import Lengths, as_lengths, as_rate, nearest
from tokenmill_schemas.errors import AssetError, Reason

MILLISECONDS = Fraction(1, 1000)


@dataclass(frozen=True)
class At:
    """A frame that is nothing but its time."""

    pts: int


def chosen(times: list[int], fps: float, time_base: Fraction = MILLISECONDS) -> list[int]:
    """Return the time of the frame that each output time gets."""
    frames = nearest((At(t) for t in times), as_rate(fps), time_base)
    return [frame.pts for frame, count in frames for _ in range(count)]


def by_brute_force(times: list[int], fps: float, time_base: Fraction) -> list[int]:
    """Return the same by comparing all output times with all frames."""
    rate = as_rate(fps)
    last = (times[-1] - times[0]) * time_base + Fraction(1, 1000)
    result, k = [], 0
    while k / rate <= last:
        wanted = times[0] * time_base + k / rate
        result.append(min(times, key=lambda t: abs(t * time_base - wanted)))
        k += 1
    return result


rising = st.lists(st.integers(1, 120), max_size=25)
starts = st.integers(-1000, 1000)
rates = st.sampled_from([0.5, 1.0, 7.0, 8.0, 12.5, 23.976, 24.0, 29.97, 30.0])
bases = st.sampled_from([Fraction(1, 1000), Fraction(1, 90), Fraction(1001, 30000), Fraction(1, 7)])


@given(starts, rising, rates, bases)
@settings(max_examples=60, deadline=None)
def test_the_nearest_frame_is_the_nearest(
    start: int, gaps: list[int], fps: float, time_base: Fraction
) -> None:
    """Whatever the gaps, every output time gets the frame that a search over all frames finds."""
    times = [start]
    for gap in gaps:
        times.append(times[-1] + gap)
    result = chosen(times, fps, time_base)
    assert result == by_brute_force(times, fps, time_base)
    assert result == sorted(result)
    assert result[0] == start


@given(rising, rates, st.integers(-(10**9), 10**9))
def test_the_start_of_time_does_not_matter(gaps: list[int], fps: float, shift: int) -> None:
    """Times are counted from the first frame: moving them all moves what is chosen."""
    times = [0]
    for gap in gaps:
        times.append(times[-1] + gap)
    assert [t + shift for t in chosen(times, fps)] == chosen([t + shift for t in times], fps)


@given(rising, rates)
def test_only_one_frame_is_asked_for_ahead(gaps: list[int], fps: float) -> None:
    """When a frame is yielded, no more than the one after it has been taken from the source."""
    taken: list[int] = []

    def source() -> Iterator[At]:
        time = 0
        for gap in [*gaps, 0]:
            taken.append(time)
            yield At(time)
            time += gap

    for frame, _ in nearest(source(), as_rate(fps), MILLISECONDS):
        assert taken.index(frame.pts) >= len(taken) - 2


@pytest.mark.parametrize(
    ("source", "fps", "frames", "count"),
    [(30, 30.0, 100, 100), (30, 15.0, 100, 50), (30, 10.0, 91, 31), (24, 8.0, 48, 16),
     (25, 24.0, 25, 24), (10, 30.0, 10, 28), (60, 0.5, 601, 6), (30, 29.97, 300, 299)],
)  # fmt: skip
def test_how_many_output_times_there_are(source: int, fps: float, frames: int, count: int) -> None:
    """As many as fit between the first and the last frame, in exact times and in rounded ones."""
    exact = list(range(frames))
    rounded = [round(1000 * i / source) for i in range(frames)]
    assert len(chosen(exact, fps, Fraction(1, source))) == count
    assert len(chosen(rounded, fps)) == count


def test_rounding_to_milliseconds_chooses_the_same_frames() -> None:
    """At rates that divide the source's, a container of whole milliseconds makes no difference."""
    for source, fps in ((30, 30.0), (30, 15.0), (30, 10.0), (24, 8.0), (60, 12.0)):
        frames = range(200)
        exact = chosen(list(frames), fps, Fraction(1, source))
        rounded = [round(1000 * i / source) for i in frames]
        assert [rounded.index(t) for t in chosen(rounded, fps)] == exact


def test_ties_go_to_the_earlier_frame() -> None:
    """Output times 0, 50, 100, ... ms between frames 0, 100, 200."""
    assert chosen([0, 100, 200], 20.0) == [0, 0, 100, 100, 200]


def test_broken_times_are_not_filled_with_copies() -> None:
    """A jump of a day, as broken streams have, would repeat a frame two million times."""
    with pytest.raises(AssetError, match=r"jump by 95443\.7 s after 0\.040 s") as caught:
        chosen([0, 40, 95_443_757], 24.0)
    assert caught.value.reason is Reason.CORRUPT
    assert len(chosen([0, 40, 600_040], 1.0)) == 601


def test_no_frames_give_no_output() -> None:
    """And a single one gives one."""
    assert chosen([], 8.0) == []
    assert chosen([77], 8.0) == [77]


@given(st.integers(1, 30), st.integers(1, 30), st.integers(0, 200))
def test_lengths_go_down_and_up_to_what_is_allowed(first: int, step: int, frames: int) -> None:
    """By listing what a rule allows."""
    allowed = list(range(first, 400, step))
    lengths = Lengths(first, step)
    assert lengths.down(frames) == max((n for n in allowed if n <= frames), default=0)
    assert lengths.up(frames) == min(n for n in allowed if n >= frames)


def test_rules_for_lengths() -> None:
    """The rules of causal tokenizers and of those that take groups."""
    assert as_lengths("any") == Lengths(1, 1)
    assert as_lengths("1+8k") == Lengths(1, 8)
    assert as_lengths("16k") == Lengths(16, 16)
    for wrong in ("", "k", "8", "1+k", "1 + 8k", "0k", "0+4k", "1+0k", "-1+4k", "4k+1", "1025k"):
        with pytest.raises(ValueError, match="frames_rule is 'any', 'bk' or"):
            as_lengths(wrong)
