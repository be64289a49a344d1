"""What a column group is made of: tables with a key column, or another store's streams."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from tokenmill.store.groups.names import stored_names
from tokenmill.store.locate import KEYS, By
from tokenmill_infra.storage.paths import without_credentials
from tokenmill_schemas.arrow import ShardLayout
from tokenmill_schemas.errors import JobError
from tokenmill_schemas.strict import nearest
from tokenmill_schemas.tokens import TokenSpec

if TYPE_CHECKING:
    from tokenmill.store.version import Version

#: JSON that is parsed at once; the types of its fields are told by the first so many bytes.
JSON_BLOCK_BYTES = 16 * 2**20
BATCH_ROWS = 16384
Reader = Callable[[], Iterator[pa.RecordBatch]]


@dataclass(frozen=True, slots=True)
class GroupInput:
    """Rows to add to samples.

    ``layout`` has the streams and the columns that they bring; ``by`` says what they are joined by:
    the id of a sample, or the key of an asset, whose samples all get the row. ``parts`` say how the
    tokens were made, {} where there are none. ``read`` yields batches of the column ``by``, the
    streams as they are stored, and the columns, in types that can be cast to those of the layout.
    """

    layout: ShardLayout
    by: By
    read: Reader
    parts: dict[str, Any] = field(default_factory=dict)

    @property
    def names(self) -> list[str]:
        """The columns of a batch, but the one that they are joined by."""
        return [*stored_names(self.layout.spec), *self.layout.extras.names]


def from_table(
    data: pa.Table | pa.RecordBatch | Iterable[pa.RecordBatch],
    *,
    columns: Mapping[str, str] | None = None,
    by: By | None = None,
) -> GroupInput:
    """Return the rows of an Arrow table, or of record batches, as input of a column group.

    Args:
        data: Rows with a column ``sample_id`` or ``asset_key``.
        columns: Which columns to take, and what to call them; None takes all others as they are.
        by: Which of the two they are joined by; None takes ``sample_id`` where there is one.

    Raises:
        JobError: there is no such column.
    """
    if isinstance(data, pa.RecordBatch):
        data = pa.Table.from_batches([data])
    batches = data.to_batches() if isinstance(data, pa.Table) else list(data)
    if not isinstance(data, pa.Table) and not batches:
        raise JobError("has no rows", path="columns")
    schema = data.schema if isinstance(data, pa.Table) else batches[0].schema
    return _tabular(schema, lambda: iter(batches), columns, by)


def from_files(
    *urls: str,
    columns: Mapping[str, str] | None = None,
    by: By | None = None,
    options: Mapping[str, Any] | None = None,
) -> GroupInput:
    """Return the rows of Parquet, JSONL or Arrow files as input of a column group.

    Args:
        *urls: Paths or URLs; braces and wildcards are expanded. All files have the columns of the
            first one, and are read one after the other, not held.
        columns: Which columns to take, and what to call them; None takes all others as they are.
        by: ``sample_id`` or ``asset_key``; None takes ``sample_id`` where there is one.
        options: fsspec's, for URLs.

    Raises:
        JobError: a file is missing, of no such kind, or lacks a column.
    """
    from tokenmill.sources.places import expand

    given = dict(options or {})
    files = expand(urls, given)
    schema = _open(files[0], given, None)[0]

    def read() -> Iterator[pa.RecordBatch]:
        for url in files:
            yield from _open(url, given, schema)[1]

    return _tabular(schema, read, columns, by)


def from_store(
    version: Version,
    streams: Mapping[str, str] | None = None,
    columns: Mapping[str, str] | None = None,
) -> GroupInput:
    """Return another store's tokens of the same samples as input of a column group.

    Args:
        version: Where they are; what it hides is left out.
        streams: Which of its own streams to take, and what to call them; None takes all.
        columns: Which companion columns to take, and what to call them; None takes none.

    Raises:
        JobError: there is no such stream or column.
        StoreError: the version has no samples.
    """
    layout = version.layout()
    there = {stream.name: stream for stream in layout.spec.streams}
    chosen = dict(streams) if streams is not None else {name: name for name in there}
    _check(chosen, list(there), "streams")
    taken = dict(columns or {})
    _check(taken, [n for n in layout.extras.names if n not in there], "columns")
    spec = TokenSpec(
        tuple(
            replace(there[old], name=new, aligned_with=chosen.get(there[old].aligned_with, ""))
            for old, new in chosen.items()
        )
    )
    extras = _nullable(pa.schema([layout.extras.field(old) for old in taken]), taken)
    olds = stored_names(TokenSpec(tuple(there[old] for old in chosen)))
    names = [*stored_names(spec), *taken.values()]

    def read() -> Iterator[pa.RecordBatch]:
        for batch in version.scan(["sample_id", *olds, *taken]):
            yield batch.rename_columns(["sample_id", *names])

    made = ShardLayout(spec, layout.packing, extras)
    return GroupInput(made, "sample_id", read, version.snapshot.fingerprint_parts)


def _tabular(
    schema: pa.Schema, read: Reader, columns: Mapping[str, str] | None, by: By | None
) -> GroupInput:
    keys = [name for name in KEYS if name in schema.names]
    joined: By = by or ("sample_id" if "sample_id" in keys or not keys else "asset_key")
    if joined not in keys:
        raise JobError(f"has no column {joined!r} to join by, only {schema.names}", path="by")
    others = [name for name in schema.names if name not in KEYS]
    taken = dict(columns) if columns is not None else {name: name for name in others}
    _check(taken, others, "columns")
    if not taken:
        raise JobError(f"has no column beside {joined!r}", path="columns")
    extras = _nullable(pa.schema([schema.field(name) for name in taken]), taken)

    def chosen() -> Iterator[pa.RecordBatch]:
        for batch in read():
            yield _chosen(batch, joined, taken)

    return GroupInput(ShardLayout(TokenSpec(()), extras=extras), joined, chosen)


def _chosen(batch: pa.RecordBatch, by: str, taken: Mapping[str, str]) -> pa.RecordBatch:
    lacking = [name for name in (by, *taken) if name not in batch.schema.names]
    if lacking:
        raise JobError(f"a later part has no columns {lacking}", path="columns")
    keys = batch.column(by).cast(pa.string())
    if keys.null_count:
        raise JobError(f"{keys.null_count} rows have no {by!r}", path="by")
    arrays = [keys, *(batch.column(name) for name in taken)]
    return pa.RecordBatch.from_arrays(arrays, names=[by, *taken.values()])


def _nullable(schema: pa.Schema, names: Mapping[str, str]) -> pa.Schema:
    """Return columns under their new names: without values some rows will be, codes none."""
    return pa.schema([pa.field(names[f.name], _plain(f.type)) for f in schema])


def _plain(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_dictionary(kind):
        return _plain(kind.value_type)
    if pa.types.is_null(kind) or pa.types.is_string_view(kind):
        return pa.string()
    return pa.binary() if pa.types.is_binary_view(kind) else kind


def _check(taken: Mapping[str, str], there: list[str], what: str) -> None:
    for name in taken:
        if name not in there:
            hint = nearest(name, there) if there else "there is none"
            raise JobError(f"there is no {name!r}; {hint}", path=what)
    if len(set(taken.values())) != len(taken):
        raise JobError(f"gives two of them one name: {sorted(taken.values())}", path=what)


def _open(
    url: str, options: dict[str, Any], schema: pa.Schema | None
) -> tuple[pa.Schema, Iterator[pa.RecordBatch]]:
    """Return a file's schema and its rows; JSON is read as ``schema`` says, if that is given."""
    name = url.rsplit("/", 1)[-1].lower()
    if name.endswith((".parquet", ".pq")):
        return _parquet(url, options)
    if name.endswith((".arrow", ".feather", ".ipc")):
        return _arrow(url, options)
    if ".json" in name or ".ndjson" in name:
        return _json(url, options, schema)
    raise JobError(
        f"{without_credentials(url)} is not named as a .parquet, .jsonl or .arrow file",
        path="columns",
    )


