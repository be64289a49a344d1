"""A store or a feed as datasets of Hugging Face, for trainers that are built on those.

A `Feed` itself keeps the exact order under any number of ranks and workers, which no loader over
these does: read through them where a framework wants nothing else.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import datasets  # pyright: ignore[reportMissingImports]
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets.table import InMemoryTable, table_cast  # pyright: ignore[reportMissingImports]

from tokenmill.feed.columns import Batch, Values
from tokenmill.feed.parts import Mixture, OpenedPart, Part, Reading, open_parts
from tokenmill.feed.rows.opening import row_bytes
from tokenmill.feed.shards.files import ShardCache, default_cache
from tokenmill.store import Store
from tokenmill_schemas.arrow import is_packed
from tokenmill_schemas.canonical import digest
from tokenmill_schemas.errors import JobError

if TYPE_CHECKING:
    from tokenmill.feed.feed import Feed

#: Steps of a block: what a restored dataset reads again at most, and what goes to one worker.
BLOCK_STEPS = 64
#: Bytes of rows that are copied at once.
COPY_BYTES = 32 * 2**20
#: What a packed batch says of all its windows together, which no row of its own has.
OF_BATCHES = ("cu_seqlens", "max_seqlen")


def to_huggingface(feed: Feed, *, steps: int | None = None) -> datasets.IterableDataset:
    """Return the rows of a feed's steps, from where it stands, in its order.

    Streams are (nested) lists of their values; a packed feed's rows are its windows, less the
    boundaries that a batch has in common. The dataset's own ``state_dict`` restores it at the cost
    of `BLOCK_STEPS` steps at most; workers of a ``DataLoader`` over it share the blocks out among
    them, which is not the feed's order any more. It does not move the feed.

    Args:
        feed: It must pickle, its transforms too: datasets make a fingerprint of it.
        steps: How many steps; None is one epoch's.

    Raises:
        JobError: a transform makes an array that has no entry for each row.
    """
    end = feed.step + (len(feed) if steps is None else steps)
    first = list(range(feed.step, end, BLOCK_STEPS))
    batch = next(feed.iterate())
    schema = pa.schema([(name, _type_of(values)) for name, values in _by_row(batch).items()])
    return datasets.IterableDataset.from_generator(
        _generate,
        features=datasets.Features.from_arrow_schema(schema),
        gen_kwargs={"feed": feed, "first": first, "end": end},
    )


def read_huggingface(
    source: Store | str | Part,
    *,
    streams: Sequence[str] | None = None,
    columns: Sequence[str] = ("sample_id",),
    cache_dir: Path | None = None,
    cache: ShardCache | None = None,
) -> datasets.Dataset:
    """Return the samples that a version shows as a map-style dataset, in manifest order.

    Streams are nested lists of ``[*stream shape]`` in the type that a feed gives (bfloat16 as its
    uint16 bits). Where all that is read lies in local Arrow shards as it is, streams of fixed shape
    and not bit-packed, the shards themselves are mapped: nothing is copied, whatever their size,
    also when the dataset goes to another process. Otherwise an Arrow file is written once, and
    mapped.

    Args:
        source: A store or its URI, for its newest version; or a `tokenmill.feed.parts.Part` of it,
            which names the version and says ``where``.
        streams: Streams to read, also of column groups; None is all of the store's own.
        columns: Other columns to read, also of column groups.
        cache_dir: Where such a file is kept; None is the cache of ``datasets``.
        cache: Where shards of a store on an object store are kept.

    Raises:
        JobError: there is no such stream or column, or a condition does not fit the store.
        StoreError: there is no such store or snapshot.
    """
    part = source if isinstance(source, Part) else Part(source)
    reading = Reading(None if streams is None else tuple(streams), tuple(columns))
    found = open_parts(Mixture((part,)), reading, cache or ShardCache(default_cache()))[0][0]
    mapping = _mapping(found)
    if mapping is None:
        return datasets.Dataset.from_file(str(_written(found, cache_dir)))
    dataset = datasets.Dataset(_mapped(mapping))
    opened = found.opened
    if opened.plan.rows == int(opened.samples.sum()):
        return dataset
    shards, rows = opened.plan.locate(np.arange(opened.plan.rows))
    starts = np.cumsum(opened.samples) - opened.samples
    return dataset.select(starts[shards] + rows, keep_in_memory=True)


@dataclass(frozen=True, slots=True)
class Mapping:
    """Local Arrow files, and the columns of them that are shown; streams with their shape."""

    paths: tuple[str, ...]
    columns: tuple[tuple[str, tuple[int, ...]], ...]

    def table(self) -> pa.Table:
        """Return all rows of the files, memory-mapped."""
        return pa.concat_tables([self._file(path) for path in self.paths])

    def _file(self, path: str) -> pa.Table:
        with pa.memory_map(path) as file:
            found = pa.ipc.open_file(file).read_all()
        arrays = {
            name: pa.chunked_array([_nested(c, shape) for c in found.column(name).chunks])
            if shape
            else found.column(name)
            for name, shape in self.columns
        }
        return pa.table(arrays)


class MappedShards(InMemoryTable):  # type: ignore[misc]  # datasets publishes no types
    """A table over mapped files that crosses to another process as their names.

    Those that ``datasets`` maps itself are in Arrow's stream format, shards in its file format.
    What ``datasets`` makes of it (other columns, slices) crosses as a copy.
    """

    def __init__(self, table: pa.Table, mapping: Mapping) -> None:
        super().__init__(table)
        self._mapping = mapping

    def cast(self, target_schema: pa.Schema, *args: Any, **kwargs: Any) -> MappedShards:
        """Return the table with the types of a schema."""
        return MappedShards(table_cast(self.table, target_schema, *args, **kwargs), self._mapping)

    def replace_schema_metadata(self, metadata: Any = None) -> MappedShards:
        """Return the table with other metadata, which says what ``datasets`` knows of it."""
        return MappedShards(self.table.replace_schema_metadata(metadata), self._mapping)

    def __reduce__(self) -> tuple[Any, ...]:
        return _mapped, (self._mapping, self.table.schema)


def _mapped(mapping: Mapping, schema: pa.Schema | None = None) -> MappedShards:
    table = mapping.table()
    return MappedShards(table if schema is None else table_cast(table, schema), mapping)


def _mapping(part: OpenedPart) -> Mapping | None:
    """Return the files that have what is read as it is; None if it must be made."""
    opened, storage = part.opened, part.store.storage
    layout = part.store.layout(part.snapshot)
    raw = all(s.is_fixed and not is_packed(s, layout.packing) for s in opened.streams)
    if opened.groups or not raw:
        return None
    table = part.store.segments(part.snapshot, ["path", "format", "samples"])
    there = table.filter(pc.greater(table.column("samples"), 0))
    paths = [storage.local(path) for path in there.column("path").to_pylist()]
    if set(there.column("format").to_pylist()) != {"arrow"} or None in paths:
        return None
    shapes = [(s.name, tuple(size or 0 for size in s.shape)) for s in opened.streams]
    columns = (*shapes, *((name, ()) for name in opened.columns))
    return Mapping(tuple(str(path) for path in paths), columns)


def _written(part: OpenedPart, folder: Path | None) -> Path:
    """Return a file in Arrow's stream format with the rows that are shown; written unless there."""
    opened = part.opened
    folder = folder or Path(datasets.config.HF_DATASETS_CACHE) / "tokenmill"
    names = [stream.name for stream in opened.streams]
    key = digest([part.store.uri, opened.identity, opened.where, names, list(opened.columns)])
    path = folder / f"{key}.arrow"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as near:
            _write(part, Path(near, path.name))
            Path(near, path.name).replace(path)
    return path


