"""Small tables as content-addressed Parquet files: equal rows give equal bytes and names.

A table of a version is a list of such files, oldest rows first. Appending merges files of similar
size, as log-structured trees do, so that a table of n rows is some log(n) files however many
commits it took, and a commit of a few rows writes a small file.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tokenmill.store import paths
from tokenmill_infra.storage import open_ranges
from tokenmill_infra.storage.storage import Storage
from tokenmill_schemas.errors import CorruptShardError
from tokenmill_schemas.snapshot import FileRef

T = TypeVar("T")
R = TypeVar("R")
#: Files read at once from an object store, where reading is waiting for answers.
THREADS = 16
#: Rows of one file, at the most.
FILE_ROWS = 65536
#: Bytes of one file's rows in memory, about: rows that are very long make more files.
FILE_BYTES = 256 * 2**20
#: Files up to this size are read whole and checked by their hash even where few columns are asked
#: for; of larger ones the pages that are read are checked by their own sums.
WHOLE_BYTES = 256 * 2**10


def parquet_bytes(table: pa.Table) -> bytes:
    """Return ``table`` as one Parquet file."""
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd", write_page_checksum=True)
    return bytes(sink.getvalue())


def put_table(storage: Storage, folder: str, table: pa.Table) -> FileRef:
    """Write ``table`` below ``folder`` under its hash, unless it is there already.

    A column without a single value is left out: `conform` gives it back.
    """
    data = parquet_bytes(_told(table))
    sha256 = hashlib.sha256(data).hexdigest()
    path = f"{folder}/{sha256}.parquet"
    put_once(storage, path, data)
    return FileRef(path, sha256, table.num_rows, len(data))


def put_once(storage: Storage, path: str, data: bytes) -> None:
    """Create a content-addressed file; finding it there already is as good."""
    try:
        storage.create(path, data)
    except FileExistsError:
        return


def put_rows(storage: Storage, folder: str, table: pa.Table) -> tuple[FileRef, ...]:
    """Write a table as files of at most `FILE_ROWS` rows; none if it has no rows."""
    fit = FILE_BYTES * table.num_rows // max(1, table.nbytes)
    rows = min(FILE_ROWS, max(1, fit))
    starts = range(0, table.num_rows, rows)
    return tuple(put_table(storage, folder, table.slice(i, rows)) for i in starts)


def append_rows(
    storage: Storage, folder: str, refs: Sequence[FileRef], table: pa.Table
) -> tuple[FileRef, ...]:
    """Return the files of a table with the rows of ``table`` behind those of ``refs``.

    Files at the end are rewritten into one as long as each is less than twice as large as what
    follows it, and together they stay within `FILE_ROWS` and `FILE_BYTES`.
    """
    if not table.num_rows:
        return tuple(refs)
    kept = list(refs)
    while kept and kept[-1].rows < 2 * table.num_rows:
        if kept[-1].rows + table.num_rows > FILE_ROWS:
            break
        if kept[-1].bytes + table.nbytes > FILE_BYTES:
            break
        before = conform(read_table(storage, kept.pop()), table.schema)
        table = pa.concat_tables([before, table])
    return (*kept, *put_rows(storage, folder, table))


def filter_rows(
    storage: Storage, folder: str, refs: Sequence[FileRef], *, column: str, without: Iterable[str]
) -> tuple[FileRef, ...]:
    """Return the files of a table without the rows whose ``column`` is in ``without``.

    Files that hold none of them stay as they are.
    """
    unwanted = pa.array(sorted(without), pa.string())
    made: list[FileRef] = []
    for ref in refs:
        table = read_table(storage, ref)
        stays = pc.invert(pc.is_in(table.column(column), value_set=unwanted))
        if pc.all(stays).as_py():
            made.append(ref)
        elif pc.any(stays).as_py():
            made.append(put_table(storage, folder, table.filter(stays)))
    return tuple(made)


def read_tables(
    storage: Storage,
    refs: Iterable[FileRef],
    schema: pa.Schema,
    columns: Sequence[str] | None = None,
) -> pa.Table:
    """Return all rows of a table's files, or some columns of them.

    Raises:
        CorruptShardError: a file is missing or its bytes are not those that were committed.
    """
    wanted = pa.schema([schema.field(name) for name in columns or schema.names])
    tables = at_once(storage, lambda ref: read_table(storage, ref, wanted.names), tuple(refs))
    conforming = [conform(table, wanted) for table in tables]
    # Making an empty table imports pandas where that is installed: a quarter of a second.
    return pa.concat_tables(conforming) if conforming else wanted.empty_table()


def at_once(storage: Storage, read: Callable[[T], R], items: Sequence[T]) -> Iterator[R]:
    """Yield what ``read`` gives for each item, in order; on an object store some are under way."""
    if len(items) < 2 or storage.local(paths.LOG) is not None:
        yield from map(read, items)
        return
    with ThreadPoolExecutor(min(THREADS, len(items)), thread_name_prefix="tables") as threads:
        yield from threads.map(read, items)


def conform(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """Return ``table`` with the columns of ``schema``.

    Of what an older writer left out, text is "", and what may be null is null.
    """
    arrays = [
        table.column(field.name) if field.name in table.schema.names else _left_out(field, table)
        for field in schema
    ]
    return pa.table(arrays, schema=schema)


def _left_out(field: pa.Field, table: pa.Table) -> pa.Array:
    if field.nullable:
        return pa.nulls(table.num_rows, field.type)
    return pa.array([""] * table.num_rows, field.type)


def _told(table: pa.Table) -> pa.Table:
    """Return ``table`` without the columns that may be null and are so in every row."""
    nothing = [
        field.name
        for field, column in zip(table.schema, table.columns, strict=True)
        if field.nullable and column.null_count == table.num_rows
    ]
    return table.drop_columns(nothing) if nothing and table.num_rows else table


def read_table(storage: Storage, ref: FileRef, columns: Sequence[str] | None = None) -> pa.Table:
    """Read a table file back, or those of ``columns`` that it has, after checking its bytes.

    Raises:
        CorruptShardError: the file is missing or its bytes are not those that were committed.
    """
    if columns is not None and ref.bytes > WHOLE_BYTES:
        names = columns
        return _by_ranges(storage, ref, lambda file: file.read(columns=_there(file, names)))
    with pq.ParquetFile(pa.BufferReader(checked_bytes(storage, ref))) as file:
        return file.read(columns=_there(file, columns))


def read_head(storage: Storage, ref: FileRef, columns: Sequence[str], rows: int) -> pa.Table:
    """Read the first ``rows`` rows of a table file, which costs little more than they are.

    Raises:
        CorruptShardError: the file is missing or its bytes are not those that were committed.
    """
    if ref.bytes <= WHOLE_BYTES:
        return read_table(storage, ref, columns).slice(0, rows)

    def read(file: pq.ParquetFile) -> pa.Table:
        count, found = 0, []
        for batch in file.iter_batches(rows, columns=_there(file, columns), use_threads=False):
            found.append(batch)
            count += batch.num_rows
            if count >= rows:
                break
        return pa.Table.from_batches(found).slice(0, rows)

    return _by_ranges(storage, ref, read)


def _there(file: pq.ParquetFile, columns: Sequence[str] | None) -> list[str]:
    names: list[str] = file.schema_arrow.names
    return names if columns is None else [name for name in columns if name in names]


def _by_ranges(
    storage: Storage, ref: FileRef, read: Callable[[pq.ParquetFile], pa.Table]
) -> pa.Table:
    """Return what ``read`` reads of a table file, whose pages are checked by their own sums."""
    try:
        with open_ranges(storage, ref.path) as stream:
            if stream.seek(0, io.SEEK_END) != ref.bytes:
                raise CorruptShardError(
                    f"{ref.path} is not of the {ref.bytes} bytes that were committed",
                    uri=storage.uri,
                )
            with pq.ParquetFile(stream, page_checksum_verification=True) as file:
                return read(file)
    except FileNotFoundError as error:
        raise CorruptShardError(f"{ref.path} is missing", uri=storage.uri) from error
    except (pa.ArrowException, OSError) as error:
        raise CorruptShardError(f"{ref.path} is damaged: {error}", uri=storage.uri) from error


def checked_bytes(storage: Storage, ref: FileRef) -> bytes:
    """Return a file's bytes after comparing their hash.

    Raises:
        CorruptShardError: the file is missing or its bytes are not those that were committed.
    """
    try:
        data = storage.read(ref.path)
    except FileNotFoundError as error:
        raise CorruptShardError(f"{ref.path} is missing", uri=storage.uri) from error
    found = hashlib.sha256(data).hexdigest()
    if found != ref.sha256:
        raise CorruptShardError(
            f"{ref.path} has sha256 {found}, committed was {ref.sha256}", uri=storage.uri
        )
    return data
