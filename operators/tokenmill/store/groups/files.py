"""The files of a column group: one beside each data shard, and the table that lists them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa

from tokenmill.shards.select import stored_layout, stored_shard
from tokenmill.store import paths
from tokenmill.store.groups.names import present_name
from tokenmill.store.rewrite import Form, Naming, Rows, kept_rows, write_shard
from tokenmill.store.tables import put_rows, read_tables
from tokenmill_infra.storage.storage import Storage
from tokenmill_schemas.errors import CorruptShardError
from tokenmill_schemas.snapshot import GROUP_SCHEMA, ColumnGroup

NO_ROWS: Rows = np.empty(0, np.int64)


def folder_of(group: str) -> str:
    """Return the folder of a group's files and tables."""
    return f"{paths.GROUPS}/{group}"


def group_table(
    storage: Storage, group: ColumnGroup, columns: Sequence[str] | None = None
) -> pa.Table:
    """Return one row per shard that a group covers (`GROUP_SCHEMA`), or some columns of them.

    Raises:
        CorruptShardError: a table is missing or changed.
    """
    return read_tables(storage, group.segments, GROUP_SCHEMA, columns)


def with_rows(
    storage: Storage, group: ColumnGroup, rows: Iterable[Mapping[str, Any]]
) -> ColumnGroup:
    """Return a group that has just these files (rows of `GROUP_SCHEMA`); writes their table."""
    table = pa.Table.from_pylist([dict(row) for row in rows], GROUP_SCHEMA)
    return replace(group, segments=put_rows(storage, folder_of(group.name), table))


def absent_rows(bits: bytes, samples: int) -> Rows:
    """Return the rows without values that ``absent`` of `GROUP_SCHEMA` says, ascending."""
    if not bits:
        return NO_ROWS
    mask = np.unpackbits(np.frombuffer(bits, np.uint8), count=samples, bitorder="little")
    return np.flatnonzero(mask)


def absent_bits(absent: Rows, samples: int) -> bytes:
    """Return what `absent_rows` reads."""
    if not len(absent):
        return b""
    mask = np.zeros(samples, np.uint8)
    mask[absent] = 1
    return np.packbits(mask, bitorder="little").tobytes()


def write_group_file(
    storage: Storage, group: str, shard: str, batches: Iterable[pa.RecordBatch], *, form: Form
) -> dict[str, Any] | None:
    """Write the file of a group beside a data shard.

    Args:
        storage: The store's storage.
        group: The group's name.
        shard: Path of the data shard.
        batches: The rows of ``form.layout``: those of the shard, in its order.
        form: The group's columns, and the shard's format and rows of a batch.

    Returns:
        Its row of `GROUP_SCHEMA`; None if no row has values, and then there is no file.
    """
    absent: list[Rows] = []
    counted = _noting(batches, present_name(group), absent)
    made = write_shard(storage, counted, form, name=_naming(group, shard))
    gone = np.concatenate([NO_ROWS, *absent])
    if len(gone) == made.samples:
        return None
    return {
        "shard": shard,
        "path": made.path,
        "format": form.format,
        "samples": made.samples,
        "present": made.samples - len(gone),
        "bytes": made.bytes,
        "sha256": made.sha256,
        "batch_rows": form.batch_rows,
        "absent": absent_bits(gone, made.samples),
    }


def rewrite_group_file(
    storage: Storage, group: ColumnGroup, row: Mapping[str, Any], keep: Rows, *, shard: str
) -> dict[str, Any] | None:
    """Write a group's file for a data shard that was rewritten without some rows.

    Args:
        storage: The store's storage.
        group: The group.
        row: The file's row of `GROUP_SCHEMA`.
        keep: The rows that stay, ascending, as the shard was rewritten with.
        shard: Path of the new data shard.

    Returns:
        The new file's row of `GROUP_SCHEMA`; None if no row that stays has values.

    Raises:
        CorruptShardError: the file is missing or damaged.
    """
    form = Form(stored_layout(storage, row["path"]), row["format"], row["batch_rows"])
    batches = kept_rows(storage, row["path"], keep)
    return write_group_file(storage, group.name, shard, batches, form=form)


def joined_rows(
    storage: Storage, shard: str, others: Sequence[str]
) -> Iterator[tuple[pa.RecordBatch, ...]]:
    """Yield the batches of a data shard, each with those of other files of the same rows.

    Raises:
        CorruptShardError: a file is missing, or does not have the rows of the shard.
    """
    with stored_shard(storage, shard) as reader:
        sides = [kept_rows(storage, path) for path in others]
        for batch in reader.batches():
            found = tuple(next(side, None) for side in sides)
            for path, other in zip(others, found, strict=True):
                if other is None or other.num_rows != batch.num_rows:
                    raise CorruptShardError(f"{path} has not the rows of {shard}", uri=storage.uri)
            yield (batch, *(other for other in found if other is not None))


def _naming(group: str, shard: str) -> Naming:
    return lambda sha256, suffix: paths.group_file(group, shard, sha256, suffix)


def _noting(
    batches: Iterable[pa.RecordBatch], present: str, absent: list[Rows]
) -> Iterator[pa.RecordBatch]:
    start = 0
    for batch in batches:
        there = batch.column(present).to_numpy(zero_copy_only=False)
        absent.append(np.flatnonzero(~there) + start)
        start += batch.num_rows
        yield batch
