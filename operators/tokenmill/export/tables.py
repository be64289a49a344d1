"""Parquet files of plain samples: tokens as lists, companions as they are."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

import pyarrow as pa
import pyarrow.parquet as pq

from tokenmill.export.base import Target
from tokenmill.export.samples import Samples, plain_batch, plain_schema
from tokenmill_schemas.canonical import canonical_json

#: A row group has no more than so many bytes in memory, which is what writing one takes.
GROUP_BYTES = 32 * 2**20


@dataclass(slots=True)
class Tables:
    """Writes rows of one schema to numbered Parquet files, each cut at ``file_bytes`` in memory.

    Rows are gathered to row groups by their size in memory, so equal rows give equal files.
    """

    target: Target
    schema: pa.Schema
    name: Callable[[int], str]
    file_bytes: int
    rows: list[int] = field(default_factory=list)
    _held: list[pa.RecordBatch] = field(default_factory=list)
    _held_bytes: int = 0
    _file: _File | None = None

    def write(self, batch: pa.RecordBatch) -> None:
        """Append rows."""
        self._held.append(batch)
        self._held_bytes += batch.nbytes
        if self._held_bytes >= min(GROUP_BYTES, self.file_bytes):
            self._flush()
        if self._file is not None and self._file.bytes >= self.file_bytes:
            self._finish()

    def close(self) -> None:
        """Write what is left."""
        if self._held:
            self._flush()
        self._finish()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            self.close()
        elif self._file is not None:
            self._file.discard()

    def _flush(self) -> None:
        if self._file is None:
            self._file = _File(self.target, self.schema)
        self._file.write(pa.Table.from_batches(self._held, self.schema))
        self._held, self._held_bytes = [], 0

    def _finish(self) -> None:
        if self._file is not None:
            self._file.publish(self.name(len(self.rows)))
            self.rows.append(self._file.rows)
            self._file = None


class _File:
    """One Parquet file on its way, in a scratch folder of its own."""

    def __init__(self, target: Target, schema: pa.Schema) -> None:
        self._target = target
        self._folder = ExitStack()
        self._path: Path = self._folder.enter_context(target.folder()) / "file.parquet"
        self._writer = pq.ParquetWriter(self._path, schema, compression="zstd")
        self.rows = self.bytes = 0

    def write(self, table: pa.Table) -> None:
        """Append a row group."""
        self._writer.write_table(table, row_group_size=max(1, table.num_rows))
        self.rows += table.num_rows
        self.bytes += table.nbytes

    def publish(self, path: str) -> None:
        """Put the file in its place."""
        self._writer.close()
        self._target.put_file(path, self._path)
        self._folder.close()

    def discard(self) -> None:
        """Leave nothing."""
        self._writer.close()
        self._folder.close()


def described(samples: Samples) -> pa.Schema:
    """Return the plain schema with the token spec and what the export is of in its metadata."""
    facts = {f"tokenmill.{k}": v for k, v in samples.facts.items()}
    metadata = {k: v if isinstance(v, str) else canonical_json(v) for k, v in facts.items()}
    return plain_schema(samples.layout).with_metadata(metadata)


def plain_batches(samples: Samples, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    """Yield all samples as rows of ``schema``."""
    for batch in samples.batches():
        yield plain_batch(batch, samples.layout, schema)
