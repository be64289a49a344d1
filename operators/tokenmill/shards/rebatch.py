"""Regrouping rows to record batches of one size: a shard's bytes must not tell how it was fed."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa

from tokenmill_schemas.arrow import ShardLayout


class Rebatcher:
    """Collects record batches and gives them back ``batch_rows`` rows at a time.

    What it gives back depends on the rows alone: every batch has fresh buffers without offsets,
    with zeros wherever a value is null.
    """

    def __init__(self, layout: ShardLayout, batch_rows: int) -> None:
        if batch_rows < 1:
            raise ValueError(f"batch_rows must be positive, got {batch_rows}")
        self._schema = layout.schema
        self._batch_rows = batch_rows
        self._held: list[pa.RecordBatch] = []
        self._rows = 0
        coded = [f.name for f in self._schema if pa.types.is_dictionary(f.type)]
        if coded:
            raise ValueError(f"columns {coded} are dictionary-encoded: cast them to their values")

    def add(self, batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
        """Take rows and yield every batch that they complete.

        Raises:
            ValueError: the batch has other columns than the layout.
        """
        check_schema(batch, self._schema)
        start = 0
        while start < batch.num_rows:
            piece = batch.slice(start, self._batch_rows - self._rows)
            self._held.append(piece)
            self._rows += piece.num_rows
            start += piece.num_rows
            if self._rows == self._batch_rows:
                yield self._flush()

    def rest(self) -> Iterator[pa.RecordBatch]:
        """Yield the rows that are left, if any, as one last, shorter batch."""
        if self._rows:
            yield self._flush()

    def _flush(self) -> pa.RecordBatch:
        table = pa.Table.from_batches(self._held, schema=self._schema)
        self._held, self._rows = [], 0
        columns = zip(self._schema, table.columns, strict=True)
        arrays = [_fresh(column, is_stream=_is_stream(field)) for field, column in columns]
        return pa.RecordBatch.from_arrays(arrays, schema=self._schema)


def check_schema(batch: pa.RecordBatch, schema: pa.Schema) -> None:
    """Check that a batch has the columns of a layout; metadata may differ.

    Raises:
        ValueError: it has others.
    """
    if not batch.schema.equals(schema, check_metadata=False):
        want, got = (s.to_string(show_schema_metadata=False) for s in (schema, batch.schema))
        raise ValueError(f"the layout's columns are\n{want}\ngot\n{got}")


def _fresh(column: pa.ChunkedArray, *, is_stream: bool) -> pa.Array:
    array = pa.concat_arrays(column.chunks)
    if is_stream:
        return array
    # A slice's bitmaps keep bits of its neighbours, and what stands under a null is anybody's
    # guess; taking every row writes both anew.
    return array.take(pa.array(np.arange(len(array))))


def _is_stream(field: pa.Field) -> bool:
    """Whether a column holds tokens: no nulls, so that equal values have equal buffers."""
    return b"tokenmill.stream" in (field.metadata or {})
