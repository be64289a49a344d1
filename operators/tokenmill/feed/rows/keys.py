"""From the names of samples to their rows in a feed."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from tokenmill.feed.rows.opening import Opened, Rows
from tokenmill.store import Store
from tokenmill.store.locate import By, locate
from tokenmill.store.segments import shard_places

__all__ = ["By", "rows_of_keys"]


def rows_of_keys(store: Store, opened: Opened, keys: Iterable[str], by: By) -> Rows:
    """Return the logical rows of some samples; reads the key columns of shards that may hold them.

    Args:
        store: The store that was opened.
        opened: The snapshot, opened.
        keys: Ids of samples, or keys of assets, of which all samples are meant.
        by: What ``keys`` are.

    Returns:
        int64, ascending and distinct. Samples that are not shown are left out.

    Raises:
        CorruptShardError: a shard or a segment is missing or damaged.
    """
    segments = opened.snapshot.segments
    found = locate(store.storage, segments, keys, by=by)
    if not found.num_rows:
        return np.empty(0, np.int64)
    names = found.column("path").combine_chunks().dictionary_encode()
    places = shard_places(store.storage, segments, names.dictionary)
    shards = places[names.indices.to_numpy()]
    rows = opened.plan.logical(shards, found.column("row").to_numpy())
    return np.unique(rows[rows >= 0])
