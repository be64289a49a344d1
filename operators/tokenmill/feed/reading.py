"""From the rows of a span to its batches: gather from every store, join, pack, transform."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from tokenmill.feed.columns import Batch, Chunk, Values, to_numpy
from tokenmill.feed.parts import OpenedPart, merged_columns, moved
from tokenmill.feed.rows.opening import RemoteShards
from tokenmill.feed.sequence.draw import Draw
from tokenmill.feed.sequence.lanes import Rows
from tokenmill.feed.sequence.schedule import Place, Span
from tokenmill.feed.shards.mapped import MappedShards
from tokenmill.feed.source import Source
from tokenmill_schemas.tokens import Stream

if TYPE_CHECKING:
    from tokenmill.feed.sequence.packing import Packing

#: Makes another batch of one; see `tokenmill.feed.shaping`.
Transform = Callable[[Batch, Draw], Batch]


@dataclass(frozen=True, slots=True)
class Form:
    """What becomes of a step's rows: packed, stacked (streams of one shape), and transformed."""

    packing: Packing | None = None
    stacked: tuple[str, ...] = ()
    transforms: tuple[Transform, ...] = ()
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Gathered:
    """Rows of some steps, of whichever stores.

    What a batch of them looks like depends on the batch alone and not on what was gathered with it:
    streams whose shapes vary between stores are lists, and columns become numpy arrays a batch at a
    time, for their type then depends on whether there are nulls.
    """

    streams: dict[str, Values]
    columns: dict[str, pa.Array]

    def batch(self, start: int, end: int) -> Batch:
        """Return the rows from ``start`` to ``end``."""
        made: Batch = {name: values[start:end] for name, values in self.streams.items()}
        for name, array in self.columns.items():
            made[name] = to_numpy(array.slice(start, end - start))
        return made


