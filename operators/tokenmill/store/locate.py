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
    wanted = set(names)
    if not wanted:
        return FOUND_SCHEMA.empty_table()
    keyed = _by_asset(wanted, by)
    if keyed is None:
        every = pa.array(sorted(wanted), pa.string())
        return find(
            storage,
            shard_paths(storage, segments),
            KEYS,
            lambda table: pc.is_in(table.column(by), value_set=every),
        )
    ordered = pa.array([name for _, name in keyed], pa.string())
    ranges = _ranges(storage, segments, [key for key, _ in keyed])

    def mask_of(path: str) -> Mask:
        # Only the names that this shard has room for: a set is made of them for every shard.
        few = ordered[ranges[path]]
        return lambda table: pc.is_in(table.column(by), value_set=few)

    return _find(storage, list(ranges), KEYS, mask_of)


Mask = Callable[[pa.Table], pa.ChunkedArray | pa.Array]


def find(storage: Storage, paths: Sequence[str], columns: Sequence[str], mask: Mask) -> pa.Table:
    """Return the samples of shards for which ``mask`` of their ``columns`` is true."""
    return _find(storage, paths, columns, lambda _: mask)


def _find(
    storage: Storage, paths: Sequence[str], columns: Sequence[str], mask_of: Callable[[str], Mask]
) -> pa.Table:
    read = tuple(dict.fromkeys([*columns, *KEYS]))

    def one(path: str) -> pa.Table:
        table = read_columns(storage, path, read)
        rows = np.flatnonzero(
            pc.fill_null(mask_of(path)(table), fill_value=False).to_numpy(zero_copy_only=False)
        )
        keys = [table.column(name).take(pa.array(rows)) for name in KEYS]
        places = [pa.array([path] * len(rows), pa.string()), pa.array(rows, pa.int64())]
        return pa.table([*places, *keys], schema=FOUND_SCHEMA)

    with ThreadPoolExecutor(THREADS, thread_name_prefix="locate") as threads:
        tables = list(threads.map(one, paths))
    return pa.concat_tables([FOUND_SCHEMA.empty_table(), *tables])


def shard_paths(storage: Storage, segments: Iterable[FileRef]) -> list[str]:
    """Return the path of every shard in some segments, each once."""
    tables = (read_table(storage, ref, ["path"]).column("path").to_pylist() for ref in segments)
    return [path for path in dict.fromkeys(name for names in tables for name in names) if path]


def _by_asset(names: Iterable[str], by: By) -> list[tuple[bytes, str]] | None:
    """Return the names with the keys of their assets, in the order of the keys.

    None if an id does not tell its asset's key: what made the store may have named samples as it
    liked.
    """
    if by == "asset_key":
        return sorted((name.encode(), name) for name in names)
    parts = [(name.rpartition("#"), name) for name in names]
    if not all(mark for (_, mark, _), _ in parts):
        return None
    return sorted((key.encode(), name) for (key, _, _), name in parts)


def _ranges(
    storage: Storage, segments: Iterable[FileRef], keys: Sequence[bytes]
) -> dict[str, slice]:
    """Return, for each shard that has room for some of the sorted ``keys``, which of them."""
    ordered = np.array(keys)
    schema = pa.schema([SEGMENT_SCHEMA.field(name) for name in _RANGE])
    found: dict[str, slice] = {}
    for ref in segments:
        table = conform(read_table(storage, ref, _RANGE), schema)
        lows, highs = (_bytes(table.column(name)) for name in ("min_key", "max_key"))
        first = np.searchsorted(ordered, lows, side="left")
        stop = np.searchsorted(ordered, highs, side="right")
        # Without bounds, as an older writer left them, a shard may hold anything.
        first[highs == b""], stop[highs == b""] = 0, len(keys)
        places = np.flatnonzero(stop > first)
        paths = table.column("path").take(pa.array(places)).to_pylist()
        for path, start, end in zip(paths, first[places], stop[places], strict=True):
            if path:
                found[path] = slice(int(start), int(end))
    return found


def _bytes(column: pa.ChunkedArray) -> npt.NDArray[np.bytes_]:
    return np.array([key.encode() for key in column.to_pylist()], np.bytes_)
