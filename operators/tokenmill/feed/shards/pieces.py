"""How a stored Arrow shard is read in parts: pieces of neighbouring record batches.

The footer alone says where the batches lie, and so which pieces there are: all processes and all
versions of a run cut a shard alike. A piece is one request, or a few if it is very large, and each
of its batches is checked by the sum that its message carries (FORMAT.md).
"""

from __future__ import annotations

import struct
from bisect import bisect_right
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from tokenmill.shards.arrow import CRC_KEY, batch_crc32, footer_blocks
from tokenmill_infra.storage.ranges import RangeFile
from tokenmill_schemas.errors import CorruptShardError

#: Bytes that a piece has at least, unless its shard has less.
PIECE_BYTES = 256 * 2**10
#: What the footer of a shard takes: its columns, and the place of each batch.
SCHEMA_BYTES, BLOCK_BYTES = 16 * 2**10, 24

_TAIL = struct.Struct("<i6s")
_MESSAGE = struct.Struct("<Ii")


@dataclass(frozen=True, slots=True)
class ShardIndex:
    """Where the record batches of one shard lie.

    ``starts`` and ``ends`` are where the message of each batch begins and ends in the file,
    ``firsts`` the first batch of each piece, and at last the number of batches.
    """

    schema: pa.Schema
    rows: int
    batch_rows: int
    starts: tuple[int, ...]
    ends: tuple[int, ...]
    firsts: tuple[int, ...]

    def piece_of(self, batch: int) -> int:
        """Return the piece that a record batch is in."""
        return bisect_right(self.firsts, batch) - 1

    def batches(self, piece: int) -> range:
        """Return the record batches of a piece."""
        return range(self.firsts[piece], self.firsts[piece + 1])

    def span(self, piece: int) -> tuple[int, int]:
        """Return where a piece begins and ends in the file."""
        return self.starts[self.firsts[piece]], self.ends[self.firsts[piece + 1] - 1]

    def read(self, piece: int, data: pa.Buffer) -> list[pa.RecordBatch]:
        """Return the record batches in a piece's bytes; their memory is the buffer's.

        Raises:
            CorruptShardError: a batch cannot be read.
        """
        return [
            self._batch(index, self._message(piece, data, index)) for index in self.batches(piece)
        ]

    def check(self, piece: int, data: pa.Buffer) -> None:
        """Check a piece's bytes.

        Raises:
            CorruptShardError: they are not those that were written; names the batch.
        """
        for index in self.batches(piece):
            message = self._message(piece, data, index)
            self._check(index, message, self._batch(index, message))

    def _message(self, piece: int, data: pa.Buffer, index: int) -> pa.Buffer:
        start = self.starts[index]
        return data.slice(start - self.span(piece)[0], self.ends[index] - start)

    def _batch(self, index: int, message: pa.Buffer) -> pa.RecordBatch:
        try:
            return pa.ipc.read_record_batch(pa.ipc.read_message(message), self.schema)
        except (pa.ArrowException, OSError, ValueError) as error:
            raise CorruptShardError(f"record batch {index} cannot be read: {error}") from error

    def _check(self, index: int, message: pa.Buffer, batch: pa.RecordBatch) -> None:
        try:
            wanted = _message_crc(message)
        except (ValueError, struct.error, IndexError) as error:
            raise CorruptShardError(f"record batch {index} cannot be read: {error}") from error
        rows = min(self.batch_rows, self.rows - index * self.batch_rows)
        if batch.num_rows != rows:
            raise CorruptShardError(
                f"record batch {index}: expected {rows} rows, found {batch.num_rows}"
            )
        # A writer may leave it out.
        if wanted is not None and (found := f"{batch_crc32(batch):08x}") != wanted:
            raise CorruptShardError(
                f"record batch {index}: expected crc32 {wanted!r}, found {found!r}"
            )
        try:
            # The sum is of the buffers; how many nulls they have is said beside them.
            batch.validate(full=True)
        except pa.ArrowInvalid as error:
            raise CorruptShardError(f"record batch {index}: {error}") from error


