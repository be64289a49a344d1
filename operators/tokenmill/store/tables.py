"""Small tables as content-addressed Parquet files: equal rows give equal bytes and names."""

from __future__ import annotations

import hashlib

import pyarrow as pa
import pyarrow.parquet as pq

from tokenmill_infra.storage.storage import Storage
from tokenmill_schemas.errors import CorruptShardError
from tokenmill_schemas.snapshot import FileRef


def parquet_bytes(table: pa.Table) -> bytes:
    """Return ``table`` as one Parquet file."""
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    return bytes(sink.getvalue())


def put_table(storage: Storage, folder: str, table: pa.Table) -> FileRef:
    """Write ``table`` below ``folder`` under its hash, unless it is there already."""
    data = parquet_bytes(table)
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


def read_table(storage: Storage, ref: FileRef, columns: list[str] | None = None) -> pa.Table:
    """Read a table back, or some of its columns, after checking its bytes.

    Raises:
        CorruptShardError: the file is missing or its bytes are not those that were committed.
    """
    data = checked_bytes(storage, ref)
    return pq.read_table(pa.BufferReader(data), columns=columns)


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
