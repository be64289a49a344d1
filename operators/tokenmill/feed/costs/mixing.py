"""How well a feed shuffles: what a batch has of shards, blocks and classes, on sampled steps.

The measure of a shuffle that does not read at random is how near its batches come to those of one
that does: of B samples of N, of which n[k] are of kind k, a full shuffle expects
``sum(1 - C(N - n[k], B) / C(N, B))`` distinct kinds (Hurlbert's rarefaction, 1971), which for large
N is ``sum(1 - (1 - n[k] / N) ** B)``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tokenmill.feed.costs.files import shown_rows
from tokenmill.feed.feed import Feed
from tokenmill.feed.parts import OpenedPart
from tokenmill.feed.sequence.order import BLOCK_ROWS
from tokenmill.feed.sequence.schedule import Place
from tokenmill.feed.values import values_of
from tokenmill_schemas.errors import JobError

Rows = npt.NDArray[np.int64]

#: Sampled steps of packed windows that follow each other, for those are made a group at a time.
RUN_STEPS = 4
#: Samples that are looked at, about.
ROWS = 2**18
#: Sampled steps whose classes are read from an object store.
REMOTE_STEPS = 4
_PART = 40


@dataclass(frozen=True, slots=True)
class Distinct:
    """Distinct kinds in a batch: the mean of the sampled steps, and what a full shuffle expects."""

    mean: float
    full: float
    kinds: int


@dataclass(frozen=True, slots=True, eq=False)
class Step:
    """The samples of a step's global batch: the part and the logical row of each."""

    parts: Rows
    rows: Rows


def sample_steps(feed: Feed, count: int) -> list[Step]:
    """Return about ``count`` steps, spread over the feed's first epoch."""
    count = min(count, max(RUN_STEPS, ROWS // feed.settings.batch_size))
    total, run = len(feed), 1 if feed.settings.packing is None else RUN_STEPS
    runs = max(1, min(count, total) // run)
    starts = np.unique(np.linspace(0, max(0, total - run), runs).astype(np.int64))
    found = []
    for start in starts.tolist():
        span = feed.source.schedule.span(range(start, min(start + run, total)), Place(0, 1))
        parts = np.zeros(len(span.rows), np.int64) if span.parts is None else span.parts
        for i in range(span.steps):
            mine = slice(int(span.bounds[i]), int(span.bounds[i + 1]))
            found.append(Step(parts[mine], span.rows[mine]))
    return found


def distinct_shards(steps: Sequence[Step], parts: Sequence[OpenedPart]) -> Distinct:
    """Return how many shards a batch has samples of."""

    def shard_of(part: int, rows: Rows) -> Rows:
        return parts[part].opened.plan.locate(rows)[0]

    shown = [shown_rows(part.opened.plan) for part in parts]
    return _distinct(steps, shard_of, shown)


def distinct_blocks(steps: Sequence[Step], parts: Sequence[OpenedPart]) -> Distinct:
    """Return how many blocks of 256 neighbouring samples a batch has samples of."""
    counts = [part.opened.plan.rows for part in parts]
    sizes = []
    for rows in counts:
        full = np.full(-(-rows // BLOCK_ROWS), BLOCK_ROWS, np.int64)
        full[-1:] -= -rows % BLOCK_ROWS
        sizes.append(full)
    return _distinct(steps, lambda _, rows: rows // BLOCK_ROWS, sizes)


def distinct_classes(steps: Sequence[Step], parts: Sequence[OpenedPart], column: str) -> Distinct:
    """Return how many values of a column a batch has, by the sampled steps alone.

    Samples without a value, as a column group may leave them, are not counted.

    Raises:
        JobError: there is no such column, or its values are lists.
    """
    values = [_values(steps, i, part, column) for i, part in enumerate(parts)]
    codes = pa.concat_arrays(values).dictionary_encode().indices
    numbers = codes.fill_null(-1).to_numpy(zero_copy_only=False)
    places = np.concatenate([_places(steps, i) for i in range(len(parts))])
    known = numbers >= 0
    places, numbers = places[known], numbers[known].astype(np.int64)
    if not len(numbers):
        return Distinct(0.0, 0.0, 0)
    found = len(np.unique(places << _PART | numbers)) / len(steps)
    histogram = np.bincount(numbers)
    return Distinct(found, expected([histogram], [len(numbers) / len(steps)]), len(histogram))


def expected(counts: Sequence[Rows], draws: Sequence[float]) -> float:
    """Return the distinct kinds that a full shuffle expects in a batch.

    Args:
        counts: How many samples there are of each kind, a list for every part.
        draws: How many samples a batch has of each part.
    """
    return sum(_rarefied(part, drawn) for part, drawn in zip(counts, draws, strict=True))


def _rarefied(counts: Rows, draws: float) -> float:
    """Return the distinct kinds among ``draws`` samples of those that there are."""
    total = int(counts.sum())
    draws = min(draws, total)
    sizes, times = np.unique(counts[counts > 0], return_counts=True)
    found = 0.0
    for size, kinds in zip(sizes.tolist(), times.tolist(), strict=True):
        missed = 0.0
        if size <= total - draws:
            ratio = _log_ways(total - size, draws) - _log_ways(total, draws)
            missed = math.exp(ratio)
        found += kinds * (1.0 - missed)
    return found


def _log_ways(total: int, draws: float) -> float:
    """Return the logarithm of the ways to draw so many of ``total``, in order."""
    return math.lgamma(total + 1) - math.lgamma(total - draws + 1)


def _distinct(
    steps: Sequence[Step], kind_of: Callable[[int, Rows], Rows], counts: Sequence[Rows]
) -> Distinct:
    found = 0
    for step in steps:
        for part in np.unique(step.parts).tolist():
            found += len(np.unique(kind_of(part, step.rows[step.parts == part])))
    draws = [sum(int((s.parts == part).sum()) for s in steps) for part in range(len(counts))]
    full = expected(counts, [drawn / len(steps) for drawn in draws])
    return Distinct(found / len(steps), full, sum(int((c > 0).sum()) for c in counts))


def _places(steps: Sequence[Step], part: int) -> Rows:
    """Return the place in ``steps`` of each sample of a part."""
    counts = [int((step.parts == part).sum()) for step in steps]
    return np.repeat(np.arange(len(steps)), counts)


def _values(steps: Sequence[Step], index: int, part: OpenedPart, column: str) -> pa.Array:
    """Return the column's values of a part's samples, as text; null where there is none."""
    rows = np.concatenate([step.rows[step.parts == index] for step in steps])
    array = values_of(part, rows, [column]).column(column).combine_chunks()
    if pa.types.is_nested(array.type):
        raise JobError(f"{column!r} has lists: a class is one value", path="estimate.classes")
    return array.cast(pa.string())
