"""Tokens to columns and back: numpy arrays as the Arrow columns that `ShardLayout` names.

A stream of fixed shape becomes one contiguous buffer with no loop over rows. What comes out of
`decode_stream` has the storage type of the stream (`Stream.storage_dtype`): ids in the narrowest
unsigned type, bits as 0 and 1 in uint8, bfloat16 as its uint16 bits (`widen_bfloat16`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tokenmill.shards.packing import pack, packed_bytes, unpack
from tokenmill_schemas.arrow import (
    Packing,
    ShardLayout,
    bits_per_value,
    is_packed,
    stream_fields,
    values_per_sample,
)
from tokenmill_schemas.shapes import encode_shapes
from tokenmill_schemas.tokens import Stream, TokenSpec

Array = npt.NDArray[Any]
Tokens = Mapping[str, "list[Array] | Array"]


def make_batch(
    layout: ShardLayout, tokens: Tokens, extras: pa.RecordBatch | Mapping[str, Any]
) -> pa.RecordBatch:
    """Return rows of ``layout.schema``.

    ``tokens`` has each stream as one array ``[rows, *shape]`` or as a list of ``[*shape]`` arrays;
    ``extras`` has every other column (``sample_id``, ``asset_key`` and ``layout.extras``) as
    arrays or lists. The batch may share memory with the arrays it was given.

    Raises:
        ValueError: a column is missing, unknown or of another length, an id is outside its
            vocabulary, or a shape is not the stream's.
    """
    schema = layout.schema
    streams = encode_streams(layout, tokens)
    columns = _columns_of(extras)
    others = [schema.field(i) for i in range(len(streams), len(schema))]
    _check_names([f.name for f in others], list(columns), "columns")
    rows = len(streams[0])
    arrays = [*streams, *(_column(columns[f.name], f) for f in others)]
    for name, array in zip(schema.names, arrays, strict=True):
        if len(array) != rows:
            raise ValueError(f"column {name!r} has {len(array)} rows, the first one {rows}")
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def encode_streams(layout: ShardLayout, tokens: Tokens) -> list[pa.Array]:
    """Return the columns of all streams in the layout's order, shape columns included.

    Raises:
        ValueError: a stream is missing or unknown, an id is outside its vocabulary, or a shape or
            dtype is not the stream's.
    """
    _check_names([s.name for s in layout.spec.streams], list(tokens), "streams")
    streams = layout.spec.streams
    return [a for s in streams for a in encode_stream(s, layout.packing, tokens[s.name])]


def encode_stream(
    stream: Stream, packing: Packing, tokens: list[Array] | Array
) -> tuple[pa.Array, ...]:
    """Return the columns of one stream: its tokens and, where shapes vary, its shapes.

    Raises:
        ValueError: an id is outside its vocabulary, or a shape or dtype is not the stream's.
    """
    fields = stream_fields(stream, packing)
    if stream.is_fixed:
        return (_encode_fixed(stream, tokens, fields[0].type),)
    return _encode_variable(stream, list(tokens), fields)


def decode_stream(batch: pa.RecordBatch, stream: Stream, packing: Packing) -> Array | list[Array]:
    """Return a stream's tokens: ``[rows, *shape]``, or a list of arrays where shapes vary.

    Raw columns come as read-only views of the batch's memory, packed ones are unpacked.
    """
    column = batch.column(stream.name)
    if not stream.is_fixed:
        shapes = fixed_rows(batch.column(f"{stream.name}.shape"))
        return _decode_variable(column, stream, shapes, packing)
    return unpack_rows(fixed_rows(column), stream, packing)


def stored_row(stream: Stream, packing: Packing) -> tuple[int, np.dtype[Any]]:
    """Return the bytes of one stored row of a fixed-shape stream, and the type of its items."""
    count = values_per_sample(stream) or 0
    if is_packed(stream, packing):
        return packed_bytes(count, bits_per_value(stream)), np.dtype(np.uint8)
    dtype = np.dtype(stream.storage_dtype)
    return count * dtype.itemsize, dtype


def unpack_rows(rows: Array, stream: Stream, packing: Packing) -> Array:
    """Return stored rows of a fixed-shape stream as ``[rows, *shape]``."""
    if is_packed(stream, packing):
        rows = unpack(rows, bits_per_value(stream), values_per_sample(stream) or 0)
        rows = rows.astype(stream.storage_dtype, copy=False)
    return rows.reshape(len(rows), *stream.shape)


def fixed_rows(column: pa.Array) -> Array:
    """Return a fixed-width column as a view ``[rows, values]`` (packed: ``uint8[rows, bytes]``)."""
    if pa.types.is_fixed_size_binary(column.type):
        width = column.type.byte_width
        values = np.frombuffer(column.buffers()[1] or b"", np.uint8)
        values = values[column.offset * width : (column.offset + len(column)) * width]
        return values.reshape(len(column), width)
    flat: Array = column.flatten().to_numpy(zero_copy_only=True)
    return flat.reshape(len(column), column.type.list_size)


def stored_shapes(spec: TokenSpec, batch: pa.RecordBatch) -> dict[str, npt.NDArray[np.int32]]:
    """Return ``int32[rows, dimensions]`` of each stream that varies: the shapes of its samples."""
    return {
        stream.name: fixed_rows(batch.column(f"{stream.name}.shape"))
        for stream in spec.streams
        if not stream.is_fixed
    }


def encoded_shapes(spec: TokenSpec, parts: Sequence[Mapping[str, Array]]) -> bytes:
    """Return the shapes of rows that came in parts (`stored_shapes`) as the manifest has them."""
    if not parts:
        return b""
    return encode_shapes(spec, {n: np.concatenate([part[n] for part in parts]) for n in parts[0]})


def count_tokens(spec: TokenSpec, batch: pa.RecordBatch) -> int:
    """Return how many positions all streams of ``batch`` have together."""
    shapes = stored_shapes(spec, batch)
    total = 0
    for stream in spec.streams:
        if stream.positions is not None:
            total += stream.positions * batch.num_rows
            continue
        sizes = shapes[stream.name][:, : len(stream.axes)]
        total += int(np.prod(sizes, axis=1, dtype=np.int64).sum())
    return total


def to_bfloat16(values: Array) -> npt.NDArray[np.uint16]:
    """Return the bfloat16 bits nearest to ``values`` (ties to even; every NaN becomes 0x7FC0)."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    rounded = ((bits + (0x7FFF + ((bits >> 16) & 1))) >> 16).astype(np.uint16)
    rounded[np.isnan(values)] = 0x7FC0
    return rounded


