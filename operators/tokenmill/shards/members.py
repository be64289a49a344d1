"""What the members of a tar shard hold: tokens as ``.npy``, everything else as ``.json``."""

from __future__ import annotations

import base64
import re

import numpy as np
import pyarrow as pa

from tokenmill.shards.columns import decode_stream, fixed_rows, stored_row
from tokenmill.shards.ustar import npy_header
from tokenmill_schemas.arrow import Packing, ShardLayout, is_packed
from tokenmill_schemas.canonical import canonical_json
from tokenmill_schemas.tokens import Stream


def json_columns(layout: ShardLayout) -> list[str]:
    """Return the columns that a sample's ``.json`` member holds: all but the tokens."""
    streams = {stream.name for stream in layout.spec.streams}
    return [name for name in layout.schema.names if name not in streams]


def npy_members(batch: pa.RecordBatch, stream: Stream, packing: Packing) -> list[bytes]:
    """Return every sample's tokens of one stream as the bytes of an ``.npy`` file."""
    column = batch.column(stream.name)
    if is_packed(stream, packing):
        values = [np.frombuffer(value, np.uint8) for value in column.to_pylist()]
    elif stream.is_fixed:
        values = list(fixed_rows(column).reshape(len(column), *stored_shape(stream, packing)))
    else:
        values = list(decode_stream(batch, stream, packing))
    return [npy_header(value.dtype.str, value.shape) + value.tobytes() for value in values]


def describe(layout: ShardLayout, batch_rows: int) -> str:
    """Return the JSON that travels in the archive's comment."""
    schema = base64.b64encode(layout.schema.serialize()).decode()
    return canonical_json({"batch_rows": batch_rows, "schema": schema}).decode()


def check_stream_names(layout: ShardLayout) -> None:
    """Check that every stream's name can be part of a member's name.

    Raises:
        ValueError: one cannot.
    """
    # WebDataset lower-cases suffixes and takes the last dotted part as the type.
    bad = [s.name for s in layout.spec.streams if not re.fullmatch(r"[a-z0-9_-]{1,60}", s.name)]
    if bad:
        raise ValueError(f"streams {bad}: tar members need names of a-z, 0-9, _ and -")


def stored_shape(stream: Stream, packing: Packing) -> tuple[int, ...]:
    """Return the shape of a fixed-shape stream's ``.npy`` member."""
    if is_packed(stream, packing):
        return (stored_row(stream, packing)[0],)
    return tuple(size or 0 for size in stream.shape)