def tail_bytes(size: int, rows: int, batch_rows: int) -> int:
    """Return how much of a shard's end is read to have its footer, by a first guess."""
    return min(size, SCHEMA_BYTES + BLOCK_BYTES * -(-rows // batch_rows))


def footer_bytes(tail: pa.Buffer) -> int:
    """Return the bytes from a footer's beginning to the shard's end, as the end tells it.

    Raises:
        CorruptShardError: it is no end of an Arrow file.
    """
    if tail.size >= _TAIL.size:
        length, magic = _TAIL.unpack(tail.slice(tail.size - _TAIL.size))
        if magic == b"ARROW1" and length > 0:
            return int(length) + _TAIL.size
    raise CorruptShardError(f"expected the end of an Arrow file, found {tail.size} other bytes")


def read_index(tail: pa.Buffer, size: int, rows: int, batch_rows: int) -> ShardIndex:
    """Return the index of a shard of ``size`` bytes from its last ones.

    Raises:
        CorruptShardError: they are not the footer of an Arrow shard of so many rows and batches.
    """
    if footer_bytes(tail) > tail.size:
        raise CorruptShardError(f"expected a footer in {tail.size} bytes, found a longer one")
    try:
        blocks = footer_blocks(np.frombuffer(tail, np.uint8))
        schema = _schema(tail, size)
    except (pa.ArrowException, OSError, ValueError, struct.error, IndexError) as error:
        raise CorruptShardError(f"expected an Arrow IPC footer, found {error}") from error
    starts = blocks["offset"].astype(np.int64)
    ends = starts + blocks["head"] + blocks["body"]
    if len(blocks) != -(-rows // batch_rows):
        raise CorruptShardError(f"has {len(blocks)} record batches for {rows} rows")
    if np.any(ends <= starts) or np.any(starts[1:] < ends[:-1]) or ends[-1:].sum() > size:
        raise CorruptShardError("expected record batches one after the other, found overlaps")
    places = tuple(starts.tolist()), tuple(ends.tolist())
    return ShardIndex(schema, rows, batch_rows, *places, _cut(*places))


def _cut(starts: tuple[int, ...], ends: tuple[int, ...]) -> tuple[int, ...]:
    """Return the first batch of each piece, and the number of batches behind them."""
    firsts, begin = [0], starts[0] if starts else 0
    for index, end in enumerate(ends):
        if end - begin >= PIECE_BYTES:
            firsts.append(index + 1)
            begin = end
    # What is left over is read with the piece before it.
    if len(firsts) > 1:
        firsts.pop()
    return (*firsts, len(starts)) if starts else (0,)


def _schema(tail: pa.Buffer, size: int) -> pa.Schema:
    first = size - tail.size

    def read(start: int, stop: int) -> bytes:
        if start < first:
            raise CorruptShardError("expected all of the footer at the end of the file")
        return bytes(tail.slice(start - first, stop - start))

    return pa.ipc.open_file(pa.PythonFile(RangeFile(read, size), mode="r")).schema


def _message_crc(data: pa.Buffer) -> str | None:
    """Return the sum in the custom metadata of an encapsulated message, None if there is none.

    pyarrow reads it but does not show it. Message.fbs: the fifth field of the root table is a
    vector of tables of a key and a value.
    """
    _, length = _MESSAGE.unpack_from(data)
    raw = data.slice(_MESSAGE.size, length).to_pybytes()
    vector = _field(raw, _u32(raw, 0), 4)
    if not vector:
        return None
    vector += _u32(raw, vector)
    for index in range(_u32(raw, vector)):
        place = vector + 4 + 4 * index
        pair = place + _u32(raw, place)
        if _text(raw, _field(raw, pair, 0)) == CRC_KEY:
            return _text(raw, _field(raw, pair, 1))
    return None


def _u32(raw: bytes, at: int) -> int:
    return int(struct.unpack_from("<I", raw, at)[0])


def _field(raw: bytes, table: int, number: int) -> int:
    """Return where a flatbuffer table keeps a field, 0 if it does not."""
    vtable = table - struct.unpack_from("<i", raw, table)[0]
    if struct.unpack_from("<H", raw, vtable)[0] < 6 + 2 * number:
        return 0
    offset = struct.unpack_from("<H", raw, vtable + 4 + 2 * number)[0]
    return table + int(offset) if offset else 0


def _text(raw: bytes, at: int) -> str:
    if not at:
        return ""
    start = at + _u32(raw, at)
    return raw[start + 4 : start + 4 + _u32(raw, start)].decode()
