"""Shards of any format, read through `ShardReader`: one call a shard and stream."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tokenmill.feed.columns import Chunk, Projection, Values
from tokenmill.feed.shards.files import ShardFiles
from tokenmill.shards import read_format
from tokenmill.shards.base import ShardReader
from tokenmill.shards.columns import decode_stream
from tokenmill_schemas.tokens import Stream

Rows = npt.NDArray[np.int64]

#: Shards that stay open: a reader may hold a file descriptor.
OPEN_SHARDS = 64


class GroupedShards:
    """Gathers rows of shards of any format; threads may share it, one at a time reads."""

    def __init__(
        self, files: ShardFiles, projection: Projection, *, limit: int = OPEN_SHARDS
    ) -> None:
        self._files = files
        self._projection = projection
        self._limit = limit
        self.reset()

    def reset(self) -> None:
        """Forget every open shard and lock: after a fork, whose child inherits a lock as it was."""
        self._lock = threading.Lock()
        self._readers: OrderedDict[int, ShardReader] = OrderedDict()

    def gather(self, shards: Rows, rows: Rows, *, share: int) -> Chunk:
        """Return row ``rows[i]`` of shard ``shards[i]`` at place i, in batches of ``share``.

        Raises:
            CorruptShardError: a shard is missing or not what was committed.
        """
        order = np.argsort(shards, kind="stable")
        back = np.empty_like(order)
        back[order] = np.arange(len(order))
        with self._lock:
            parts = [self._read(shard, rows[order][run]) for shard, run in _runs(shards[order])]
        joined = {
            stream.name: _joined([part[0][stream.name] for part in parts], back)
            for stream in self._projection.streams
        }
        table = pa.Table.from_batches([part[1] for part in parts]).take(pa.array(back))
        columns = table.combine_chunks().to_batches()[0]
        starts = range(0, len(rows), share)
        streams = {n: [v[i : i + share] for i in starts] for n, v in joined.items()}
        chosen = {name: columns.column(name) for name in self._projection.columns}
        return Chunk(streams, chosen, share)

    def _read(self, shard: int, rows: Rows) -> tuple[dict[str, Values], pa.RecordBatch]:
        reader = self._reader(shard)
        streams = {s.name: self._stream(reader, s, rows) for s in self._projection.streams}
        # One column whatever was asked for, so that a batch of no columns keeps its rows.
        names = list(dict.fromkeys([*self._projection.columns, "asset_key"]))
        return streams, reader.columns(names, rows)

    def _stream(self, reader: ShardReader, stream: Stream, rows: Rows) -> Values:
        if stream.is_fixed:
            return reader.take(stream.name, rows)
        found = reader.columns(self._projection.stored(stream), rows)
        return decode_stream(found, stream, reader.layout.packing)

    def _reader(self, shard: int) -> ShardReader:
        if shard in self._readers:
            self._readers.move_to_end(shard)
            return self._readers[shard]
        while len(self._readers) >= self._limit:
            self._readers.popitem(last=False)[1].close()
        kind = read_format(self._files.manifest.format)
        reader = kind.reader(self._files.local(shard))
        self._readers[shard] = reader
        return reader


def _runs(shards: Rows) -> Iterator[tuple[int, slice]]:
    """Yield each shard of a sorted list and the slice of its rows."""
    ends = np.flatnonzero(np.diff(shards, append=-1)) + 1
    start = 0
    for end in ends.tolist():
        yield int(shards[start]), slice(start, end)
        start = end


def _joined(parts: list[Any], back: Rows) -> Values:
    """Return the rows of all parts, in the order asked for."""
    if isinstance(parts[0], np.ndarray):
        joined: npt.NDArray[Any] = np.concatenate(parts)[back]
        return joined
    flat = [array for part in parts for array in part]
    return [flat[i] for i in back.tolist()]
