"""Shapes of a snapshot's samples, before any of them is read: what buckets and packing plan with.

Sizes come from the manifest, or, of shards whose writer did not note them there and of column
groups, from the shards' own ``<stream>.shape`` columns, which are then read once. This is the only
thing of a feed that has an entry a row: a code of one to four bytes, in memory up to
`MEMORY_BYTES`, beyond that in a temporary file that is mapped and has no name.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tokenmill.feed.rows.plan import Plan
from tokenmill.shards.columns import fixed_rows
from tokenmill.shards.select import read_columns
from tokenmill.store import Store
from tokenmill.store.groups import group_table
from tokenmill.store.tables import conform, read_table
from tokenmill_infra.storage.storage import Storage
from tokenmill_schemas.errors import CorruptShardError
from tokenmill_schemas.shapes import decode_shapes, variable_axes
from tokenmill_schemas.snapshot import SEGMENT_SCHEMA, Snapshot
from tokenmill_schemas.tokens import Stream

Rows = npt.NDArray[np.int64]
Codes = npt.NDArray[np.unsignedinteger[Any]]
Array = npt.NDArray[Any]

#: Codes that are kept in memory, at the most.
MEMORY_BYTES = 64 * 2**20
#: Rows whose sizes are looked at together.
CHUNK_ROWS = 2**20
#: Shapes of a chunk are told apart by a table of so many entries, beyond that by sorting.
TABLE_ENTRIES = 2**22
#: Shards whose shapes are read at once: on an object store that is waiting for answers.
THREADS = 16
_FACTS = pa.schema([SEGMENT_SCHEMA.field(name) for name in ("path", "samples", "shapes")])


@dataclass(frozen=True, slots=True, eq=False)
class Sizes:
    """The shape of every logical row of one stream; threads may share it.

    ``shapes`` are the distinct ones (all dimensions of a sample's array), numbered in the order of
    their first row; ``counts`` (int64[shapes]) says how many rows have each. ``array`` has each
    row's number, in the narrowest type; None where all rows have the one shape there is.
    """

    stream: Stream
    rows: int
    shapes: tuple[tuple[int, ...], ...]
    counts: Rows
    array: Codes | None = None

    def codes(self, rows: Rows | slice) -> Codes:
        """Return the number of each row's shape: ``unsigned[rows]``, places in ``shapes``."""
        if self.array is not None:
            return self.array[rows]
        count = len(rows) if not isinstance(rows, slice) else len(range(*rows.indices(self.rows)))
        return np.zeros(count, np.uint8)

    @property
    def positions(self) -> Rows:
        """Positions of a sample of each shape (bits and channels not counted): int64[shapes]."""
        axes = len(self.stream.axes)
        return np.array([math.prod(shape[:axes]) for shape in self.shapes], np.int64)

    def lengths(self, rows: Rows | slice) -> Rows:
        """Return how many positions each of ``rows`` has: int64[rows]."""
        return self.positions[self.codes(rows)]

    @classmethod
    def of(cls, stream: Stream, rows: int, chunks: Iterable[Array]) -> Sizes:
        """Return the sizes of ``rows`` rows.

        Args:
            stream: The stream.
            rows: Rows of all chunks together.
            chunks: ``integers[some rows, variable axes]``, one after the other.
        """
        found, codes = _Found(len(variable_axes(stream))), _Codes(rows)
        for chunk in chunks:
            codes.append(found.number(chunk), len(found.shapes))
        shapes = tuple(_whole(stream, sizes) for sizes in found.shapes)
        counts = np.array(found.counts, np.int64)
        return cls(stream, rows, shapes, counts, codes.array if len(shapes) > 1 else None)


def open_sizes(store: Store, snapshot: Snapshot, plan: Plan, stream: Stream) -> Sizes:
    """Return the shapes of a stream's samples, by logical row.

    Args:
        store: The store.
        snapshot: A version of it.
        plan: Which rows of the version are shown, its shards numbered in manifest order.
        stream: A stream of the store's own, or of one of the version's column groups.

    Raises:
        CorruptShardError: a file of the version is missing or damaged, or says shapes that cannot
            be those of its rows.
    """
    if stream.is_fixed:
        return Sizes(stream, plan.rows, (_whole(stream, ()),), np.array([plan.rows]))
    files = _files(store, snapshot, stream)
    return Sizes.of(stream, plan.rows, _chunks(store.storage, files, plan, stream))


@dataclass(frozen=True, slots=True)
class _File:
    """The sizes of the rows of a shard, None: still to be read from the file at ``path``."""

    path: str
    sizes: Array | None


def _files(store: Store, snapshot: Snapshot, stream: Stream) -> Iterator[_File]:
    """Yield the shards of a version, in manifest order, or a column group's files beside them."""
    groups = (g for g in snapshot.groups if stream.name in {s.name for s in g.spec.streams})
    group = next(groups, None)
    beside: dict[str, str] = {}
    if group is not None:
        table = group_table(store.storage, group, ["shard", "path"])
        beside = dict(zip(*(column.to_pylist() for column in table.columns), strict=True))
    for ref in snapshot.segments:
        table = conform(read_table(store.storage, ref, _FACTS.names), _FACTS)
        for path, samples, shapes in zip(*table.columns, strict=True):
            name = str(path)
            if group is not None:
                yield _File(beside.get(name, ""), None)
                continue
            try:
                known = decode_shapes(snapshot.spec, shapes.as_py() or b"", samples.as_py())
            except ValueError as error:
                text = f"the manifest's shapes of {name} are damaged: {error}"
                raise CorruptShardError(text, uri=store.uri) from error
            yield _File(name, known.get(stream.name))


def _chunks(
    storage: Storage, files: Iterator[_File], plan: Plan, stream: Stream
) -> Iterator[Array]:
    """Yield the sizes of all logical rows; of shards that show none, nothing is read."""
    at, held = -1, _File("", None)
    with ThreadPoolExecutor(THREADS, thread_name_prefix="sizes") as threads:
        for start in range(0, plan.rows, CHUNK_ROWS):
            shards, rows = plan.locate(np.arange(start, min(start + CHUNK_ROWS, plan.rows)))
            numbers, firsts = np.unique(shards, return_index=True)
            found = []
            for number in numbers.tolist():
                while at < number:
                    at, held = at + 1, next(files)
                found.append(held)
            sizes = list(threads.map(lambda file: _read(storage, file, stream), found))
            held = _File(held.path, sizes[-1])
            parts = np.split(rows, firsts[1:])
            yield np.concatenate(
                [_of(storage, *one) for one in zip(found, sizes, parts, strict=True)]
            )


def _read(storage: Storage, file: _File, stream: Stream) -> Array:
    if file.sizes is not None:
        return file.sizes
    column = read_columns(storage, file.path, [f"{stream.name}.shape"]).column(0)
    axes = list(variable_axes(stream))
    chunks = [fixed_rows(chunk)[:, axes] for chunk in column.chunks]
    return np.concatenate(chunks) if chunks else np.empty((0, len(axes)), np.int32)


def _of(storage: Storage, file: _File, sizes: Array, rows: Rows) -> Array:
    if rows[-1] >= len(sizes):
        raise CorruptShardError(
            f"{file.path} has {len(sizes)} rows, row {rows[-1]} was asked for", uri=storage.uri
        )
    return sizes[rows]


def _whole(stream: Stream, sizes: Iterable[int]) -> tuple[int, ...]:
    """Return a sample's shape with ``sizes`` for the axes that vary."""
    given = iter(sizes)
    return tuple(next(given) if size is None else size for size in stream.shape)


class _Found:
    """Numbers shapes in the order in which they are first seen, and counts them."""

    def __init__(self, axes: int) -> None:
        self._axes = axes
        self._numbers: dict[tuple[int, ...], int] = {}
        self.counts: list[int] = []

    @property
    def shapes(self) -> list[tuple[int, ...]]:
        """The sizes of the variable axes of each shape."""
        return list(self._numbers)

    def number(self, sizes: Array) -> Rows:
        """Return the number of each row of ``integers[rows, axes]``."""
        firsts, inverse = _distinct(sizes.astype(np.int64))
        order = np.argsort(firsts)
        numbers = np.empty(len(firsts), np.int64)
        shapes = map(tuple, sizes[firsts[order]].tolist())
        for place, shape in zip(order.tolist(), shapes, strict=True):
            numbers[place] = self._numbers.setdefault(shape, len(self._numbers))
        self.counts += [0] * (len(self._numbers) - len(self.counts))
        for number, count in zip(numbers.tolist(), np.bincount(inverse).tolist(), strict=True):
            self.counts[number] += count
        return numbers[inverse]


def _distinct(sizes: Rows) -> tuple[Rows, Rows]:
    """Return the first row of each distinct shape, and for each row the place among those."""
    tops = [int(top) + 1 for top in sizes.max(axis=0)]
    space = math.prod(tops)
    if space > TABLE_ENTRIES:
        _, firsts, inverse = np.unique(sizes, axis=0, return_index=True, return_inverse=True)
        return firsts, inverse.ravel()
    keys: Rows = np.asarray(np.ravel_multi_index(tuple(sizes.T), tuple(tops)))
    table = np.full(space, -1, np.int64)
    # Of several values for one entry the last one stays: written backwards, the first row.
    table[keys[::-1]] = np.arange(len(keys))[::-1]
    there = np.flatnonzero(table >= 0)
    firsts = table[there]
    table[there] = np.arange(len(there))
    return firsts, table[keys]


class _Codes:
    """An array of ``rows`` codes that is filled from the front and widens as numbers grow."""

    def __init__(self, rows: int) -> None:
        self._end = 0
        self._values = _empty(rows, np.dtype(np.uint8))

    def append(self, numbers: Rows, shapes: int) -> None:
        """Add the numbers of the next rows, which are below ``shapes``."""
        dtype = np.min_scalar_type(max(0, shapes - 1))
        if dtype.itemsize > self._values.itemsize:
            wider = _empty(len(self._values), dtype)
            for start in range(0, self._end, CHUNK_ROWS):
                part = slice(start, min(start + CHUNK_ROWS, self._end))
                wider[part] = self._values[part]
            self._values = wider
        self._values[self._end : self._end + len(numbers)] = numbers
        self._end += len(numbers)

    @property
    def array(self) -> Codes:
        """All codes; read-only."""
        self._values.flags.writeable = False
        return self._values


def _empty(rows: int, dtype: np.dtype[Any]) -> Codes:
    if rows * dtype.itemsize <= MEMORY_BYTES:
        return np.empty(rows, dtype)
    with tempfile.TemporaryFile(prefix="tokenmill-sizes-") as file:
        return np.memmap(file, dtype, mode="w+", shape=(rows,))
