"""Finding samples by the key of their asset, or by their own id, without opening every shard.

The manifest holds the least and the greatest key of each unit. Sources list in order, so the ranges
of a listing hardly overlap, and few shards can hold a key; only their key columns are read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from tokenmill.shards.select import read_columns
from tokenmill.store.tables import conform, read_table
from tokenmill_infra.storage.storage import Storage
from tokenmill_schemas.snapshot import SEGMENT_SCHEMA, TOMBSTONE_SCHEMA, FileRef

By = Literal["asset_key", "sample_id"]

#: What is known of a found sample: the columns of a tombstone but its reason.
FOUND_SCHEMA = pa.schema([field for field in TOMBSTONE_SCHEMA if field.name != "reason"])
KEYS = ("asset_key", "sample_id")
#: Shards read at once: their reading is waiting, for disks and for answers.
THREADS = 8
_RANGE = ["path", "min_key", "max_key"]


def locate(
    storage: Storage, segments: Iterable[FileRef], names: Iterable[str], *, by: By = "asset_key"
) -> pa.Table:
    """Return where the samples lie whose asset's key, or own id, is among ``names``.

    Args:
        storage: The store's storage.
        segments: Manifest segments: of one version, or the distinct ones of several.
        names: Keys or ids; those that no shard holds are not found, without an error.
        by: What ``names`` are.

    Returns:
        Rows of `FOUND_SCHEMA`, each place once, in manifest order.

    Raises:
        CorruptShardError: a shard or a segment is missing or damaged.
    """
    wanted = pa.array(sorted(set(names)), pa.string())
    if not len(wanted):
        return FOUND_SCHEMA.empty_table()
    paths = candidates(storage, segments, _asset_keys(wanted, by))

    def mask(table: pa.Table) -> pa.ChunkedArray:
        return pc.is_in(table.column(by), value_set=wanted)

    return find(storage, paths, KEYS, mask)


def find(
    storage: Storage,
    paths: Sequence[str],
    columns: Sequence[str],
    mask: Callable[[pa.Table], pa.ChunkedArray | pa.Array],
) -> pa.Table:
    """Return the samples of shards for which ``mask`` of their ``columns`` is true."""
    read = tuple(dict.fromkeys([*columns, *KEYS]))

    def one(path: str) -> pa.Table:
        table = read_columns(storage, path, read)
        rows = pa.array(np.arange(table.num_rows), pa.int64())
        keys = table.select(list(KEYS)).append_column("row", rows)
        keys = keys.append_column("path", pa.array([path] * table.num_rows, pa.string()))
        found = keys.filter(pc.fill_null(mask(table), fill_value=False))
        return found.select(FOUND_SCHEMA.names).cast(FOUND_SCHEMA)

    with ThreadPoolExecutor(THREADS, thread_name_prefix="locate") as threads:
        tables = list(threads.map(one, paths))
    return pa.concat_tables([FOUND_SCHEMA.empty_table(), *tables])


def candidates(
    storage: Storage, segments: Iterable[FileRef], keys: Sequence[str] | None
) -> list[str]:
    """Return the shards whose range of asset keys has room for one of ``keys``; None: all."""
    found: dict[str, None] = {}
    ordered = None if keys is None else np.array(sorted(key.encode() for key in keys))
    for ref in segments:
        table = conform(
            read_table(storage, ref, _RANGE), pa.schema([SEGMENT_SCHEMA.field(n) for n in _RANGE])
        )
        table = table.filter(pc.not_equal(table.column("path"), ""))
        if ordered is not None:
            table = table.filter(pa.array(_overlaps(table, ordered)))
        found |= dict.fromkeys(table.column("path").to_pylist())
    return list(found)


def _overlaps(table: pa.Table, ordered: npt.NDArray[np.bytes_]) -> npt.NDArray[np.bool_]:
    lows, highs = (_bytes(table.column(name)) for name in ("min_key", "max_key"))
    first = np.searchsorted(ordered, lows, side="left")
    stop = np.searchsorted(ordered, highs, side="right")
    # Without bounds, as an older writer left them, a shard may hold anything.
    overlaps: npt.NDArray[np.bool_] = (stop > first) | (highs == b"")
    return overlaps


def _bytes(column: pa.ChunkedArray) -> npt.NDArray[np.bytes_]:
    return np.array([key.encode() for key in column.to_pylist()], np.bytes_)


def _asset_keys(wanted: pa.Array, by: By) -> list[str] | None:
    """Return the keys of the assets meant; None if an id does not tell its asset's key."""
    names: list[str] = wanted.to_pylist()
    if by == "asset_key":
        return names
    parts = [name.rpartition("#") for name in names]
    return [key for key, _, _ in parts] if all(mark for _, mark, _ in parts) else None
