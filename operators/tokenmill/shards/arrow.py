"""Arrow shards: an uncompressed Arrow IPC *file*, read through a memory map.

Every record batch has the same number of rows but the last, and a fixed-shape stream's column is
one buffer with a constant stride inside a batch. A row's tokens therefore lie at
``offset of its batch + row in batch * row bytes``, and random rows are gathered with one numpy
indexing operation over the whole map: no Arrow object is made per batch or per row.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tokenmill.shards.columns import stored_row, unpack_rows
from tokenmill.shards.footer import footer_blocks as footer_blocks
from tokenmill.shards.gather import ByteRows, checked_rows
from tokenmill.shards.partial import PartialFile
from tokenmill.shards.rebatch import Rebatcher
from tokenmill_schemas.arrow import ShardLayout, layout_of
from tokenmill_schemas.errors import CorruptShardError
from tokenmill_schemas.tokens import Stream

Array = npt.NDArray[Any]
Rows = npt.NDArray[np.int64]

MAGIC = b"ARROW1"
#: Key of a record batch's custom metadata: CRC-32 (8 hex digits) of its buffers, in order.
CRC_KEY = "tokenmill.crc32"


class ArrowShardWriter:
    """Writes one Arrow shard; rows are regrouped to ``batch_rows`` a record batch."""

    def __init__(self, path: Path, layout: ShardLayout, *, batch_rows: int) -> None:
        self._rebatcher = Rebatcher(layout, batch_rows)
        self._partial = PartialFile(path)
        self._schema = layout.schema
        options = pa.ipc.IpcWriteOptions(compression=None)
        self._ipc = pa.ipc.new_file(self._partial.file, self._schema, options=options)

    def write(self, batch: pa.RecordBatch) -> None:
        """Append rows of the layout's schema.

        Raises:
            ValueError: the batch has other columns than the layout.
        """
        for ready in self._rebatcher.add(batch):
            self._emit(ready)

    def close(self) -> None:
        """Write what is left, flush to disk and put the file in its place."""
        for ready in self._rebatcher.rest():
            self._emit(ready)
        self._ipc.close()
        self._partial.close()

    def discard(self) -> None:
        """Give up: leave no file."""
        self._partial.discard()

    def _emit(self, batch: pa.RecordBatch) -> None:
        # Through its own bytes, so that the buffers checksummed are those that the file gets.
        exact = pa.ipc.read_record_batch(batch.serialize(), self._schema)
        self._ipc.write_batch(exact, custom_metadata={CRC_KEY: f"{batch_crc32(exact):08x}"})


class ArrowShardReader:
    """Reads one Arrow shard from a local path (memory-mapped) or from bytes in memory.

    Threads may share a reader. Views that `batches` yields stay valid after `close`.
    """

    def __init__(self, source: Path | pa.Buffer) -> None:
        self._name = str(source) if isinstance(source, Path) else "<memory>"
        self._buffer: pa.Buffer = _map(source) if isinstance(source, Path) else source
        self._bytes = np.frombuffer(self._buffer, np.uint8)
        self._ipc = self._open()
        self._layout = self._read_layout()
        self._blocks = self._read_blocks()
        self._gathers: dict[str, _Gather] = {}
        # The first and the last batch, which tell the rows and where the columns lie.
        self._ends: dict[int, pa.RecordBatch] = {}
        self._count_rows()

    @property
    def layout(self) -> ShardLayout:
        """The layout that the shard was written with."""
        return self._layout

    @property
    def rows(self) -> int:
        """Number of samples."""
        return self._rows

    @property
    def batch_rows(self) -> int:
        """Rows of every record batch but the last."""
        return self._batch_rows

    def batches(self) -> Iterator[pa.RecordBatch]:
        """Yield all rows in order, as the batches they were written in; their memory is the map."""
        for index in range(len(self._blocks)):
            yield self._batch(index)

    def batch(self, index: int, names: list[str]) -> pa.RecordBatch:
        """Return some columns of one record batch; their memory is the map.

        Raises:
            KeyError: there is no such column.
            CorruptShardError: the batch cannot be read.
        """
        return self._batch(index).select(names)

    def take(self, stream: str, rows: Rows) -> Array:
        """Return the tokens of a fixed-shape stream at ``rows``: ``[len(rows), *stream shape]``.

        Raises:
            KeyError: there is no such stream.
            ValueError: its shape varies; read it with `columns`.
            IndexError: a row is not in the shard.
        """
        gather = self._gather(stream)
        return unpack_rows(gather.rows(self._checked(rows)), gather.stream, self._layout.packing)

    def gather(self, stream: str, rows: Rows, out: Array) -> None:
        """Write what `take` returns into ``out``, a slice of a batch that other shards fill too."""
        out[...] = self.take(stream, rows)

    def row_bytes(self, stream: str) -> int:
        """Return the stored bytes of one row of a fixed-shape stream."""
        return self._gather(stream).bytes_of.size

    def starts(self, stream: str) -> Rows:
        """Return where in the file the stream's column starts in every record batch.

        Raises:
            KeyError: there is no such stream.
        """
        return self._column_starts(self._layout.spec[stream])

    def offsets(self, stream: str, rows: Rows) -> Rows:
        """Return where in the file the stored bytes of ``rows`` start."""
        return self._gather(stream).offsets(self._checked(rows))

    def columns(self, names: list[str], rows: Rows) -> pa.RecordBatch:
        """Return other columns at ``rows``, in that order.

        Raises:
            KeyError: there is no such column.
            IndexError: a row is not in the shard.
        """
        schema = self._layout.schema
        unknown = [name for name in names if name not in schema.names]
        if unknown:
            raise KeyError(f"{self._name} has no columns {unknown}; it has {schema.names}")
        wanted = pa.schema([schema.field(name) for name in names])
        index = self._checked(rows) // max(1, self._batch_rows)
        order = np.argsort(index, kind="stable")
        pieces = []
        for part in np.split(order, np.flatnonzero(np.diff(index[order])) + 1):
            if len(part):
                batch = int(index[part[0]])
                within = pa.array(rows[part] - batch * self._batch_rows)
                pieces.append(self._batch(batch).select(names).take(within))
        if not pieces:
            return pa.RecordBatch.from_pylist([], schema=wanted)
        back = np.empty(len(order), np.int64)
        back[order] = np.arange(len(order))
        arrays = pa.Table.from_batches(pieces).combine_chunks().take(pa.array(back)).columns
        return pa.RecordBatch.from_arrays([a.combine_chunks() for a in arrays], schema=wanted)

    def verify(self) -> None:
        """Check every record batch against its checksum.

        Raises:
            CorruptShardError: a batch's bytes are not those that were written; names the first.
        """
        for index in range(len(self._blocks)):
            found = self._ipc.get_batch_with_custom_metadata(index)
            want = (found.custom_metadata or {}).get(CRC_KEY.encode(), b"").decode()
            got = f"{batch_crc32(found.batch):08x}"
            if got != want:
                raise self._corrupt(f"record batch {index}: expected crc32 {want!r}, found {got!r}")

    def close(self) -> None:
        """Let go of the map; it is unmapped when the last view of it is gone."""
        self._gathers.clear()

    def _open(self) -> pa.ipc.RecordBatchFileReader:
        size = len(self._bytes)
        if size < 12 or bytes(self._bytes[:6]) != MAGIC:
            raise self._corrupt(f"expected an Arrow IPC file, found {size} bytes of another kind")
        if bytes(self._bytes[-6:]) != MAGIC:
            raise self._corrupt(f"expected {MAGIC!r} at the end of {size} bytes: it is cut off")
        try:
            return pa.ipc.open_file(pa.BufferReader(self._buffer))
        except (pa.ArrowInvalid, OSError) as error:
            raise self._corrupt(f"expected an Arrow IPC footer, found {error}") from error

    def _read_layout(self) -> ShardLayout:
        schema = self._ipc.schema
        try:
            layout, columns = _read_layout(schema.serialize().to_pybytes())
        except (KeyError, ValueError, TypeError) as error:
            raise self._corrupt(f"expected a tokenmill layout in its schema: {error}") from error
        if not columns.equals(schema, check_metadata=False):
            raise self._corrupt(f"expected columns {columns}, found {schema}")
        return layout

    def _read_blocks(self) -> Array:
        blocks = footer_blocks(self._bytes)
        ends = blocks["offset"] + blocks["head"] + blocks["body"]
        apart = (ends[:-1] <= blocks["offset"][1:]).all() and (ends[-1:] <= len(self._bytes)).all()
        if len(blocks) != self._ipc.num_record_batches or not apart:
            raise self._corrupt("expected record batches one after the other, found overlaps")
        return blocks

    def _count_rows(self) -> None:
        count = len(self._blocks)
        self._batch_rows = self._rows = 0
        if count:
            self._ends = {index: self._batch(index) for index in {0, count - 1}}
            self._batch_rows = self._ends[0].num_rows
            self._rows = (count - 1) * self._batch_rows + self._ends[count - 1].num_rows

    def _batch(self, index: int) -> pa.RecordBatch:
        if index in self._ends:
            return self._ends[index]
        try:
            return self._ipc.get_batch(index)
        except (pa.ArrowInvalid, OSError) as error:
            raise self._corrupt(f"record batch {index} cannot be read: {error}") from error

    def _checked(self, rows: Rows) -> Rows:
        return checked_rows(rows, self._rows, self._name)

    def _gather(self, name: str) -> _Gather:
        if name not in self._gathers:
            self._gathers[name] = self._locate(self._layout.spec[name])
        return self._gathers[name]

    def _locate(self, stream: Stream) -> _Gather:
        """Find where every record batch keeps the stream's rows."""
        if not stream.is_fixed:
            raise ValueError(f"the shape of stream {stream.name!r} varies: read it with columns()")
        size, dtype = stored_row(stream, self._layout.packing)
        starts = self._column_starts(stream)
        rows = ByteRows(self._bytes, starts, size, size)
        return _Gather(stream, rows, starts, self._batch_rows, dtype)

    def _column_starts(self, stream: Stream) -> Rows:
        """Return the byte offset of the stream's column in every record batch.

        Where only fixed-width columns stand before it, the column lies at the same place in the
        body of every full batch, and the footer alone says where the bodies are.
        """
        bodies: Rows = self._blocks["offset"] + self._blocks["head"]
        streams, count = self._layout.spec.streams, len(bodies)
        before = streams[: streams.index(stream)]
        if count < 3 or not all(s.is_fixed for s in before):
            return np.array([self._address(i, stream.name) for i in range(count)], np.int64)
        starts: Rows = bodies + (self._address(0, stream.name) - bodies[0])
        starts[-1] = self._address(count - 1, stream.name)
        return starts

    def _address(self, index: int, name: str) -> int:
        column = self._batch(index).column(name)
        buffer = column.buffers()[-1]
        return int(buffer.address - self._buffer.address)

    def _corrupt(self, message: str) -> CorruptShardError:
        return CorruptShardError(message, uri=self._name)


