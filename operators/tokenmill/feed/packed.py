"""Packed windows as a batch: ids, and where the documents in them begin and end.

The boundaries come in all forms that trainers take: position ids that begin anew with each
document, segment ids for a block-diagonal mask, and the cumulative lengths of flash-attention's
variable-length kernels (Dao, arXiv 2307.08691: ``cu_seqlens``, ``max_seqlen``).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from tokenmill.feed.best_fit import ragged
from tokenmill.feed.columns import Batch, Values
from tokenmill.feed.packing import Packing
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
    stored = next((s.storage_dtype for s in streams if s.name == packing.stream), "uint8")
    ids, lengths = _flat(packing, list(batch[packing.stream]), np.dtype(stored))
    if int(counts.sum()) != len(lengths):
        raise ValueError(f"{len(lengths)} documents are not {int(counts.sum())}")
    starts = _starts(packing, lengths, counts)
    made: Batch = {packing.stream: _ids(packing, ids, starts, lengths, len(counts))}
    made |= _boundaries(packing, starts, lengths, counts)
    ends = np.cumsum(counts)[:-1]
    others = {name: values for name, values in batch.items() if name != packing.stream}
    return made | {name: _split(values, ends) for name, values in others.items()}


def _flat(
    packing: Packing, documents: Sequence[Array], stored: np.dtype[Any]
) -> tuple[Array, Rows]:
    """Return all ids with the special ones, and how many each document has."""
    ids = [np.asarray(document).ravel() for document in documents]
    special = [value for value in (packing.bos, packing.eos, packing.pad) if value is not None]
    kinds = {each.dtype for each in ids}
    dtype = np.result_type(stored, *kinds, np.min_scalar_type(max(special)))
    sizes = np.array([len(each) for each in ids], np.int64)
    lengths = sizes + packing.specials
    flat = np.empty(int(lengths.sum()), dtype)
    starts = np.cumsum(lengths) - lengths
    flat[ragged(starts + (packing.bos is not None), sizes)] = np.concatenate(ids)
    if packing.bos is not None:
        flat[starts] = packing.bos
    if packing.eos is not None:
        flat[starts + lengths - 1] = packing.eos
    if lengths.max() <= packing.length:
        return flat, lengths
    cut = np.minimum(lengths, packing.length)
    return flat[ragged(starts, cut)], cut


def _starts(packing: Packing, lengths: Rows, counts: Rows) -> Rows:
    """Return where each document begins in the windows one behind the other."""
    before = np.concatenate([[0], np.cumsum(lengths)])
    firsts = np.cumsum(counts) - counts
    used = before[firsts + counts] - before[firsts]
    if used.max() > packing.length:
        raise ValueError(f"{used.max()} ids do not fit a window of {packing.length}")
    windows = np.arange(len(counts)) * packing.length
    begins: Rows = before[:-1] + np.repeat(windows - before[firsts], counts)
    return begins


def _ids(packing: Packing, ids: Array, starts: Rows, lengths: Rows, windows: int) -> Array:
    out = np.full(windows * packing.length, packing.pad, ids.dtype)
    out[ragged(starts, lengths)] = ids
    return out.reshape(windows, packing.length)


def _boundaries(packing: Packing, starts: Rows, lengths: Rows, counts: Rows) -> Batch:
    windows, total = len(counts), len(counts) * packing.length
    ends = starts + lengths
    last = ends[np.cumsum(counts) - 1]
    rest = last[last < np.arange(1, windows + 1) * packing.length]
    # A document without a token has no segment.
    begins = np.unique(np.concatenate([starts[lengths > 0], rest]))
    cumulative = np.append(begins, total)
    sizes = np.diff(cumulative)
    segments = np.zeros(total, np.int32)
    firsts = np.cumsum(counts) - counts
    numbers = np.arange(len(starts)) - np.repeat(firsts, counts) + 1
    segments[ragged(starts, lengths)] = np.repeat(numbers, lengths)
    shape = windows, packing.length
    positions = (np.arange(total) - np.repeat(begins, sizes)).astype(np.int32)
    return {
        "position_ids": positions.reshape(shape),
        "segment_ids": segments.reshape(shape),
        "cu_seqlens": cumulative.astype(np.int32),
        "max_seqlen": np.array([sizes.max()], np.int32),
    }


def _split(values: Values, ends: Rows) -> list[Array]:
    """Return one array per window; arrays of different shapes in it as an array of objects."""
    if isinstance(values, np.ndarray):
        return np.split(values, ends)
    objects = np.empty(len(values), object)
    objects[:] = values
    return np.split(objects, ends)
