"""From the rows of a span to its batches: gather from every store, join, pack, transform."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from tokenmill.feed.columns import Batch, Values
from tokenmill.feed.draw import Draw
from tokenmill.feed.lanes import Rows
from tokenmill.feed.mapped import MappedShards
from tokenmill.feed.parts import OpenedPart, moved
from tokenmill.feed.schedule import Place, Span
from tokenmill.feed.source import Source
from tokenmill_schemas.tokens import Stream

if TYPE_CHECKING:
    from tokenmill.feed.packing import Packing

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
class Reader:
    """Reads spans of one rank; threads may share it."""

    parts: Sequence[OpenedPart]
    streams: tuple[Stream, ...]
    form: Form
    place: Place
    batch_size: int

    @classmethod
    def of(cls, source: Source, transforms: tuple[Transform, ...], place: Place) -> Reader:
        """Return the reader of a source for one rank."""
        settings, name = source.settings, source.settings.buckets
        stacked = (s.name for s in source.streams if name and name in (s.name, s.aligned_with))
        form = Form(settings.packing, tuple(stacked), transforms, settings.seed)
        return cls(source.parts, source.streams, form, place, settings.batch_size)

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
            part = slice(int(span.bounds[i]), int(span.bounds[i + 1]))
            batch: Batch = {name: values[part] for name, values in rows.items()}
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
    def late(self) -> bool:
        """Whether rows are copied from maps one batch at a time, as each is taken."""
        shards = [part.opened.shards for part in self.parts]
        return self._plain and len(shards) == 1 and isinstance(shards[0], MappedShards)

    @property
    def _plain(self) -> bool:
        return not (self.form.stacked or self.form.transforms or self._moves())

    def _moves(self) -> bool:
        return bool(self.parts[0].part.offsets)

    def _gather(self, part: int, rows: Rows, share: int) -> Any:
        opened = self.parts[part].opened
        return opened.shards.gather(*opened.plan.locate(rows), share=share)

    def _rows(self, span: Span) -> dict[str, Values]:
        """Return all rows of a span, of whichever store, as one batch."""
        if span.parts is None:
            return self._part(0, span.rows)
        where = [np.flatnonzero(span.parts == part) for part in range(len(self.parts))]
        found = [
            (places, self._part(part, span.rows[places]))
            for part, places in enumerate(where)
            if places.size
        ]
        if len(found) == 1:
            return found[0][1]
        names = found[0][1]
        return {name: _joined([(w, values[name]) for w, values in found]) for name in names}

    def _part(self, part: int, rows: Rows) -> dict[str, Values]:
        batch: dict[str, Values] = self._gather(part, rows, len(rows)).batch(0)
        return self._moved(batch, part)

    def _moved(self, batch: dict[str, Values], part: int) -> dict[str, Values]:
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


def _joined(parts: Sequence[tuple[Rows, Values]]) -> Values:
    """Return values of several stores, each to its places."""
    total = sum(len(where) for where, _ in parts)
    arrays = [values for _, values in parts]
    shapes = {a.shape[1:] if isinstance(a, np.ndarray) else None for a in arrays}
    if None in shapes or len(shapes) > 1:
        rows: list[Any] = [None] * total
        for where, values in parts:
            for place, value in zip(where.tolist(), values, strict=True):
                rows[place] = value
        return rows
    kinds = [a.dtype for a in arrays if isinstance(a, np.ndarray)]
    kind = kinds[0] if len(set(kinds)) == 1 else _common(kinds)
    out = np.empty((total, *shapes.pop()), kind)  # type: ignore[misc]  # none is None here
    for where, values in parts:
        out[where] = values
    return out


def _common(kinds: Sequence[np.dtype[Any]]) -> np.dtype[Any]:
    return np.dtype(object) if np.dtype(object) in kinds else np.result_type(*kinds)


def _stacked(values: Values) -> Values:
    return np.stack(values) if isinstance(values, list) else values
