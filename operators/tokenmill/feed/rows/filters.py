"""Which samples a filter shows: it is evaluated over every shard when a feed is opened.

What it costs is the reading of the columns that it names, once. What it gives is one bit per row,
so that an epoch has exactly the samples that match and nothing is skipped after it was drawn.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tokenmill.feed.rows.bits import Bits
from tokenmill.feed.rows.manifest import Manifest
from tokenmill.feed.rows.plan import Plan
from tokenmill.feed.rows.pruning import KEY, may_match
from tokenmill.feed.rows.shown import Shown
from tokenmill.feed.rows.sides import Side, Sides
from tokenmill.shards.select import read_columns
from tokenmill.store.paths import LOG
from tokenmill.store.segments import read_segments
from tokenmill_infra.storage.storage import Storage
from tokenmill_schemas.arrow import ShardLayout
from tokenmill_schemas.errors import CorruptShardError, JobError
from tokenmill_schemas.snapshot import FileRef
from tokenmill_schemas.where import Where, parse

R = TypeVar("R")
Rows = npt.NDArray[np.int64]

#: Shards read at once from an object store, where reading is waiting for answers.
THREADS = 16
#: Shards that are handed to the threads at once.
SHARDS_AT_ONCE = 1024


@dataclass(frozen=True, slots=True)
class Columns:
    """Columns of shards, or of the files beside them; ``path`` gives the file of a shard."""

    names: tuple[str, ...]
    path: Callable[[int], str]


@dataclass(frozen=True, slots=True)
class Filter:
    """A filter, where the columns that it reads lie, and the groups that some of them are of.

    ``segments`` are those of the manifest, which has bounds of asset keys.
    """

    where: Where
    sources: tuple[Columns, ...]
    sides: tuple[Side, ...]
    segments: tuple[FileRef, ...]

    def plan(self, storage: Storage, shown: Shown) -> Plan:
        """Return where those of the shown rows lie for which the filter is true.

        Rows without values in a column group that it reads do not match. Shards of which nothing
        comes into question are not read.

        Raises:
            CorruptShardError: a shard is missing or damaged.
        """
        shown = shown.covered_by(self.sides)
        if not self.where.columns:
            nothing = Shown(np.zeros_like(shown.held), {})
            return (shown if _constant(self.where) else nothing).plan()
        if KEY in self.where.columns:
            shown = shown.only(self._may_match(storage))
        bits = Bits.shown(shown.held, shown.gone)
        self._apply(storage, bits, shown.held)
        return Plan.of_bits(shown.held, bits)

    def _apply(self, storage: Storage, bits: Bits, samples: Rows) -> None:
        def one(shard: int) -> None:
            bits.keep(shard, self._mask(storage, shard, int(samples[shard])))

        threads = THREADS if storage.local(LOG) is None else os.cpu_count() or 1
        shards = bits.shards_shown().tolist()
        with ThreadPoolExecutor(threads, thread_name_prefix="filter") as pool:
            # Some at a time, for a million of them would wait in memory.
            for start in range(0, len(shards), SHARDS_AT_ONCE):
                for _ in pool.map(one, shards[start : start + SHARDS_AT_ONCE]):
                    pass

    def _may_match(self, storage: Storage) -> npt.NDArray[np.bool_]:
        """Return the shards that have room for keys of which the filter may be true."""
        bounds = read_segments(storage, self.segments, ["min_key", "max_key"]).combine_chunks()
        lows, highs = (pa.array(column.combine_chunks(), pa.string()) for column in bounds.columns)
        return may_match(self.where, lows, highs)

    def _mask(self, storage: Storage, shard: int, samples: int) -> npt.NDArray[np.bool_]:
        columns: dict[str, pa.ChunkedArray] = {}
        for source in self.sources:
            path = source.path(shard)
            table = read_columns(storage, path, source.names)
            if table.num_rows != samples:
                raise CorruptShardError(
                    f"{path} has {table.num_rows} rows, committed were {samples}", uri=storage.uri
                )
            columns |= dict(zip(table.schema.names, table.columns, strict=True))
        mask = self.where.mask(pa.table(columns))
        return np.asarray(mask.to_numpy(zero_copy_only=False), bool)


def open_filter(text: str, layout: ShardLayout, manifest: Manifest, sides: Sides) -> Filter | None:
    """Return the filter that ``text`` says of a version's columns, None for "".

    Raises:
        JobError: it says none, or names a column that there is not (and then the nearest one), or
            one that its condition does not go with.
    """
    if not text:
        return None
    where, owners = _named(lambda: parse(text)), sides.owners
    groups: dict[str, list[str]] = {}
    for name in where.columns:
        groups.setdefault(owners.get(name, ""), []).append(name)
    opened = {group: sides.open(group) for group in groups if group}
    fields = list(layout.schema)
    for side in opened.values():
        fields += [field for field in side.layout.schema if field.name not in layout.schema.names]
    # Of groups that are not read, the names alone: the nearest name may be one of theirs.
    there = {field.name for field in fields}
    fields += [pa.field(name, pa.null()) for name in owners if name not in there]
    _named(lambda: where.check(pa.schema(fields)))
    files = {"": manifest} | {group: side.manifest for group, side in opened.items()}
    sources = tuple(Columns(tuple(names), files[group].path) for group, names in groups.items())
    return Filter(where, sources, tuple(opened.values()), sides.snapshot.segments)


def _named(do: Callable[[], R]) -> R:
    """Return what ``do`` returns; its errors name the feed's setting."""
    try:
        return do()
    except JobError as error:
        message = str(error).removeprefix(f"{error.path}: ")
        raise JobError(message, path="feed.where") from None


def _constant(where: Where) -> bool:
    """Return what a filter without columns says of every row."""
    row = pa.RecordBatch.from_arrays([pa.nulls(1)], names=["none"])
    return bool(where.mask(row)[0].as_py())
