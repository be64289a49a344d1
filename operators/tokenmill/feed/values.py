"""Columns of samples that a feed shows, for those who ask about them and do not train on them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tokenmill.feed.parts import OpenedPart, Reading, open_part
from tokenmill.feed.shards.files import ShardCache, default_cache

Rows = npt.NDArray[np.int64]


def values_of(part: OpenedPart, rows: Rows, columns: Sequence[str]) -> pa.Table:
    """Return columns of logical rows of a part, whether or not the feed reads them.

    Of local shards nothing but those columns is read. A sample of which a column group has no
    values, of whose columns some are asked for, has nulls in all columns.

    Raises:
        JobError: there is no such column; names the nearest one.
        CorruptShardError: a shard is missing or damaged.
    """
    # Without the filter, which is not needed to find what it showed, and costs a scan.
    plain = replace(part.part, since=None, where="")
    cache = ShardCache(default_cache())
    opened = open_part(plain, reading=Reading((), tuple(columns)), cache=cache).opened
    shards, places = part.opened.plan.locate(rows)
    there = opened.plan.logical(shards, places) >= 0
    count = int(there.sum())
    # Of no rows nothing is known, not even what the columns are.
    if not count:
        return pa.table({name: pa.nulls(len(rows)) for name in columns})
    chunk = opened.shards.gather(shards[there], places[there], share=count)
    index = pa.array(np.cumsum(there) - 1, mask=~there)
    return pa.table({name: chunk.columns[name].take(index) for name in columns})