def widen_bfloat16(bits: npt.NDArray[np.uint16]) -> npt.NDArray[np.float32]:
    """Return the float32 values of bfloat16 bits; exact."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


def _encode_fixed(stream: Stream, tokens: list[Array] | Array, kind: pa.DataType) -> pa.Array:
    rows = len(tokens)
    if not isinstance(tokens, np.ndarray):
        for array in tokens:
            _check_shape(stream, np.shape(array))
        tokens = np.stack(tokens) if rows else _no_rows(stream)
    _check_shape(stream, tokens.shape[1:])
    stored = _stored(stream, tokens).reshape(rows, values_per_sample(stream) or 0)
    if pa.types.is_fixed_size_binary(kind):
        packed = pack(stored, bits_per_value(stream))
        return pa.Array.from_buffers(kind, rows, [None, pa.py_buffer(packed)])
    return pa.FixedSizeListArray.from_arrays(_values(stored, kind.value_type), type=kind)


def _no_rows(stream: Stream) -> Array:
    return np.empty((0, *(size or 0 for size in stream.shape)), stream.storage_dtype)


def _encode_variable(
    stream: Stream, tokens: list[Array], fields: list[pa.Field]
) -> tuple[pa.Array, pa.Array]:
    for array in tokens:
        _check_shape(stream, np.shape(array))
    shapes = np.array([array.shape for array in tokens], np.int32).reshape(-1, len(stream.shape))
    shape = pa.FixedSizeListArray.from_arrays(pa.array(shapes.reshape(-1)), type=fields[1].type)
    stored = [_stored(stream, array).reshape(-1) for array in tokens]
    kind = fields[0].type
    if pa.types.is_binary(kind):
        stored = [pack(values[np.newaxis], bits_per_value(stream))[0] for values in stored]
    lengths = [len(values) for values in stored]
    if sum(lengths) >= 2**31:
        raise ValueError(
            f"stream {stream.name!r}: {sum(lengths)} values in one batch of {len(tokens)} samples; "
            "a column holds fewer than 2**31, write smaller batches"
        )
    offsets = pa.array(np.cumsum([0, *lengths], dtype=np.int32))
    flat = np.concatenate(stored) if stored else np.empty(0, _item_dtype(stream, kind))
    if pa.types.is_binary(kind):
        buffers = [None, offsets.buffers()[1], pa.py_buffer(flat)]
        return pa.Array.from_buffers(kind, len(tokens), buffers), shape
    values = _values(flat, kind.value_type)
    return pa.ListArray.from_arrays(offsets, values, type=kind), shape


def _item_dtype(stream: Stream, kind: pa.DataType) -> str:
    return "uint8" if pa.types.is_binary(kind) else stream.storage_dtype


def _values(array: Array, kind: pa.DataType) -> pa.Array:
    """Wrap a contiguous array without copying it."""
    flat = np.ascontiguousarray(array).reshape(-1)
    return pa.Array.from_buffers(kind, flat.size, [None, pa.py_buffer(flat)])


def _decode_variable(
    column: pa.Array, stream: Stream, shapes: Array, packing: Packing
) -> list[Array]:
    ends = np.frombuffer(column.buffers()[1], np.int32)[column.offset :][: len(column) + 1]
    if not is_packed(stream, packing):
        values: Array = column.values.to_numpy(zero_copy_only=True)
        return [
            values[start:stop].reshape(shape)
            for start, stop, shape in zip(ends[:-1], ends[1:], shapes, strict=True)
        ]
    data = np.frombuffer(column.buffers()[2] or b"", np.uint8)
    bits = bits_per_value(stream)
    out: list[Array] = []
    for start, shape in zip(ends[:-1], shapes, strict=True):
        count = int(np.prod(shape, dtype=np.int64))
        row = data[start : start + packed_bytes(count, bits)][np.newaxis]
        values = unpack(row, bits, count).astype(stream.storage_dtype, copy=False)
        out.append(values.reshape(shape))
    return out


def _stored(stream: Stream, array: Array) -> Array:
    """Check values and return them in the storage dtype."""
    if stream.kind == "float":
        return _stored_float(stream, array)
    if array.dtype.kind not in "iub":
        raise ValueError(f"stream {stream.name!r} holds integers, got dtype {array.dtype}")
    if array.size:
        _check_range(stream, array)
    return array.astype(stream.storage_dtype, copy=False)


def _check_range(stream: Stream, array: Array) -> None:
    tops = np.array(stream.vocab_sizes if stream.kind == "index" else (2,), dtype=np.uint64)
    if len(tops) == 1:
        low, high, top = array.min(), array.max(), tops[0]
    else:
        books = array.reshape(-1, len(tops))
        over = int(np.argmax(books.max(axis=0).astype(np.int64) - tops.astype(np.int64)))
        low, high, top = books.min(), books[:, over].max(), tops[over]
    if int(low) < 0 or int(high) >= int(top):
        raise ValueError(
            f"stream {stream.name!r}: values must be in [0, {top}), got {low} to {high}; "
            "the spec's vocabulary and the encoder do not agree"
        )


def _stored_float(stream: Stream, array: Array) -> Array:
    if stream.dtype == "bfloat16" and array.dtype == np.uint16:
        return array
    if array.dtype.kind != "f":
        raise ValueError(f"stream {stream.name!r} holds {stream.dtype}, got dtype {array.dtype}")
    if stream.dtype == "bfloat16":
        return to_bfloat16(array)
    with np.errstate(over="ignore"):
        stored = array.astype(stream.dtype, copy=False)
    if np.any(np.isinf(stored) & np.isfinite(array)):
        raise ValueError(
            f"stream {stream.name!r}: a value of magnitude {np.abs(array).max()} is beyond "
            f"{stream.dtype}; store float32 or bfloat16"
        )
    return stored


def _check_shape(stream: Stream, shape: Sequence[int]) -> None:
    want = stream.shape
    fits = len(want) == len(shape) and all(
        size is None or size == got for size, got in zip(want, shape, strict=True)
    )
    if not fits:
        sizes = tuple("any" if size is None else size for size in want)
        raise ValueError(f"stream {stream.name!r}: a sample's shape is {sizes}, got {tuple(shape)}")


def _check_names(wanted: list[str], got: list[str], what: str) -> None:
    missing, unknown = sorted(set(wanted) - set(got)), sorted(set(got) - set(wanted))
    if missing or unknown:
        raise ValueError(f"{what}: missing {missing}, unknown {unknown}; the layout has {wanted}")


def _columns_of(extras: pa.RecordBatch | Mapping[str, Any]) -> Mapping[str, Any]:
    if isinstance(extras, pa.RecordBatch):
        return dict(zip(extras.schema.names, extras.columns, strict=True))
    return extras


def _column(values: Any, field: pa.Field) -> pa.Array:
    if isinstance(values, pa.ChunkedArray):
        values = values.combine_chunks()
    if not isinstance(values, pa.Array):
        values = pa.array(values, type=field.type)
    array = values if values.type == field.type else values.cast(field.type)
    if array.null_count and not field.nullable:
        raise ValueError(f"column {field.name!r} has {array.null_count} nulls but may have none")
    return array
