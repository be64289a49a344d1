"""WebDataset shards: a plain tar of ``.npy`` and ``.json`` members, two or more a sample.

Any WebDataset reader groups the members by key and decodes them with its safe decoders; nothing in
the file is pickled. The layout travels in a pax global header, which tar readers skip. Rows are
read at random by the positions of their members, found once by walking the headers.
"""

from __future__ import annotations

import base64
import io
import json
import mmap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tokenmill.shards.columns import (
    encode_stream,
    stored_row,
    unpack_rows,
)
from tokenmill.shards.gather import ByteRows, checked_rows
from tokenmill.shards.jsonrow import check_json_types, from_json, to_json
from tokenmill.shards.members import (
    check_stream_names,
    describe,
    json_columns,
    npy_members,
    stored_shape,
)
from tokenmill.shards.packing import unpack
from tokenmill.shards.partial import PartialFile
from tokenmill.shards.rebatch import check_schema
from tokenmill.shards.ustar import (
    BLOCK,
    END,
    bad_checksums,
    global_comment,
    member,
    npy_header,
    read_global_comment,
)
from tokenmill_schemas.arrow import (
    ShardLayout,
    bits_per_value,
    is_packed,
    layout_of,
)
from tokenmill_schemas.canonical import canonical_json
from tokenmill_schemas.errors import CorruptShardError
from tokenmill_schemas.tokens import Stream

Array = npt.NDArray[Any]
Rows = npt.NDArray[np.int64]

#: What the pax comment begins with; JSON follows.
SIGNATURE = "tokenmill "
#: Headers checked at once: 2 MB.
_HEADERS = 4096


class WebDatasetShardWriter:
    """Writes one tar shard. ``batch_rows`` is only remembered, for readers that ask for batches."""

    def __init__(self, path: Path, layout: ShardLayout, *, batch_rows: int) -> None:
        if batch_rows < 1:
            raise ValueError(f"batch_rows must be positive, got {batch_rows}")
        self._layout = layout
        self._schema = layout.schema
        self._json = json_columns(layout)
        check_json_types(pa.schema([self._schema.field(name) for name in self._json]))
        check_stream_names(layout)
        self._row = 0
        self._partial = PartialFile(path)
        self._partial.file.write(global_comment(SIGNATURE + describe(layout, batch_rows)))

    def write(self, batch: pa.RecordBatch) -> None:
        """Append rows of the layout's schema.

        Raises:
            ValueError: the batch has other columns than the layout.
        """
        check_schema(batch, self._schema)
        packing = self._layout.packing
        streams = [(s.name, npy_members(batch, s, packing)) for s in self._layout.spec.streams]
        names = sorted(self._json)
        values = zip(*(to_json(batch.column(name)) for name in names), strict=True)
        for index, row in enumerate(values):
            for name, members in streams:
                self._put(f"{name}.npy", members[index])
            self._put("json", canonical_json(dict(zip(names, row, strict=True))))
            self._row += 1

    def close(self) -> None:
        """End the archive, flush to disk and put the file in its place."""
        self._partial.file.write(END)
        self._partial.close()

    def discard(self) -> None:
        """Give up: leave no file."""
        self._partial.discard()

    def _put(self, suffix: str, data: bytes) -> None:
        self._partial.file.write(member(f"{self._row:09d}.{suffix}", data))


