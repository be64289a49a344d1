"""Stored shards: opened whole, or some columns read without the rest where the format allows."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pyarrow as pa

from tokenmill.shards import open_shard
from tokenmill.shards.base import ShardReader
from tokenmill_infra.storage import open_ranges
from tokenmill_infra.storage.storage import Storage
from tokenmill_schemas.arrow import ShardLayout, layout_of
from tokenmill_schemas.errors import CorruptShardError


@contextmanager
def stored_shard(storage: Storage, path: str) -> Iterator[ShardReader]:
    """Open a stored shard; one on an object store is fetched whole into a temporary file.

    Raises:
        CorruptShardError: it is missing or not a whole shard.
    """
    local = storage.local(path)
    with ExitStack() as stack:
        try:
            if local is None:
                folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="tokenmill-"))
                local = Path(folder, Path(path).name)
                local.write_bytes(storage.read(path))
            reader = open_shard(local)
        except FileNotFoundError as error:
            raise CorruptShardError(f"{path} is missing", uri=storage.uri) from error
        try:
            yield reader
        finally:
            reader.close()


def stored_layout(storage: Storage, path: str) -> ShardLayout:
    """Return the columns of a stored shard; of an Arrow shard only its footer is read.

    Raises:
        CorruptShardError: it is missing or not a whole shard.
    """
    if storage.local(path) is not None or not path.endswith(".arrow"):
        with stored_shard(storage, path) as shard:
            return shard.layout
    try:
        with open_ranges(storage, path, ahead=True) as stream:
            return layout_of(pa.ipc.open_file(pa.PythonFile(stream, mode="r")).schema)
    except FileNotFoundError as error:
        raise CorruptShardError(f"{path} is missing", uri=storage.uri) from error
    except (pa.ArrowException, KeyError, ValueError) as error:
        raise CorruptShardError(f"{path} is damaged: {error}", uri=storage.uri) from error


def read_columns(storage: Storage, path: str, names: Sequence[str]) -> pa.Table:
    """Return columns of a stored shard, in its order of rows.

    Of an Arrow shard only those columns' bytes are read; any other is read whole.

    Raises:
        CorruptShardError: the shard is missing or not whole.
    """
    try:
        if path.endswith(".arrow"):
            return _of_arrow(storage, path, names)
        return _of_any(storage, path, names)
    except FileNotFoundError as error:
        raise CorruptShardError(f"{path} is missing", uri=storage.uri) from error
    except pa.ArrowException as error:
        raise CorruptShardError(f"{path} is damaged: {error}", uri=storage.uri) from error


def _of_arrow(storage: Storage, path: str, names: Sequence[str]) -> pa.Table:
    local = storage.local(path)
    if local is not None:
        with pa.memory_map(str(local)) as source:
            # Nothing is read before it is used, and choosing fields costs 20 times the opening.
            return pa.ipc.open_file(source).read_all().select(list(names))
    with open_ranges(storage, path, ahead=True) as stream:
        source = pa.PythonFile(stream, mode="r")
        schema = pa.ipc.open_file(source).schema
        wanted = [schema.get_field_index(name) for name in names]
        options = pa.ipc.IpcReadOptions(included_fields=wanted)
        return pa.ipc.open_file(source, options=options).read_all().select(list(names))


def _of_any(storage: Storage, path: str, names: Sequence[str]) -> pa.Table:
    with stored_shard(storage, path) as reader:
        schema = pa.schema([reader.layout.schema.field(name) for name in names])
        batches = [batch.select(list(names)) for batch in reader.batches()]
        return pa.Table.from_batches(batches, schema if not batches else None)
