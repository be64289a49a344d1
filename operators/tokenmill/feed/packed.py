"""Packed windows as a batch: ids, and where the documents in them begin and end.

The boundaries come in all forms that trainers take: position ids that begin anew with each
document, segment ids for a block-diagonal mask, and the cumulative lengths of flash-attention's
variable-length kernels (Dao, arXiv 2307.08691: ``cu_seqlens``, ``max_seqlen``).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt

from tokenmill.feed.columns import Batch, Values
from tokenmill.feed.sequence.packing import Packing
from tokenmill_schemas.errors import JobError
from tokenmill_schemas.tokens import Stream

Array = npt.NDArray[Any]
Rows = npt.NDArray[np.int64]

#: What a packed batch has besides the ids.
NAMES = ("position_ids", "segment_ids", "cu_seqlens", "max_seqlen")


def collate(batch: Batch, counts: Rows, packing: Packing, streams: Sequence[Stream] = ()) -> Batch:
    """Return documents as windows: one batch with an entry for each window.

    Args:
        batch: Streams and columns with an entry for each document, one window's behind the
            other's; the packed stream's ids are flattened in C order.
        counts: How many documents each window has: int64[windows].
        packing: The window's length and special ids.
        streams: What the store says of its streams; ids then have at least the stored type.

    Returns:
        The ids under the stream's name, ``unsigned[windows, length]`` in the narrowest type that
        holds the special ids too; ``position_ids`` ``int32[windows, length]``, from 0 in each
        document; ``segment_ids`` ``int32[windows, length]``, from 1 in each window, 0 where there
        is padding; ``cu_seqlens`` ``int32[segments + 1]``, where documents begin in the windows
        one behind the other, and where the last ends; ``max_seqlen`` ``int32[1]``, the longest.
        What is left of a window counts as one more segment there, so that boundaries cover all
        positions, and begins with position id 0. Of anything else a list with one array per window.

    Raises:
        JobError: a column has the name of an output.
        ValueError: documents do not fit their window, or their numbers do not agree.
    """
    taken = [name for name in batch if name in NAMES]
    if taken:
        raise JobError(f"{taken[0]!r} is a name that packed batches use", path="feed.columns")
    documents = [np.asarray(document).ravel() for document in batch[packing.stream]]
    if int(counts.sum()) != len(documents):
        raise ValueError(f"{len(documents)} documents are not {int(counts.sum())}")
    lengths = np.array([len(document) for document in documents], np.int64) + packing.specials
    long, lengths = lengths > packing.length, np.minimum(lengths, packing.length)
    left = _left(packing, lengths, counts)
    dtype = _dtype(packing, documents, streams)
    pieces = _pieces(packing, documents, np.flatnonzero(long), dtype)
    padding = np.full(int(left.max()), packing.pad, dtype)
    ids = _joined(pieces, counts, left, padding)
    made: Batch = {packing.stream: ids.reshape(len(counts), packing.length)}
    made |= _boundaries(packing, lengths, counts, left)
    ends = np.cumsum(counts)[:-1]
    others = {name: values for name, values in batch.items() if name != packing.stream}
    return made | {name: _split(values, ends) for name, values in others.items()}


def _left(packing: Packing, lengths: Rows, counts: Rows) -> Rows:
    """Return how much of each window is padding."""
    before, ends = np.concatenate([[0], np.cumsum(lengths)]), np.cumsum(counts)
    left: Rows = packing.length - (before[ends] - before[ends - counts])
    if left.min() < 0:
        raise ValueError(
            f"{packing.length - left.min()} ids do not fit a window of {packing.length}"
        )
    return left


def _dtype(
    packing: Packing, documents: Sequence[Array], streams: Sequence[Stream]
) -> np.dtype[Any]:
    """Return the narrowest type of stored, given and special ids, whether those occur or not."""
    stored = next((s.storage_dtype for s in streams if s.name == packing.stream), "uint8")
    special = [value for value in (packing.bos, packing.eos, packing.pad) if value is not None]
    given = {document.dtype for document in documents}
    found: np.dtype[Any] = np.result_type(stored, np.min_scalar_type(max(special)), *given)
    return found


def _pieces(
    packing: Packing, documents: list[Array], long: Rows, dtype: np.dtype[Any]
) -> list[tuple[Array, ...]]:
    """Return what each document consists of: special ids and its own; ``long`` ones are cut."""
    specials = (packing.bos, packing.eos)
    bos, eos = (() if value is None else (np.array([value], dtype),) for value in specials)
    made: list[tuple[Array, ...]] = [(*bos, document, *eos) for document in documents]
    for i in long.tolist():
        made[i] = (*bos, documents[i][: packing.length - len(bos)])
    return made


def _joined(pieces: list[tuple[Array, ...]], counts: Rows, left: Rows, padding: Array) -> Array:
    """Return the ids of all windows; each is copied once, document by document."""
    parts: list[Array] = []
    start = 0
    for count, rest in zip(counts.tolist(), left.tolist(), strict=True):
        parts += chain.from_iterable(pieces[start : start + count])
        parts.append(padding[:rest])
        start += count
    return np.concatenate(parts, dtype=padding.dtype)


def _boundaries(packing: Packing, lengths: Rows, counts: Rows, left: Rows) -> Batch:
    windows = len(counts)
    # Behind the documents of each window comes what is left of it: a segment of number 0.
    behind = np.cumsum(counts)
    sizes = np.insert(lengths, behind, left)
    numbers = np.arange(len(lengths)) - np.repeat(behind - counts, counts) + 1
    numbers = np.insert(numbers, behind, 0)
    sizes, numbers = sizes[sizes > 0], numbers[sizes > 0]
    bounds = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int32)
    positions = np.arange(windows * packing.length, dtype=np.int32)
    positions -= np.repeat(bounds[:-1], sizes)
    segments = np.repeat(numbers.astype(np.int32), sizes)
    return {
        "position_ids": positions.reshape(windows, packing.length),
        "segment_ids": segments.reshape(windows, packing.length),
        "cu_seqlens": bounds,
        "max_seqlen": np.array([sizes.max()], np.int32),
    }


def _split(values: Values, ends: Rows) -> list[Array]:
    """Return one array per window; arrays of different shapes in it as an array of objects."""
    if isinstance(values, np.ndarray):
        return np.split(values, ends)
    objects = np.empty(len(values), object)
    for place, value in enumerate(values):  # at once, arrays of one shape would be made one
        objects[place] = value
    return np.split(objects, ends)