class WebDatasetShardReader:
    """Reads one tar shard through a memory map. Threads may share a reader."""

    def __init__(self, path: Path) -> None:
        self._name = str(path)
        self._data = _map(path)
        self._bytes = np.frombuffer(self._data, np.uint8)
        self._layout, self._batch_rows, start = self._read_comment()
        self._suffixes = [f"{s.name}.npy" for s in self._layout.spec.streams] + ["json"]
        self._starts, self._sizes = self._walk(start)
        self._fixed: dict[str, tuple[ByteRows, Rows]] = {}

    @property
    def layout(self) -> ShardLayout:
        """The layout that the shard was written with."""
        return self._layout

    @property
    def rows(self) -> int:
        """Number of samples."""
        return len(self._starts)

    def batches(self) -> Iterator[pa.RecordBatch]:
        """Yield all rows in order, ``batch_rows`` at a time.

        Raises:
            CorruptShardError: a member does not hold what the layout says.
        """
        for start in range(0, self.rows, self._batch_rows):
            rows = np.arange(start, min(self.rows, start + self._batch_rows))
            yield self.columns(self._layout.schema.names, rows)

    def take(self, stream: str, rows: Rows) -> Array:
        """Return the tokens of a fixed-shape stream at ``rows``: ``[len(rows), *stream shape]``.

        Raises:
            KeyError: there is no such stream.
            ValueError: its shape varies; read it with `columns`.
            IndexError: a row is not in the shard.
            CorruptShardError: a member is not the array that the layout says.
        """
        spec = self._layout.spec[stream]
        checked_rows(rows, self.rows, self._name)
        if stream not in self._fixed:
            self._fixed[stream] = self._locate(spec)
        members, starts = self._fixed[stream]
        dtype = stored_row(spec, self._layout.packing)[1]
        return unpack_rows(members.take(starts[rows], dtype), spec, self._layout.packing)

    def gather(self, stream: str, rows: Rows, out: Array) -> None:
        """Write what `take` returns into ``out``, a slice of a batch that other shards fill too."""
        out[...] = self.take(stream, rows)

    def columns(self, names: list[str], rows: Rows) -> pa.RecordBatch:
        """Return columns at ``rows``, in that order.

        Raises:
            KeyError: there is no such column.
            IndexError: a row is not in the shard.
            CorruptShardError: a member does not hold what the layout says.
        """
        schema = self._layout.schema
        unknown = [name for name in names if name not in schema.names]
        if unknown:
            raise KeyError(f"{self._name} has no columns {unknown}; it has {schema.names}")
        checked_rows(rows, self.rows, self._name)
        wanted = pa.schema([schema.field(name) for name in names])
        arrays: dict[str, pa.Array] = {}
        try:
            for stream in self._layout.spec.streams:
                own = (stream.name,) if stream.is_fixed else (stream.name, f"{stream.name}.shape")
                if set(own) & set(names):
                    arrays |= zip(own, self._stream_columns(stream, rows), strict=True)
            arrays |= self._json_columns([n for n in names if n not in arrays], rows)
        except (ValueError, KeyError, TypeError, pa.ArrowInvalid) as error:
            raise self._corrupt(f"expected members of the layout, found {error}") from error
        return pa.RecordBatch.from_arrays([arrays[n] for n in names], schema=wanted)

    def verify(self) -> None:
        """Read everything.

        Raises:
            CorruptShardError: a member does not hold what the layout says.
        """
        for _ in self.batches():
            pass

    def close(self) -> None:
        """Let go of the map; it is unmapped when the last view of it is gone."""
        self._fixed.clear()

    def _read_comment(self) -> tuple[ShardLayout, int, int]:
        if len(self._data) < BLOCK or self._data[156:157] != b"g":
            raise self._corrupt(f"expected a tar with a pax comment, found {len(self._data)} bytes")
        try:
            size = int(self._data[124:135], 8)
            text = read_global_comment(bytes(self._data[BLOCK : BLOCK + size]))
            facts = json.loads(text.removeprefix(SIGNATURE))
            encoded = base64.b64decode(facts["schema"], validate=True)
            layout = layout_of(pa.ipc.read_schema(pa.py_buffer(encoded)))
        except (ValueError, KeyError, TypeError, pa.ArrowInvalid, OSError) as error:
            raise self._corrupt(f"expected a tokenmill layout in its comment: {error}") from error
        return layout, int(facts["batch_rows"]), BLOCK + _padded(size)

    def _walk(self, position: int) -> tuple[Array, Array]:
        """Return where the data of every sample's members start, and their sizes."""
        data, end = self._data, len(self._data) - len(END)
        starts: list[int] = []
        sizes: list[int] = []
        width = len(self._suffixes)
        while position < end:
            row, column = divmod(len(starts), width)
            want = f"{row:09d}.{self._suffixes[column]}".encode()
            name = data[position : position + len(want) + 1]
            digits = data[position + 124 : position + 135]
            if name != want + b"\0" or not digits.isdigit():
                raise self._corrupt(f"expected member {want!r} at byte {position}, found {name!r}")
            starts.append(position + BLOCK)
            sizes.append(int(digits, 8))
            position += BLOCK + _padded(sizes[-1])
        if position != end or data[end:] != END or len(starts) % width:
            raise self._corrupt(f"expected its end at byte {position}, found {end}: it is cut off")
        found = np.array(starts, np.int64)
        self._check_headers(found - BLOCK)
        return found.reshape(-1, width), np.array(sizes, np.int64).reshape(-1, width)

    def _check_headers(self, positions: Rows) -> None:
        headers = ByteRows(self._bytes, positions, BLOCK, BLOCK)
        for start in range(0, len(positions), _HEADERS):
            some = positions[start : start + _HEADERS]
            bad = bad_checksums(headers.take(some, np.dtype(np.uint8)))
            if len(bad):
                raise self._corrupt(f"the tar header at byte {some[bad[0]]} has a wrong checksum")

    def _locate(self, stream: Stream) -> tuple[ByteRows, Rows]:
        """Check that every member is the same array type and return where the values start."""
        if not stream.is_fixed:
            raise ValueError(f"the shape of stream {stream.name!r} varies: read it with columns()")
        size, dtype = stored_row(stream, self._layout.packing)
        want = npy_header(dtype.str, stored_shape(stream, self._layout.packing))
        column = self._suffixes.index(f"{stream.name}.npy")
        starts = self._starts[:, column]
        heads = ByteRows(self._bytes, starts, len(want), BLOCK)
        found = heads.take(starts, np.dtype(f"S{len(want)}"))[:, 0]
        wrong = np.flatnonzero((found != want) | (self._sizes[:, column] != len(want) + size))
        if len(wrong):
            raise self._corrupt(
                f"sample {wrong[0]}: {stream.name}.npy is not {want[10:].strip()!r}"
            )
        values = starts + len(want)
        return ByteRows(self._bytes, values, size, BLOCK), values

    def _member(self, row: int, column: int) -> bytes:
        start = int(self._starts[row, column])
        return bytes(self._data[start : start + int(self._sizes[row, column])])

    def _stream_columns(self, stream: Stream, rows: Rows) -> tuple[pa.Array, ...]:
        packing = self._layout.packing
        if stream.is_fixed:
            return encode_stream(stream, packing, self.take(stream.name, rows))
        column = self._suffixes.index(f"{stream.name}.npy")
        arrays = [_read_npy(self._member(int(row), column)) for row in rows]
        if is_packed(stream, packing):
            shapes = self._json_values(f"{stream.name}.shape", rows)
            arrays = [_unpacked(a, s, stream) for a, s in zip(arrays, shapes, strict=True)]
        return encode_stream(stream, packing, arrays)

    def _json_columns(self, names: list[str], rows: Rows) -> dict[str, pa.Array]:
        if not names:
            return {}
        samples = [json.loads(self._member(int(row), -1)) for row in rows]
        schema = self._layout.schema
        return {n: from_json([s[n] for s in samples], schema.field(n).type) for n in names}

    def _json_values(self, name: str, rows: Rows) -> list[list[int]]:
        return [json.loads(self._member(int(row), -1))[name] for row in rows]

    def _corrupt(self, message: str) -> CorruptShardError:
        return CorruptShardError(message, uri=self._name)


class WebDatasetFormat:
    """The tar form of a shard, which plain ``webdataset`` reads."""

    suffix = "tar"

    def writer(self, path: Path, layout: ShardLayout, *, batch_rows: int) -> WebDatasetShardWriter:
        """Start a shard at a local path."""
        return WebDatasetShardWriter(path, layout, batch_rows=batch_rows)

    def reader(self, path: Path) -> WebDatasetShardReader:
        """Open a shard at a local path.

        Raises:
            CorruptShardError: the file is not a whole tar shard.
        """
        return WebDatasetShardReader(path)


PLUGIN = WebDatasetFormat


def _unpacked(data: Array, shape: list[int], stream: Stream) -> Array:
    count = int(np.prod(shape, dtype=np.int64))
    return unpack(data[np.newaxis], bits_per_value(stream), count).reshape(shape)


def _read_npy(data: bytes) -> Array:
    array: Array = np.lib.format.read_array(io.BytesIO(data), allow_pickle=False)
    return array


def _padded(size: int) -> int:
    return size + -size % BLOCK


def _map(path: Path) -> mmap.mmap | bytes:
    with path.open("rb") as file:
        if path.stat().st_size == 0:
            return b""
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