def _parquet(url: str, options: dict[str, Any]) -> tuple[pa.Schema, Iterator[pa.RecordBatch]]:
    from tokenmill.sources.places import open_file

    def rows() -> Iterator[pa.RecordBatch]:
        with open_file(url, options) as stream, pq.ParquetFile(stream, pre_buffer=True) as file:
            yield from file.iter_batches(BATCH_ROWS)

    with open_file(url, options) as stream:
        try:
            return pq.read_schema(stream), rows()
        except pa.ArrowInvalid as error:
            raise _unreadable(url, error) from error


def _arrow(url: str, options: dict[str, Any]) -> tuple[pa.Schema, Iterator[pa.RecordBatch]]:
    from tokenmill.sources.places import open_file

    def rows() -> Iterator[pa.RecordBatch]:
        with open_file(url, options) as stream:
            reader = pa.ipc.open_file(pa.PythonFile(stream, mode="r"))
            for index in range(reader.num_record_batches):
                yield reader.get_batch(index)

    with open_file(url, options) as stream:
        try:
            return pa.ipc.open_file(pa.PythonFile(stream, mode="r")).schema, rows()
        except pa.ArrowInvalid as error:
            raise _unreadable(url, error) from error


def _json(
    url: str, options: dict[str, Any], schema: pa.Schema | None
) -> tuple[pa.Schema, Iterator[pa.RecordBatch]]:
    from pyarrow import json

    from tokenmill.sources.places import open_file

    def batches(wanted: pa.Schema | None) -> Iterator[pa.RecordBatch]:
        read = json.ReadOptions(use_threads=False, block_size=JSON_BLOCK_BYTES)
        with open_file(url, options, compression="infer") as stream:
            try:
                yield from json.open_json(stream, read, json.ParseOptions(explicit_schema=wanted))
            except pa.ArrowInvalid as error:
                raise _unreadable(url, error) from error

    if schema is None:
        first = next(batches(None), None)
        if first is None:
            raise JobError(f"{without_credentials(url)} has no rows", path="columns")
        schema = pa.schema([pa.field(f.name, _plain(f.type)) for f in first.schema])
    return schema, batches(schema)


def _unreadable(url: str, error: Exception) -> JobError:
    return JobError(f"{without_credentials(url)} cannot be read: {error}", path="columns")
