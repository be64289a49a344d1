"""The files that a feed reads of a store: how large they are, and how much of them is asked for."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from tokenmill.feed.parts import OpenedPart
from tokenmill.feed.rows.bits import Selection
from tokenmill.feed.rows.manifest import Manifest
from tokenmill.feed.rows.plan import Plan
from tokenmill.feed.rows.sides import Sides
from tokenmill.feed.rows.sizes import open_sizes
from tokenmill.shards.columns import stored_row
from tokenmill.shards.select import read_columns, stored_layout
from tokenmill.store.groups.names import stored_names
from tokenmill.store.segments import read_segments
from tokenmill_schemas.arrow import ShardLayout, bits_per_value, is_packed
from tokenmill_schemas.snapshot import FileRef
from tokenmill_schemas.tokens import Stream

Rows = npt.NDArray[np.int64]

#: Rows and shards up to which the shapes of all samples are looked at; beyond, of some shards.
EXACT_ROWS, EXACT_SHARDS = 2**20, 256
#: Of so many manifest segments, and so many shards of each.
SAMPLED_SEGMENTS, SAMPLED_SHARDS = 4, 16
#: Rows of a filtered plan that are counted; of larger ones each shard is taken to show its share.
COUNTED_ROWS = 2**24


@dataclass(frozen=True, slots=True, eq=False)
class Files:
    """The files of one kind that a part reads: its shards, or those of a column group beside them.

    ``bytes``, ``rows`` and ``batch_rows`` are int64[shards]; a shard without a file has zeros.
    ``row_bytes`` is how much of a stored row the streams and columns take that are read.
    """

    format: str
    bytes: Rows
    rows: Rows
    batch_rows: Rows
    row_bytes: float


def open_files(part: OpenedPart, lengths: dict[str, float]) -> tuple[Files, ...]:
    """Return the files that a part reads; of streams that vary, ``lengths`` has mean positions.

    Raises:
        CorruptShardError: the manifest, or the file that tells the columns, is damaged.
    """
    opened, snapshot = part.opened, part.snapshot
    sides = Sides(part.store, snapshot, opened.samples)
    owners = sides.owners
    names = [stream.name for stream in opened.streams] + list(opened.columns)
    found = []
    if not opened.groups or any(name not in owners for name in names):
        mine = [name for name in names if name not in owners]
        facts = read_segments(part.store.storage, snapshot.segments, ["bytes", "batch_rows"])
        columns = [facts.column(name).to_numpy().astype(np.int64) for name in facts.schema.names]
        files = Files(opened.manifest.format, columns[0], opened.samples, columns[1], 0.0)
        found.append(_measured(part, files, opened.manifest, (mine, lengths)))
    for group in opened.groups:
        mine = [name for name in names if owners.get(name) == group]
        side = sides.open(group)
        sizes = [side.manifest.table.column(name) for name in ("bytes", "batch_rows")]
        columns = [c.fill_null(0).to_numpy().astype(np.int64) for c in sizes]
        files = Files(side.manifest.format, columns[0], side.manifest.samples, columns[1], 0.0)
        found.append(_measured(part, files, side.manifest, (mine, lengths)))
    return tuple(found)


def _measured(
    part: OpenedPart, files: Files, manifest: Manifest, wanted: tuple[list[str], dict[str, float]]
) -> Files:
    """Return ``files`` with what a row takes of the wanted names: of columns, in one file."""
    names, lengths = wanted
    path = manifest.path(int(np.argmax(files.rows > 0)))
    layout = stored_layout(part.store.storage, path)
    streams = [stream for stream in layout.spec.streams if stream.name in names]
    total = sum(_stream_bytes(stream, layout, lengths) for stream in streams)
    own = stored_names(layout.spec)
    columns = [name for name in names if name not in own]
    if columns:
        table = read_columns(part.store.storage, path, columns)
        total += table.nbytes / max(1, table.num_rows)
    return replace(files, row_bytes=total)


def _stream_bytes(stream: Stream, layout: ShardLayout, lengths: dict[str, float]) -> float:
    if stream.is_fixed:
        return stored_row(stream, layout.packing)[0]
    values = lengths[stream.name] * values_per_position(stream)
    bits = 8 * np.dtype(stream.storage_dtype).itemsize
    if is_packed(stream, layout.packing):
        bits = bits_per_value(stream)
    # With its place in the column, and its shape.
    return values * bits / 8 + 4 + 4 * len(stream.shape)


def values_per_position(stream: Stream) -> int:
    """Return how many values (bits, channels) one position of a stream has."""
    return math.prod(size or 1 for size in stream.shape[len(stream.axes) :])


def mean_positions(part: OpenedPart, stream: Stream) -> tuple[float, bool]:
    """Return how many positions a sample has on average, and whether all were looked at.

    Raises:
        CorruptShardError: a file of the version is missing or damaged.
    """
    if stream.is_fixed:
        return float(math.prod(size or 1 for size in stream.shape[: len(stream.axes)])), True
    plan = part.opened.plan
    if plan.rows <= EXACT_ROWS and len(plan.samples) <= EXACT_SHARDS:
        sizes = [open_sizes(part.store, part.snapshot, plan, stream)]
    else:
        sizes = [
            open_sizes(part.store, replace(part.snapshot, segments=(ref,)), some, stream)
            for ref, some in zip(*_some_shards(part), strict=True)
        ]
    total = sum(int((s.positions * s.counts).sum()) for s in sizes)
    return total / max(1, sum(s.rows for s in sizes)), sizes[0].rows == plan.rows


def _some_shards(part: OpenedPart) -> tuple[list[FileRef], list[Plan]]:
    """Return some manifest segments, and plans that show some shards of each and no others."""
    refs, samples = part.snapshot.segments, part.opened.samples
    ends = np.cumsum([ref.rows for ref in refs])
    chosen, plans = [], []
    for i in _spread(len(refs), SAMPLED_SEGMENTS):
        held = samples[ends[i] - refs[i].rows : ends[i]]
        there = np.flatnonzero(held)
        if len(there):
            mask = np.zeros(len(held), bool)
            mask[there[_spread(len(there), SAMPLED_SHARDS)]] = True
            chosen.append(refs[i])
            plans.append(Plan.of(np.where(mask, held, 0)))
    return chosen, plans


def _spread(count: int, some: int) -> list[int]:
    """Return at most ``some`` numbers below ``count``, spread over them."""
    found: list[int] = np.unique(np.linspace(0, count - 1, min(count, some)).astype(int)).tolist()
    return found


def shown_rows(plan: Plan) -> Rows:
    """Return how many rows of each shard are shown: int64[shards].

    Of filtered plans of more than `COUNTED_ROWS` it is each shard's share of all.
    """
    index = plan.index
    if not isinstance(index, Selection):
        lengths: Rows = np.diff(index.stretches.starts)
        if index.shards is None:
            return lengths
        return np.bincount(index.shards, lengths, len(plan.samples)).astype(np.int64)
    if plan.rows <= COUNTED_ROWS:
        return plan.shown_rows()
    share = plan.rows / plan.samples.sum()
    return np.asarray(np.ceil(plan.samples * share), np.int64)