@dataclass(frozen=True, slots=True)
class Reader:
    """Reads spans of one rank; threads may share it."""

    parts: Sequence[OpenedPart]
    streams: tuple[Stream, ...]
    columns: dict[str, pa.DataType]
    form: Form
    place: Place
    batch_size: int

    @classmethod
    def of(cls, source: Source, transforms: tuple[Transform, ...], place: Place) -> Reader:
        """Return the reader of a source for one rank."""
        settings, name = source.settings, source.settings.buckets
        stacked = (s.name for s in source.streams if name and name in (s.name, s.aligned_with))
        form = Form(settings.packing, tuple(stacked), transforms, settings.seed)
        columns = merged_columns(source.parts)
        return cls(source.parts, source.streams, columns, form, place, settings.batch_size)

    def read(self, span: Span) -> list[Batch] | Steps:
        """Return the batches of a span's steps, in order.

        Raises:
            CorruptShardError: a shard is missing or not what was committed.
        """
        share = self.batch_size // self.place.world_size
        if span.parts is None and span.windows is None:
            chunk = self._gather(0, span.rows, share)
            if self._plain:
                return Steps(chunk.batch, span.steps)
            return [self._finished(chunk.batch(i), span.step(i)) for i in range(span.steps)]
        rows = self._rows(span)
        batches = []
        for i in range(span.steps):
            batch = rows.batch(int(span.bounds[i]), int(span.bounds[i + 1]))
            if self.form.packing is not None and span.windows is not None:
                from tokenmill.feed.packed import collate

                counts = span.windows[i * share : (i + 1) * share]
                batch = collate(batch, counts, self.form.packing, self.streams)
            batches.append(self._finished(batch, span.step(i)))
        return batches

    def reset(self) -> None:
        """Forget every open file and lock, after a fork."""
        for part in self.parts:
            part.opened.shards.reset()

    @property
    def is_remote(self) -> bool:
        """Whether any store must be fetched from elsewhere."""
        return any(isinstance(part.opened.shards, RemoteShards) for part in self.parts)

    def ahead(self, span: Span) -> None:
        """Begin to fetch what a span needs, where that takes time; does not wait."""
        for number, part in enumerate(self.parts):
            rows = span.rows if span.parts is None else span.rows[span.parts == number]
            if len(rows) and isinstance(part.opened.shards, RemoteShards):
                part.opened.shards.ahead(*part.opened.plan.locate(rows))

    @property
    def late(self) -> bool:
        """Whether rows are copied from maps one batch at a time, as each is taken."""
        shards = [part.opened.shards for part in self.parts]
        return self._plain and len(shards) == 1 and isinstance(shards[0], MappedShards)

    @property
    def _plain(self) -> bool:
        return not (self.form.stacked or self.form.transforms or self._moves())

    def _moves(self) -> bool:
        return bool(self.parts[0].part.offsets)

    def _gather(self, part: int, rows: Rows, share: int) -> Chunk:
        opened = self.parts[part].opened
        return opened.shards.gather(*opened.plan.locate(rows), share=share)

    def _rows(self, span: Span) -> Gathered:
        """Return all rows of a span, of whichever store."""
        if span.parts is None:
            return self._part(0, span.rows)
        there = np.unique(span.parts).tolist()
        where = {part: np.flatnonzero(span.parts == part) for part in there}
        found = [self._part(part, span.rows[places]) for part, places in where.items()]
        if len(found) == 1:
            return found[0]
        order = np.concatenate(list(where.values()))
        streams = {
            stream.name: _laid(order, [some.streams[stream.name] for some in found])
            for stream in self.streams
        }
        back = pa.array(np.argsort(order))
        columns = {
            name: pa.concat_arrays([some.columns[name] for some in found]).take(back)
            for name in self.columns
        }
        return Gathered(streams, columns)

    def _part(self, part: int, rows: Rows) -> Gathered:
        chunk = self._gather(part, rows, len(rows))
        streams: Batch = {s.name: chunk.streams[s.name][0] for s in self.streams}
        streams = self._moved(streams, part)
        for stream in self.streams:
            if not stream.is_fixed:
                streams[stream.name] = list(streams[stream.name])
        columns = {name: chunk.columns[name].cast(kind) for name, kind in self.columns.items()}
        return Gathered(streams, columns)

    def _moved(self, batch: Batch, part: int) -> Batch:
        offsets = self.parts[part].part.offsets
        for stream in self.streams:
            if stream.kind == "index" and (len(self.parts) > 1 or offsets):
                offset, dtype = offsets.get(stream.name, 0), stream.storage_dtype
                batch = {**batch, stream.name: moved(batch[stream.name], offset, dtype)}
        return batch

    def _finished(self, batch: Batch, step: int) -> Batch:
        if self._moves() and len(self.parts) == 1 and self.form.packing is None:
            batch = self._moved(batch, 0)
        if self.form.stacked:
            batch = {**batch, **{name: _stacked(batch[name]) for name in self.form.stacked}}
        share = self.batch_size // self.place.world_size
        draw = Draw(self.form.seed, step, self.place.rank * share, share)
        for transform in self.form.transforms:
            batch = transform(batch, draw)
        return batch


class Steps:
    """Batches that are made when they are asked for."""

    __slots__ = ("_count", "_make")

    def __init__(self, make: Callable[[int], Batch], count: int) -> None:
        self._make, self._count = make, count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> Batch:
        return self._make(index)


def _laid(order: Rows, parts: Sequence[Values]) -> Values:
    """Return values of several stores as one: the i-th of them all at place ``order[i]``."""
    arrays = [values for values in parts if isinstance(values, np.ndarray)]
    if len(arrays) == len(parts):
        out = np.empty((len(order), *arrays[0].shape[1:]), arrays[0].dtype)
        start = 0
        for array in arrays:
            out[order[start : start + len(array)]] = array
            start += len(array)
        return out
    rows = [value for values in parts for value in values]
    return [rows[i] for i in np.argsort(order).tolist()]


def _stacked(values: Values) -> Values:
    return np.stack(values) if isinstance(values, list) else values
