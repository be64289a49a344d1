"""Best fit decreasing on a histogram of lengths: which lengths go together into a window.

Longest samples first, each goes into the fullest window that it fits (Ding et al., "Fewer
Truncations Improve Language Modeling", arXiv 2404.10830; OLMo-core and Grain pack so too). What
comes of it depends on how many samples of each length there are and not on which ones they are, so
it is done on the histogram (as Krell et al., arXiv 2107.02027, do).
"""

from __future__ import annotations

from bisect import bisect_left, insort
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Rows = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Windows:
    """Windows of one group of samples, as places for samples of a length.

    ``starts`` (int64[windows + 1]) has the first place of each window, ``places`` (int64[places])
    the length that belongs there, as its number among the lengths that were packed.
    """

    starts: Rows
    places: Rows

    def __len__(self) -> int:
        return len(self.starts) - 1


def pack(lengths: Rows, counts: Rows, window: int) -> Windows:
    """Return windows that hold ``counts`` samples of each of ``lengths``, fullest first.

    Windows that are alike are handled together: it takes time for every pair of a length and a
    room that is left where it fits, not for every sample.

    Args:
        lengths: Distinct lengths, in ``[1, window]``, in any order.
        counts: How many samples have each.
        window: The length of a window.
    """
    return _listed(_patterns(lengths, counts, window))


def count_windows(lengths: Rows, counts: Rows, window: int) -> int:
    """Return the number of windows that `pack` makes."""
    return sum(count for _, count in _patterns(lengths, counts, window))


#: What is in a window: a length's number, how often, and what went in before; None: nothing.
_Content = tuple[int, int, "_Content | None"]


def _patterns(lengths: Rows, counts: Rows, window: int) -> list[tuple[_Content, int]]:
    """Return contents and how many windows have each, those with the least room left first."""
    order = np.argsort(lengths)[::-1]
    rooms: list[int] = []  # those that windows are left with, ascending
    held: dict[int, list[tuple[_Content, int]]] = {}
    left = zip(order.tolist(), lengths[order].tolist(), counts[order].tolist(), strict=True)
    for number, length, count in left:
        while count:
            at = bisect_left(rooms, length)
            if at < len(rooms):
                room = rooms[at]
                content, windows = held[room].pop()
                if not held[room]:
                    del held[room], rooms[at]
            else:
                room, content = window, None
                windows = -(-count // (window // length))
            times = room // length
            whole = min(windows, count // times)
            takes = [(times, whole)] if whole else []
            if whole < windows and count > whole * times:
                takes.append((count - whole * times, 1))
            for each, many in takes:
                _keep(rooms, held, room - each * length, ((number, each, content), many))
                count -= each * many
                windows -= many
            if windows and content is not None:
                _keep(rooms, held, room, (content, windows))
    return [entry for room in rooms for entry in held[room]]


def _keep(
    rooms: list[int],
    held: dict[int, list[tuple[_Content, int]]],
    room: int,
    entry: tuple[_Content, int],
) -> None:
    if room in held:
        held[room].append(entry)
    else:
        held[room] = [entry]
        insort(rooms, room)


def _listed(patterns: list[tuple[_Content, int]]) -> Windows:
    numbers: list[int] = []
    times: list[int] = []
    ends = [0]
    for content, _ in patterns:
        step: _Content | None = content
        first = len(numbers)
        while step is not None:
            number, each, step = step
            numbers.append(number)
            times.append(each)
        numbers[first:] = reversed(numbers[first:])
        times[first:] = reversed(times[first:])
        ends.append(len(numbers))
    repeats = np.array(times, np.int64)
    filled = np.concatenate([[0], np.cumsum(repeats)])[ends]
    which = np.repeat(np.arange(len(patterns)), [count for _, count in patterns])
    sizes = np.diff(filled)[which]
    places = np.repeat(np.array(numbers, np.int64), repeats)[ragged(filled[:-1][which], sizes)]
    return Windows(np.concatenate([[0], np.cumsum(sizes)]), places)


def ragged(starts: Rows, counts: Rows) -> Rows:
    """Return ``starts[i], starts[i] + 1, ...``, ``counts[i]`` of them, one i after the other."""
    ends = np.cumsum(counts)
    total = int(ends[-1]) if len(ends) else 0
    found: Rows = np.repeat(starts - (ends - counts), counts) + np.arange(total)
    return found
