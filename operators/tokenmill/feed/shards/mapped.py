"""Arrow shards behind memory maps: any rows of any shards, in any order, in one gather.

What is open lies in flat arrays: per shard its buffer and its first record batch, per record batch
where each stream begins. A row's address then is arithmetic on whole arrays.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tokenmill.feed.columns import Batches, Chunk, Projection, Values
from tokenmill.feed.shards.files import ShardFiles
from tokenmill.feed.shards.gather import AddressSpan
from tokenmill.shards.arrow import ArrowShardReader
from tokenmill.shards.columns import decode_stream, stored_row
from tokenmill.shards.packing import narrowest, unpack
from tokenmill_schemas.arrow import Packing, bits_per_value, is_packed, values_per_sample
from tokenmill_schemas.errors import CorruptShardError
from tokenmill_schemas.tokens import Stream

Rows = npt.NDArray[np.int64]

#: Shards that stay mapped. A map costs address space and a few kilobytes, not memory.
OPEN_SHARDS = 4096
#: Packed values that are copied and unpacked at once.
UNPACKED_VALUES = 1 << 17


@dataclass(frozen=True, slots=True)
class _Open:
    """One mapped shard: the address of each stream in each batch, and its other columns."""

    shard: int
    buffer: pa.Buffer
    batch_rows: int
    starts: dict[str, Rows]
    batches: list[pa.RecordBatch | None]
    columns: ArrowShardReader | None


@dataclass(frozen=True, slots=True)
class _Form:
    """How a row of a fixed-shape stream is stored, and what it becomes.

    ``bits`` are those of a packed value, 0 where values are stored as they are.
    """

    row_bytes: int
    stored: np.dtype[Any]
    shape: tuple[int, ...]
    values: int
    bits: int
    out: np.dtype[Any]

    @classmethod
    def of(cls, stream: Stream, packing: Packing) -> _Form:
        row_bytes, stored = stored_row(stream, packing)
        shape = tuple(size or 0 for size in stream.shape)
        bits = bits_per_value(stream) if is_packed(stream, packing) else 0
        values = values_per_sample(stream) or 0
        return cls(row_bytes, stored, shape, values, bits, np.dtype(stream.storage_dtype))


@dataclass(frozen=True, slots=True)
class _Copies:
    """Batches of one stream, each copied from the maps when it is asked for."""

    span: AddressSpan
    places: Rows
    share: int
    form: _Form

    def __len__(self) -> int:
        return -(-len(self.places) // self.share)

    def __getitem__(self, index: int) -> Values:
        form, places = self.form, self.places[index * self.share : (index + 1) * self.share]
        if not form.bits:
            rows = self.span.copy(places, form.row_bytes).view(form.stored)
            return rows.reshape(len(places), *form.shape)
        out = np.empty((len(places), form.values), narrowest(form.bits))
        # In parts, which are unpacked while they are in the processor's cache.
        step = max(1, UNPACKED_VALUES // max(1, form.values))
        for start in range(0, len(places), step):
            part = slice(start, start + step)
            packed = self.span.copy(places[part], form.row_bytes).view(np.uint8)
            unpack(packed.reshape(-1, form.row_bytes), form.bits, form.values, out[part])
        return out.astype(form.out, copy=False).reshape(len(places), *form.shape)


@dataclass(frozen=True, slots=True)
class _Located:
    """Where the rows of one gather lie; stays valid when shards are closed meanwhile."""

    span: AddressSpan
    places: dict[str, Rows]
    batches: list[pa.RecordBatch]
    index: Rows


class MappedShards:
    """Gathers rows of Arrow shards; threads may share it."""

    def __init__(
        self, files: ShardFiles, samples: Rows, projection: Projection, *, limit: int = OPEN_SHARDS
    ) -> None:
        self._files = files
        self._samples = samples
        self._projection = projection
        self._limit = limit
        packing = projection.layout.packing
        fixed = [s for s in projection.streams if s.is_fixed]
        self._forms = {s.name: _Form.of(s, packing) for s in fixed}
        self._names = list(projection.columns)
        for stream in projection.streams:
            if stream.name not in self._forms:
                self._names += projection.stored(stream)
        self.reset()

    def reset(self) -> None:
        """Forget every open shard and lock: after a fork, whose child inherits a lock as it was."""
        self._lock = threading.Lock()
        self._tick = 0
        # Per shard of the snapshot: its first batch, its batch size, when last used (kept where
        # not all can be open).
        self._first = np.full(len(self._samples), -1, np.int64)
        self._batch_rows = np.ones(len(self._samples), np.int64)
        self._used = np.zeros(len(self._samples), np.int64)
        self._load([])

    def gather(self, shards: Rows, rows: Rows, *, share: int) -> Chunk:
        """Return row ``rows[i]`` of shard ``shards[i]`` at place i, in batches of ``share``.

        Tokens of fixed shape are copied when a batch is taken: one that is used and dropped leaves
        its memory, still in the processor's cache, to the next.

        Raises:
            CorruptShardError: a shard is missing or not what was committed.
        """
        with self._lock:
            located = self._locate(shards, rows)
        table = self._take(located)
        streams = {s.name: self._stream(s, located, table, share) for s in self._projection.streams}
        columns = {name: table.column(name) for name in self._projection.columns}
        return Chunk(streams, columns, share)

    def _stream(
        self, stream: Stream, located: _Located, table: pa.RecordBatch, share: int
    ) -> Batches:
        if stream.is_fixed:
            form = self._forms[stream.name]
            return _Copies(located.span, located.places[stream.name], share, form)
        found = decode_stream(table, stream, self._projection.layout.packing)
        return [found[i : i + share] for i in range(0, len(found), share)]

    def _take(self, located: _Located) -> pa.RecordBatch:
        """Return the columns that are not gathered as bytes, at the located rows."""
        if not self._names:
            return pa.RecordBatch.from_arrays([], names=[])
        table = pa.Table.from_batches(located.batches).take(pa.array(located.index))
        return table.combine_chunks().to_batches()[0]

    def _locate(self, shards: Rows, rows: Rows) -> _Located:
        self._tick += 1
        if len(self._samples) > self._limit:
            self._used[shards] = self._tick
        entry = self._first[shards]
        if len(entry) and entry.min() < 0:
            self._open(np.unique(shards[entry < 0]))
            entry = self._first[shards]
        size = self._common if self._uniform else self._batch_rows[shards]
        batch = rows // size
        entry += batch
        places = {}
        for name, form in self._forms.items():
            place = places[name] = self._starts[name][entry]
            place += rows * form.row_bytes
        if not self._names:
            return _Located(self._span, places, [], rows)
        batches, index = self._batches_of(entry, rows - batch * size)
        return _Located(self._span, places, batches, index)

    def _batches_of(self, entry: Rows, within: Rows) -> tuple[list[pa.RecordBatch], Rows]:
        """Return the batches that hold the rows, and each row's place in them laid end to end."""
        touched = np.zeros(len(self._owners), bool)
        touched[entry] = True
        entries = np.flatnonzero(touched)
        batches = [self._batch(e) for e in entries.tolist()]
        starts = np.zeros(len(touched), np.int64)
        starts[entries] = np.cumsum([0, *(len(b) for b in batches[:-1])])
        return batches, starts[entry] + within

    def _batch(self, entry: int) -> pa.RecordBatch:
        shard = self._shards[self._owners[entry]]
        index = entry - int(self._first[shard.shard])
        batch = shard.batches[index]
        if batch is None and shard.columns is not None:
            batch = shard.batches[index] = shard.columns.batch(index, self._names)
        return batch

    def _open(self, shards: Rows) -> None:
        """Map shards, after letting go of those that were not used for longest."""
        kept = self._shards
        if len(kept) + len(shards) > self._limit:
            room = max(0, min(self._limit // 2, self._limit - len(shards)))
            recent = sorted(kept, key=lambda s: int(self._used[s.shard]), reverse=True)
            needed = [s for s in recent if self._used[s.shard] == self._tick]
            kept = recent[: max(room, len(needed))]
        self._load([*kept, *(self._map(int(shard)) for shard in shards)])

    def _load(self, shards: list[_Open]) -> None:
        """Lay what is open out in flat arrays; gathers under way keep the old ones."""
        self._first[:] = -1
        self._shards = shards
        self._uniform = len({s.batch_rows for s in shards}) < 2
        self._common = shards[0].batch_rows if shards else 1
        numbers = np.array([s.shard for s in shards], np.int64)
        counts = np.array([len(s.batches) for s in shards], np.int64)
        self._first[numbers] = np.cumsum(counts) - counts
        self._batch_rows[numbers] = [s.batch_rows for s in shards]
        self._owners = np.repeat(np.arange(len(shards)), counts)
        self._span = AddressSpan([s.buffer for s in shards])
        none = np.empty(0, np.int64)
        # Where a shard's row 0 would lie if all its rows lay as those of the batch do.
        self._starts = {
            name: np.concatenate([none, *(s.starts[name] for s in shards)]) - self._span.low
            for name in self._forms
        }

    def _map(self, shard: int) -> _Open:
        buffer = self._files.map(shard)
        try:
            reader = ArrowShardReader(buffer)
        except CorruptShardError as error:
            raise CorruptShardError(str(error), uri=self._files.path(shard)) from error
        if reader.rows != self._samples[shard]:
            raise CorruptShardError(
                f"has {reader.rows} rows, committed were {self._samples[shard]}",
                uri=self._files.path(shard),
            )
        firsts = np.arange(0, reader.rows, reader.batch_rows)
        return _Open(
            shard,
            buffer,
            reader.batch_rows,
            {
                name: reader.starts(name) + (buffer.address - firsts * form.row_bytes)
                for name, form in self._forms.items()
            },
            [None] * len(firsts),
            reader if self._names else None,
        )