@dataclass(frozen=True, slots=True)
class _Gather:
    """Where the rows of one fixed-shape stream lie: all that a gather needs."""

    stream: Stream
    bytes_of: ByteRows
    starts: Rows
    batch_rows: int
    dtype: np.dtype[Any]

    def offsets(self, rows: Rows) -> Rows:
        batch = rows // max(1, self.batch_rows)
        return self.starts[batch] + (rows - batch * self.batch_rows) * self.bytes_of.size

    def rows(self, rows: Rows) -> Array:
        """Return a copy of the stored values: ``[len(rows), values]``."""
        return self.bytes_of.take(self.offsets(rows), self.dtype)


class ArrowFormat:
    """The Arrow IPC file form of a shard."""

    suffix = "arrow"

    def writer(self, path: Path, layout: ShardLayout, *, batch_rows: int) -> ArrowShardWriter:
        """Start a shard at a local path."""
        return ArrowShardWriter(path, layout, batch_rows=batch_rows)

    def reader(self, path: Path) -> ArrowShardReader:
        """Open a shard at a local path.

        Raises:
            CorruptShardError: the file is not a whole Arrow shard.
        """
        return ArrowShardReader(path)


PLUGIN = ArrowFormat


@lru_cache(maxsize=64)
def _read_layout(serialized: bytes) -> tuple[ShardLayout, pa.Schema]:
    """Return the layout that a schema tells, and the columns that it then has.

    Shards of one store have one schema, or few: a thousand are opened for the cost of one.
    """
    layout = layout_of(pa.ipc.read_schema(pa.py_buffer(serialized)))
    return layout, layout.schema


def batch_crc32(batch: pa.RecordBatch) -> int:
    """Return the CRC-32 of a record batch's buffers, in the order of its columns, no padding."""
    crc = 0
    for column in batch.columns:
        for buffer in column.buffers():
            if buffer is not None:
                crc = zlib.crc32(buffer, crc)
    return crc


def _map(path: Path) -> pa.Buffer:
    if path.stat().st_size == 0:
        return pa.py_buffer(b"")
    with pa.memory_map(str(path)) as source:
        return source.read_buffer()
