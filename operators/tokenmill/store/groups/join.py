"""Rows joined to samples by their keys, in bounded memory.

The rows lie on disk as they came; in memory are only a 16-byte digest of each one's key, sorted,
where it lies (8 bytes), and whether a sample took it (1 byte): 25 bytes a row, whatever it holds,
and some 40 while it is sorted.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tokenmill.shards.columns import encode_stream
from tokenmill.store.groups.inputs import GroupInput
from tokenmill.store.locate import KEYS
from tokenmill.store.rewrite import Rows
from tokenmill_schemas.arrow import ShardLayout
from tokenmill_schemas.errors import JobError
from tokenmill_schemas.plan import DIGEST_BYTES, digests

#: Rows of a batch on disk: what a row that is asked for alone costs to find.
SPOOL_ROWS = 1024
_DIGEST = f"S{DIGEST_BYTES}"


@dataclass(frozen=True, slots=True)
class Joinable:
    """The rows of an input, by the digests of their keys.

    ``keys`` are sorted, ``order`` has the row of each; ``taken`` says which rows were asked for.
    ``starts`` has the first row of every batch of ``file``.
    """

    source: GroupInput
    keys: npt.NDArray[np.bytes_]
    order: Rows
    taken: npt.NDArray[np.bool_]
    file: pa.ipc.RecordBatchFileReader
    starts: Rows

    @classmethod
    def of(cls, source: GroupInput, folder: Path) -> Joinable:
        """Read an input to its end, into a file in ``folder``.

        Raises:
            JobError: two rows have the same key.
        """
        path, found, sizes = folder / "rows.arrow", bytearray(), [0]
        schema = _schema(source.layout)
        with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
            for piece in _pieces(source.read()):
                found += b"".join(digests(piece, (source.by,)))
                sizes.append(piece.num_rows)
                writer.write_batch(_cast(piece, schema))
        keys = np.frombuffer(bytes(found), _DIGEST)
        order = np.argsort(keys, kind="stable")
        twice = np.flatnonzero(keys[order[1:]] == keys[order[:-1]])
        if len(twice):
            rows = sorted(order[twice[0] : twice[0] + 2].tolist())
            raise JobError(
                f"{len(twice)} rows have the {source.by} of another one: rows {rows[0]} and "
                f"{rows[1]} (from 0), for example",
                path="by",
            )
        with pa.memory_map(str(path)) as mapped:
            file = pa.ipc.open_file(pa.BufferReader(mapped.read_buffer()))
        return cls(source, keys[order], order, np.zeros(len(keys), bool), file, np.cumsum(sizes))

    @property
    def left(self) -> int:
        """Rows that no sample has taken."""
        return int(len(self.taken) - np.count_nonzero(self.taken))

    def find(self, table: pa.Table | pa.RecordBatch) -> Rows:
        """Return for each row of ``table``, which has the key column, its input row, or -1."""
        if not len(self.keys):
            return np.full(table.num_rows, -1, np.int64)
        wanted = np.frombuffer(b"".join(digests(table, (self.source.by,))), _DIGEST)
        places = np.minimum(np.searchsorted(self.keys, wanted), len(self.keys) - 1)
        return np.where(self.keys[places] == wanted, self.order[places], -1)

    def rows(self, numbers: Rows) -> pa.RecordBatch:
        """Return input rows by their ``numbers``, in that order; of -1 zeros and nulls."""
        there = numbers >= 0
        wanted, back = np.unique(numbers[there], return_inverse=True)
        self.taken[wanted] = True
        places = np.full(len(numbers), len(wanted), np.int64)
        places[there] = back
        found = pa.Table.from_batches([*self._read(wanted), blank_row(self.source.layout)])
        return found.take(pa.array(places)).combine_chunks().to_batches()[0]

    def _read(self, wanted: Rows) -> Iterator[pa.RecordBatch]:
        """Yield the rows ``wanted``, which ascend, batch by batch of the file."""
        batches = np.searchsorted(self.starts, wanted, side="right") - 1
        for part in np.split(wanted, np.flatnonzero(np.diff(batches)) + 1):
            if len(part):
                index = int(np.searchsorted(self.starts, part[0], side="right")) - 1
                within = pa.array(part - self.starts[index])
                yield self.file.get_batch(index).take(within)


def blank_row(layout: ShardLayout) -> pa.RecordBatch:
    """Return one row for a sample without values: zeros (or nothing, where shapes vary), nulls."""
    schema = _schema(layout)
    arrays: list[pa.Array] = []
    for stream in layout.spec.streams:
        shape = tuple(size or 0 for size in stream.shape)
        zeros = [np.zeros(shape, stream.storage_dtype)]
        arrays += encode_stream(stream, layout.packing, zeros)
    arrays += [pa.nulls(1, column.type) for column in layout.extras]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def _schema(layout: ShardLayout) -> pa.Schema:
    return pa.schema([f for f in layout.schema if f.name not in KEYS])


def _cast(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    try:
        return batch.select(schema.names).cast(schema)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, ValueError) as error:
        raise JobError(f"has values of another type: {error}", path="columns") from error


def _pieces(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        for start in range(0, batch.num_rows, SPOOL_ROWS):
            yield batch.slice(start, SPOOL_ROWS)
