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
        if not batch.schema.equals(self._schema, check_metadata=False):
            raise ValueError(
                f"the layout's columns are\n{self._schema.to_string(show_schema_metadata=False)}\n"
                f"got\n{batch.schema.to_string(show_schema_metadata=False)}"
            )
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
        arrays = [_fresh(column) for column in table.columns]
        return pa.RecordBatch.from_arrays(arrays, schema=self._schema)


def _fresh(column: pa.ChunkedArray) -> pa.Array:
    array = pa.concat_arrays(column.chunks)
    if not column.num_chunks or _is_plain(array.type):
        return array
    # A slice's bitmaps keep bits of its neighbours, and what stands under a null is anybody's
    # guess; taking every row writes both anew.
    return array.take(pa.array(np.arange(len(array))))


def _is_plain(kind: pa.DataType) -> bool:
    """Whether equal values have equal buffers already: token columns, which have no nulls."""
    return bool(pa.types.is_fixed_size_list(kind) or pa.types.is_fixed_size_binary(kind))