def _write(part: OpenedPart, path: Path) -> None:
    tables = _tables(part)
    first = next(tables)
    with pa.ipc.new_stream(str(path), first.schema) as writer:
        for table in chain([first], tables):
            writer.write_table(table)


def _tables(part: OpenedPart) -> Iterator[pa.Table]:
    opened = part.opened
    count = max(1, COPY_BYTES // row_bytes(opened))
    for first in range(0, max(1, opened.plan.rows), count):
        rows = np.arange(first, min(first + count, opened.plan.rows))
        chunk = opened.shards.gather(*opened.plan.locate(rows), share=max(1, len(rows)))
        kinds = {stream.name: stream.storage_dtype for stream in opened.streams}
        arrays = {name: _array(values[0], kinds[name]) for name, values in chunk.streams.items()}
        yield pa.table({**arrays, **chunk.columns})


def _array(values: Values, dtype: str) -> pa.Array:
    """Return tokens as nested lists: of fixed sizes, or of any where shapes vary."""
    if isinstance(values, np.ndarray):
        flat = pa.array(np.ascontiguousarray(values).reshape(-1))
        for size in reversed(values.shape[1:]):
            flat = pa.FixedSizeListArray.from_arrays(flat, size)
        return flat
    return pa.array([one.tolist() for one in values], _lists(dtype, values[0].ndim))


def _nested(column: pa.Array, shape: tuple[int, ...]) -> pa.Array:
    """Return a column of flat tokens as nested lists over the same memory."""
    values = column.flatten()
    for size in reversed(shape):
        values = pa.FixedSizeListArray.from_arrays(values, size)
    return values


def _lists(dtype: Any, depth: int) -> pa.DataType:
    kind = pa.from_numpy_dtype(dtype)
    for _ in range(depth):
        kind = pa.list_(kind)
    return kind


def _generate(feed: Feed, first: Sequence[int], end: int) -> Iterator[dict[str, Any]]:
    """Yield the rows of blocks of steps; ``first`` is what ``datasets`` shares out."""
    for start in first:
        for batch in islice(feed.iterate(start), min(BLOCK_STEPS, end - start)):
            lists = {name: _listed(values) for name, values in _by_row(batch).items()}
            for row in zip(*lists.values(), strict=True):
                yield dict(zip(lists, row, strict=True))


def _by_row(batch: Batch) -> Batch:
    """Return what a batch has of each row.

    Raises:
        JobError: something else than the boundaries of a packed batch has no entry for each.
    """
    found = {name: values for name, values in batch.items() if name not in OF_BATCHES}
    rows = len(next(iter(found.values())))
    for name, values in found.items():
        if len(values) != rows:
            raise JobError(
                f"{name!r} has {len(values)} entries for {rows} rows, so it cannot be cut into "
                "rows: leave out the transform that makes it",
                path="feed.transforms",
            )
    return found


def _listed(values: Values) -> list[Any]:
    return values.tolist() if isinstance(values, np.ndarray) else [one.tolist() for one in values]


def _type_of(values: Values) -> pa.DataType:
    if isinstance(values, list):
        return _lists(values[0].dtype, values[0].ndim)
    if values.dtype == object:
        return pa.array(values.tolist()).type
    kind = pa.from_numpy_dtype(values.dtype)
    for size in reversed(values.shape[1:]):
        kind = pa.list_(kind, size)
    return kind
