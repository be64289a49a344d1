"""Shards written anew from the rows of others: what compaction, purging and side files share.

Everything streams: no more than some record batches are held, and of a shard on an object store
its bytes. Equal rows give equal bytes and therefore equal names, so doing it twice, or in two
processes at once, makes no second copy.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tokenmill.shards import read_format
from tokenmill.shards.columns import count_tokens, encoded_shapes, stored_shapes
from tokenmill.shards.select import stored_shard
from tokenmill.store import paths
from tokenmill_infra.storage import scratch
from tokenmill_infra.storage.storage import Storage
from tokenmill_schemas.arrow import ShardLayout
from tokenmill_schemas.errors import CorruptShardError

T = TypeVar("T")
R = TypeVar("R")
Rows = npt.NDArray[np.int64]
Encoded = bytes
#: From a file's sha256 and its suffix to its path in the store.
Naming = Callable[[str, str], str]
#: Shards that are rewritten at once: much of it is waiting, for disks and for answers.
THREADS = 4


@dataclass(frozen=True, slots=True)
class Form:
    """What a shard looks like: its columns, its format, and the rows of its record batches."""

    layout: ShardLayout
    format: str = "arrow"
    batch_rows: int = 256


@dataclass(frozen=True, slots=True)
class Written:
    """A shard that lies in the store, or nothing (``path`` "") when there were no rows.

    ``min_key`` and ``max_key`` bound the asset keys of its rows; ``shapes`` are those of its rows,
    see `tokenmill_schemas.shapes`.
    """

    path: str = ""
    sha256: str = ""
    bytes: int = 0
    samples: int = 0
    tokens: int = 0
    min_key: str = ""
    max_key: str = ""
    shapes: Encoded | None = None


def without(rows: int, dropped: npt.ArrayLike) -> Rows:
    """Return the numbers of ``rows`` rows but the ``dropped`` ones, ascending."""
    stays = np.ones(rows, bool)
    stays[np.asarray(dropped, np.int64)] = False
    return np.flatnonzero(stays)


def kept_rows(storage: Storage, path: str, keep: Rows | None = None) -> Iterator[pa.RecordBatch]:
    """Yield rows of a stored shard, in their order; ``keep`` (ascending) None yields all.

    Raises:
        CorruptShardError: the shard is missing or damaged, or has no such rows.
    """
    with stored_shard(storage, path) as shard:
        if keep is not None and len(keep) and keep[-1] >= shard.rows:
            raise CorruptShardError(
                f"{path} has {shard.rows} rows, row {keep[-1]} was asked for", uri=storage.uri
            )
        start = 0
        for batch in shard.batches():
            chosen = batch if keep is None else _among(batch, keep, start)
            start += batch.num_rows
            if chosen.num_rows:
                yield chosen


def write_shard(
    storage: Storage, batches: Iterable[pa.RecordBatch], form: Form, *, name: Naming
) -> Written:
    """Spool rows as a shard, read it back, and move it into the store.

    Raises:
        CorruptShardError: what was read back is not what was written.
        ValueError: a batch has other columns than the form's layout.
    """
    suffix = read_format(form.format).suffix
    with scratch(storage) as folder:
        file = folder / f"shard.{suffix}"
        counts = _spool(file, batches, form)
        if not counts.rows:
            return Written()
        _check(file, counts.rows, form)
        with file.open("rb") as stream:
            sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
        size, path = file.stat().st_size, name(sha256, suffix)
        storage.create_from(path, file)
    lowest, highest = counts.bounds
    return Written(path, sha256, size, counts.rows, counts.tokens, lowest, highest, counts.shapes())


def rewrite_shard(
    storage: Storage, row: Mapping[str, Any], keep: Rows, *, unit_id: str
) -> dict[str, Any]:
    """Write a shard without some of its rows.

    Args:
        storage: The store's storage.
        row: The shard's row of the manifest (`SEGMENT_SCHEMA`); its ``path`` is not "".
        keep: The rows that stay, ascending; may be none.
        unit_id: The unit that the new shard is of, in whose name its file is.

    Returns:
        The manifest row of the new shard. ``assets``, ``rejected``, ``plan`` and ``row_group`` are
        as they were; bounds of keys only get tighter.

    Raises:
        CorruptShardError: the shard is missing or damaged.
    """
    with stored_shard(storage, row["path"]) as shard:
        form = Form(shard.layout, row["format"], row["batch_rows"])
    batches = kept_rows(storage, row["path"], keep)
    made = write_shard(storage, batches, form, name=shard_name(unit_id))
    return {**row, "unit_id": unit_id, **manifest_facts(made)}


def shard_name(unit_id: str) -> Naming:
    """Return how the shards of a unit are named."""
    return lambda sha256, suffix: paths.shard_file(unit_id, sha256, suffix)


def manifest_facts(made: Written) -> dict[str, Any]:
    """Return what a row of the manifest says of a written shard."""
    return {name: getattr(made, name) for name in Written.__slots__}


class _Counts:
    """Counts rows and tokens as they go by, bounds their assets' keys and notes their shapes."""

    def __init__(self, layout: ShardLayout) -> None:
        self._spec = layout.spec
        self.rows = 0
        self.tokens = 0
        self.bounds = ("", "")
        self._shapes: list[dict[str, npt.NDArray[np.int32]]] = []

    def add(self, batch: pa.RecordBatch) -> None:
        if not batch.num_rows:
            return
        keys = batch.column("asset_key").to_pylist()
        low, high = self.bounds
        self.bounds = min(keys if not self.rows else [low, *keys]), max(high, *keys)
        self.rows += batch.num_rows
        self.tokens += count_tokens(self._spec, batch)
        shapes = stored_shapes(self._spec, batch)
        self._shapes.append({name: sizes.copy() for name, sizes in shapes.items()})

    def shapes(self) -> Encoded | None:
        """Return the shapes of all rows as the manifest has them."""
        return encoded_shapes(self._spec, self._shapes) or None


def _spool(file: Path, batches: Iterable[pa.RecordBatch], form: Form) -> _Counts:
    counts = _Counts(form.layout)
    writer = read_format(form.format).writer(file, form.layout, batch_rows=form.batch_rows)
    try:
        for batch in batches:
            counts.add(batch)
            writer.write(batch)
        writer.close()
    finally:
        writer.discard()
    return counts


def _among(batch: pa.RecordBatch, keep: Rows, start: int) -> pa.RecordBatch:
    first, stop = np.searchsorted(keep, [start, start + batch.num_rows])
    if stop - first == batch.num_rows:
        return batch
    return batch.take(pa.array(keep[first:stop] - start))


def _check(file: Path, rows: int, form: Form) -> None:
    reader = read_format(form.format).reader(file)
    try:
        if reader.rows != rows or reader.layout.spec != form.layout.spec:
            raise CorruptShardError(f"wrote {rows} rows and read back {reader.rows}", uri=str(file))
    finally:
        reader.close()


def in_parallel(work: Callable[[T], R], items: Iterable[T]) -> list[R]:
    """Return ``work`` of every item, in their order, some at once; the first error ends it all."""
    with ThreadPoolExecutor(THREADS, thread_name_prefix="rewrite") as threads:
        futures = [threads.submit(work, item) for item in items]
        try:
            return [future.result() for future in futures]
        finally:
            threads.shutdown(wait=False, cancel_futures=True)
