"""The entropy of a unit's ids in groups of equally many samples: the sums that a receipt keeps.

A stream of several books counts ids of each apart, and gives the mean over the books; a binary code
has the sum of its bits' own entropies, an upper bound. Latents have none.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from tokenmill_schemas.entropy import GROUPS, EntropySums
from tokenmill_schemas.tokens import Stream, TokenSpec

#: Ids, or bits, that are looked at in one go: a long unit needs no copies of all its tokens.
AT_ONCE = 2**20

Ids = npt.NDArray[Any]
Figures = tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]


def entropy_sums(spec: TokenSpec, tokens: Mapping[str, Any]) -> EntropySums:
    """Return the sums of a unit, whose ``tokens`` are in the order of its rows.

    ``tokens`` has for each stream an array ``[B, *stream shape]``, or a list of B arrays. Of each
    size only whole groups count; a sample without ids is none.
    """
    sums: EntropySums = {}
    for stream in spec.streams:
        if stream.kind == "float":
            continue
        samples = [rows for rows in _samples(tokens[stream.name]) if 0 not in rows.shape[1:]]
        sizes = {str(size): _sums(stream, samples, size) for size in GROUPS}
        found = {size: kept for size, kept in sizes.items() if kept["groups"]}
        if found:
            sums[stream.name] = found
    return sums


def _samples(values: Any) -> list[Ids]:
    """Return arrays of samples of one shape each, with a leading axis, in order."""
    if isinstance(values, np.ndarray) and values.dtype != object:
        return [values]
    return [np.asarray(value)[None] for value in values]


def _sums(stream: Stream, samples: Sequence[Ids], size: int) -> dict[str, int]:
    figures = _bit_figures if stream.kind == "bits" else _id_figures
    groups = millibits = squares = ids = 0
    for block in _blocks(samples, size, _entry(stream)):
        entropies, distinct = figures(stream, block)
        groups += len(block)
        millibits += int(entropies.sum())
        squares += int((entropies**2).sum())
        ids += int(distinct.sum())
    return {"groups": groups, "millibits": millibits, "squares": squares, "ids": ids}


def _entry(stream: Stream) -> int:
    """Return the length of the last axis where its entries are not alike: bits, or books."""
    return stream.width_bits if stream.kind == "bits" else len(stream.vocab_sizes)


def _blocks(samples: Sequence[Ids], size: int, entry: int) -> Iterator[Ids]:
    """Yield arrays ``[G, positions, entry]`` of whole groups."""
    if len(samples) == 1:
        rows, count = samples[0], len(samples[0]) // size
        groups = rows[: count * size].reshape(
            count, size * math.prod(rows.shape[1:]) // entry, entry
        )
        step = max(1, AT_ONCE // math.prod(groups.shape[1:]))
        yield from (groups[at : at + step] for at in range(0, len(groups), step))
        return
    for at in range(0, len(samples) - size + 1, size):
        parts = [rows.reshape(-1, entry) for rows in samples[at : at + size]]
        yield np.concatenate(parts)[None]


def _id_figures(stream: Stream, groups: Ids) -> Figures:
    """Return thousandths of a bit per id, and different ids, of groups ``[G, positions, books]``.

    Every book has the same share of the ids, so the share's own entropy is taken off.
    """
    books = stream.vocab_sizes
    if len(books) > 1:
        groups = groups.astype(np.int64) + np.concatenate([[0], np.cumsum(books[:-1])])
    rows = groups.reshape(len(groups), -1)
    # Numpy's stable sort is a radix sort for ids of 16 bits, and slow for wider ones.
    rows = np.sort(rows, axis=1, kind="stable" if rows.dtype.itemsize <= 2 else None)
    first = np.ones(rows.shape, np.bool_)
    np.not_equal(rows[:, 1:], rows[:, :-1], out=first[:, 1:])
    runs = np.diff(np.flatnonzero(first), append=rows.size)
    distinct = first.sum(axis=1)
    ends = np.cumsum(distinct)
    table = np.arange(int(runs.max(initial=0)) + 1, dtype=np.float64)
    table[1:] *= np.log2(table[1:])
    shared = np.add.reduceat(table[runs], ends - distinct) / rows.shape[1]
    return _millibits(np.log2(rows.shape[1]) - shared - np.log2(len(books))), distinct


def _bit_figures(stream: Stream, groups: Ids) -> Figures:
    """Return thousandths of a bit per code of groups ``[G, positions, bits]`` of zeros and ones."""
    del stream
    means = groups.mean(axis=1, dtype=np.float64)
    tiny = np.finfo(np.float64).tiny  # 0 log 0 is 0
    ones, zeros = np.maximum(means, tiny), np.maximum(1 - means, tiny)
    bits = -(means * np.log2(ones) + (1 - means) * np.log2(zeros)).sum(axis=-1)
    return _millibits(bits), np.zeros(len(groups), np.int64)


def _millibits(bits: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    rounded: npt.NDArray[np.int64] = np.rint(1000 * np.maximum(bits, 0)).astype(np.int64)
    return rounded
