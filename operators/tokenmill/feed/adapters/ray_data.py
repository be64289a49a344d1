"""A store as a Ray Data dataset, for batch inference and joins over its tokens.

A training job wants a `Feed` in each of its workers instead: its order is shuffled, exact and
resumable, and no token passes through Ray's object store.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np

from tokenmill.feed.parts import Mixture, OpenedPart, Part, Reading, open_parts
from tokenmill.feed.rows.opening import Opened, row_bytes
from tokenmill.feed.rows.plan import Plan
from tokenmill.feed.sequence.lanes import Rows
from tokenmill.feed.shards.files import ShardCache, default_cache
from tokenmill.store import Store
from tokenmill_infra.cluster.ray_data import Dataset, Stretch, read_rows
from tokenmill_schemas.canonical import digest

#: Bytes of rows that are read at once; Ray joins and splits blocks as it needs.
BLOCK_BYTES = 32 * 2**20
#: Stores that a process of Ray's keeps open from task to task.
OPEN_STORES = 8


def ray_dataset(
    source: Store | str | Part,
    *,
    streams: Sequence[str] | None = None,
    columns: Sequence[str] = ("sample_id",),
    parallelism: int = -1,
    cache: ShardCache | None = None,
) -> Dataset:
    """Return the samples that a version shows: of each read task in manifest order.

    Tasks come as they end, unless ``DataContext.execution_options.preserve_order`` is set.
    Streams are tensor columns of ``[*stream shape]`` a row (variable-shaped ones where shapes
    vary) in the type that a feed gives: ids in the narrowest unsigned type, bits as uint8,
    bfloat16 as its uint16 bits. Other columns keep their Arrow type. Each read task reads whole
    shards in a process of Ray's; this one reads the manifest alone.

    Args:
        source: A store or its URI, which every node must reach, for its newest version; or a
            `tokenmill.feed.parts.Part` of it, which names the version and says ``where``.
        streams: Streams to read, also of column groups; None is all of the store's own.
        columns: Other columns to read, also of column groups.
        parallelism: How many read tasks to make at most, each of whole shards; -1 leaves it to Ray.
        cache: Where shards of a store on an object store are kept, on each node.

    Raises:
        JobError: there is no such stream or column, or a condition does not fit the store.
        StoreError: there is no such store or snapshot.
    """
    part = source if isinstance(source, Part) else Part(source)
    reading = Reading(None if streams is None else tuple(streams), tuple(columns))
    cache = cache or ShardCache(default_cache())
    found = _open_part(part, reading, cache)
    opened = found.opened
    what = [part.where, reading.streams and list(reading.streams), list(columns)]
    key = digest([found.store.uri, opened.identity, *what])
    reader = StoreRows(key, found.part, reading, cache, opened.plan.rows, row_bytes(opened))
    return read_rows(reader, parallelism=parallelism)


@dataclass(frozen=True, slots=True)
class StoreRows:
    """Reads rows of a snapshot in whichever process; ``key`` tells it from others there."""

    key: str
    part: Part = field(compare=False)
    reading: Reading = field(compare=False)
    cache: ShardCache = field(compare=False)
    rows: int
    row_bytes: int

    def cuts(self, count: int) -> list[int]:
        """Return where at most ``count`` groups of whole shards begin, and where the last ends."""
        plan = _open(self).plan
        wanted = np.linspace(0, self.rows, max(1, count), endpoint=False).astype(np.int64)
        if not self.rows:
            return [0]
        return [*np.unique(_shard_starts(plan, wanted)).tolist(), self.rows]

    def read(self, start: int, stop: int) -> Iterator[Stretch]:
        """Yield the rows from ``start`` to ``stop``, a block's worth at a time.

        Raises:
            CorruptShardError: a shard is missing or not what was committed.
        """
        opened = _open(self)
        count = max(1, BLOCK_BYTES // self.row_bytes)
        for first in range(start, stop, count):
            rows = np.arange(first, min(first + count, stop))
            chunk = opened.shards.gather(*opened.plan.locate(rows), share=len(rows))
            tensors = {name: values[0] for name, values in chunk.streams.items()}
            yield Stretch(tensors, chunk.columns)


@lru_cache(maxsize=OPEN_STORES)
def _open(rows: StoreRows) -> Opened:
    return _open_part(rows.part, rows.reading, rows.cache).opened


def _open_part(part: Part, reading: Reading, cache: ShardCache) -> OpenedPart:
    return open_parts(Mixture((part,)), reading, cache)[0][0]


def _shard_starts(plan: Plan, rows: Rows) -> Rows:
    """Return for each row the first one of its shard, by bisection."""
    shards = plan.locate(rows)[0]
    low, high = np.zeros_like(rows), rows.copy()
    while (low < high).any():
        middle = (low + high) // 2
        before = plan.locate(middle)[0] < shards
        low, high = np.where(before, middle + 1, low), np.where(before, high, middle)
    return low
