"""Source ``parquet``: tables with a uri column, or with the assets' bytes in a column."""

from __future__ import annotations

import bisect
import os
import threading
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from tokenmill.sources.opening import (
    as_asset_errors,
    checked,
    failure,
    is_modified,
    open_asset,
)
from tokenmill.sources.places import expand, local_path, open_file, size_and_version, stems
from tokenmill.sources.rows import BATCH_ROWS, ModalityRule, Row, batch_of, modalities_of
from tokenmill.sources.tables import Names, folder_of, rows_of
from tokenmill_infra.storage.paths import without_credentials
from tokenmill_schemas.asset import AssetRef
from tokenmill_schemas.canonical import canonical_json
from tokenmill_schemas.errors import JobError, Reason
from tokenmill_schemas.increment import CONTENT

#: Open readers a thread keeps, and rows whose bytes a reader holds at a time.
READERS = 4
HELD_ROWS = 32


@dataclass(frozen=True, slots=True)
class ParquetSource:
    """Assets of the rows of Parquet files, with the companion ``columns`` in their own types.

    ``bytes`` names a binary column that holds the assets (``image.bytes`` reaches into a struct,
    as Hugging Face datasets have it); without it ``uri`` names where they lie. ``size`` and
    ``version`` name columns that spare a look at each file. ``modality`` "auto" goes by the
    extension of the uri, or of the key where the bytes lie in the table.
    """

    urls: tuple[str, ...]
    uri: str = "uri"
    bytes: str = ""
    key: str = ""
    size: str = ""
    version: str = ""
    columns: tuple[str, ...] = ()
    base: str = ""
    modality: ModalityRule = "auto"
    options: dict[str, Any] = field(default_factory=dict)

    def companions(self) -> pa.Schema:
        """Return the types of ``columns`` in the first file.

        Raises:
            JobError: a file cannot be read or lacks a column.
        """
        url = expand(self.urls, self.options)[0]
        with _open_table(url, self.options) as table:
            schema = table.schema_arrow
        self._check(url, schema)
        return pa.schema([pa.field(name, schema.field(name).type) for name in self.columns])

    def list(self) -> Iterator[pa.RecordBatch]:
        """Yield the listing in the order of its rows.

        Raises:
            JobError: a file cannot be read, lacks a column, or has other types than the first.
        """
        schema = self.companions()
        files = expand(self.urls, self.options)
        for url, stem in zip(files, stems(files), strict=True):
            yield from self._table(url, stem, schema)

    def open(self, ref: AssetRef) -> BinaryIO:
        """Open the file that a row named, or a row's own bytes.

        Raises:
            AssetError: it is not there, cannot be read, or has changed since it was listed.
            TransientError: the storage failed after its retries.
        """
        if not ref.locator.startswith("row="):
            return open_asset(ref, self.options)
        row = int(ref.locator.removeprefix("row="))
        with as_asset_errors(ref):
            data = _reader(ref, self.bytes, self.options).take(row)
        if data is None:
            raise failure(ref, Reason.NOT_FOUND, f"column {self.bytes!r} is null in row {row}")
        return checked(ref, data)

    def _check(self, url: str, schema: pa.Schema) -> None:
        named = {"bytes": self.bytes.split(".")[0]} if self.bytes else {"uri": self.uri}
        named |= {"key": self.key, "size": self.size, "version": self.version}
        wanted = [(option, name) for option, name in named.items() if name]
        for option, name in (*wanted, *(("columns", name) for name in self.columns)):
            if name not in schema.names:
                text = f"{without_credentials(url)} has no column {name!r}, only {schema.names}"
                raise JobError(text, path=f"source.{option}")

    def _table(self, url: str, stem: str, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
        version = size_and_version(url, self.options)[1] if self.bytes else ""
        names = Names("" if self.bytes else self.uri, self.key, self.size, self.version)
        with _open_table(url, self.options) as table:
            self._check(url, table.schema_arrow)
            first = 0
            wanted = list(dict.fromkeys([*names.all(), *self.columns]))
            for batch in _batches(table, wanted):
                keys = [f"{stem}#{row}" for row in range(first, first + batch.num_rows)]
                values = batch.select(names.all()).to_pylist() or [{}] * batch.num_rows
                rows = rows_of(values, names, base=self.base or folder_of(url), default_keys=keys)
                if self.bytes:
                    rows = [_in_table(row, url, first + i, version) for i, row in enumerate(rows)]
                # Bytes in a table have no name of their own but, with luck, their key.
                named = (key if self.bytes else uri for key, uri, *_ in rows)
                modalities = modalities_of(named, self.modality)
                columns = _cast(batch, schema, url)
                yield batch_of(rows, columns, modalities=modalities, schema=schema)
                first += batch.num_rows


def _in_table(row: Row, url: str, number: int, version: str) -> Row:
    key, _, _, size, own = row
    return key, url, f"row={number}", size, own or version


def _batches(table: pq.ParquetFile, names: list[str]) -> Iterator[pa.RecordBatch]:
    """Yield the columns ``names``; with none of them, a column of nulls that counts the rows."""
    if names:
        yield from table.iter_batches(BATCH_ROWS, columns=names)
        return
    rows = table.metadata.num_rows
    for start in range(0, rows, BATCH_ROWS):
        count = min(BATCH_ROWS, rows - start)
        yield pa.RecordBatch.from_arrays([pa.nulls(count)], ["rows"])


def _cast(batch: pa.RecordBatch, schema: pa.Schema, url: str) -> list[pa.Array]:
    try:
        return [batch.column(column.name).cast(column.type) for column in schema]
    except pa.ArrowInvalid as error:
        text = f"{without_credentials(url)} has other types than the first file: {error}"
        raise JobError(text, path="source.columns") from error


def _open_table(url: str, options: dict[str, Any]) -> pq.ParquetFile:
    stream = open_file(url, options)
    try:
        return pq.ParquetFile(stream, pre_buffer=False, buffer_size=2**20)
    except pa.ArrowInvalid as error:
        stream.close()
        text = f"{without_credentials(url)} is not Parquet: {error}"
        raise JobError(text, path="source.urls") from error


class _Reader:
    """One open file of one thread: goes forward in a row group, a few rows in memory at a time."""

    def __init__(self, table: pq.ParquetFile, column: str) -> None:
        self._table, self._column = table, column
        metadata = table.metadata
        counts = [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]
        self._starts = [sum(counts[:i]) for i in range(len(counts))]
        self._group = -1
        self._first, self._held = 0, pa.array([], pa.binary())
        self._batches: Iterator[pa.RecordBatch] = iter(())

    def take(self, row: int) -> bytes | None:
        """Return the bytes of a row of the file."""
        group = bisect.bisect_right(self._starts, row) - 1
        if group != self._group or row < self._first:
            self._group, self._first = group, self._starts[group]
            self._held = pa.array([], pa.binary())
            self._batches = self._table.iter_batches(
                HELD_ROWS, row_groups=[group], columns=[self._column]
            )
        while row >= self._first + len(self._held):
            self._first += len(self._held)
            batch = next(self._batches, None)
            if batch is None:
                raise ValueError(f"the table has no row {row}")
            self._held = _leaf(batch, self._column)
        data: bytes | None = self._held[row - self._first].as_py()
        return data


def _leaf(batch: pa.RecordBatch, column: str) -> pa.Array:
    first, *inner = column.split(".")
    array = batch.column(first)
    for name in inner:
        array = array.field(name)
    return array


_OPEN = threading.local()


def _reader(ref: AssetRef, column: str, options: dict[str, Any]) -> _Reader:
    """Return this thread's reader of a file; the oldest of ``READERS`` makes room."""
    readers: OrderedDict[tuple[str, ...], _Reader] = _OPEN.__dict__.setdefault(
        "readers", OrderedDict()
    )
    version = ref.version.partition(CONTENT)[0]  # the table's, where it is not the row's own
    place = (ref.uri, version, column, canonical_json(options).decode())
    if place not in readers:
        readers[place] = _opened(ref, column, options)
        if len(readers) > READERS:
            readers.popitem(last=False)
    readers.move_to_end(place)
    return readers[place]


def _opened(ref: AssetRef, column: str, options: dict[str, Any]) -> _Reader:
    path = local_path(ref.uri)
    # Where hashes of the rows are known, they tell it better.
    if path is not None and CONTENT not in ref.version and is_modified(ref, os.stat(path)):  # noqa: PTH116
        raise failure(ref, Reason.CHANGED, "its table was modified since it was listed: list again")
    try:
        return _Reader(_open_table(ref.uri, options), column)
    except JobError as error:
        reason = (
            Reason.NOT_FOUND
            if isinstance(error.__cause__, FileNotFoundError)
            else Reason.UNREADABLE
        )
        raise failure(ref, reason, str(error)) from error


PLUGIN = ParquetSource
