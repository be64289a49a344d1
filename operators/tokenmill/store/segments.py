"""Manifest segments: which shards a version holds, in order."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from tokenmill.store import paths
from tokenmill.store.tables import append_rows, read_table, read_tables
from tokenmill_infra.storage.storage import Storage
from tokenmill_schemas.snapshot import REJECT_SCHEMA, SEGMENT_SCHEMA, FileRef, Receipt

#: The name that `paths.shard_file` gives: the unit, and the beginning of the shard's hash.
_SHARD_NAME = rf"^{paths.DATA}/(.*)-[0-9a-f]{{16}}\.[^./]*$"


def segment_table(receipts: Iterable[Receipt]) -> pa.Table:
    """Return receipts as rows of `SEGMENT_SCHEMA`, in their order."""
    return pa.Table.from_pylist([_row(receipt) for receipt in receipts], SEGMENT_SCHEMA)


def _row(receipt: Receipt) -> dict[str, Any]:
    row = {name: getattr(receipt, name) for name in SEGMENT_SCHEMA.names if name != "rejected"}
    shapes = base64.b64decode(receipt.shapes) or None
    return row | {"rejected": len(receipt.rejects), "shapes": shapes}


def receipt_of(row: Mapping[str, Any]) -> Receipt:
    """Return a row of `SEGMENT_SCHEMA` as a receipt, without the rejects."""
    facts: dict[str, Any] = {name: value for name, value in row.items() if name != "rejected"}
    facts["shapes"] = base64.b64encode(row["shapes"] or b"").decode()
    return Receipt(**facts)


def add_segments(
    storage: Storage, refs: Sequence[FileRef], receipts: Iterable[Receipt]
) -> tuple[FileRef, ...]:
    """Return the segments of a version with the shards of ``receipts`` behind those of ``refs``."""
    return append_rows(storage, paths.SEGMENTS, refs, segment_table(receipts))


def read_segments(
    storage: Storage, refs: Iterable[FileRef], columns: Sequence[str] | None = None
) -> pa.Table:
    """Return one row per shard, in order (`SEGMENT_SCHEMA`), or some columns of them.

    Raises:
        CorruptShardError: a manifest segment is missing or changed.
    """
    return read_tables(storage, refs, SEGMENT_SCHEMA, columns)


def shard_places(
    storage: Storage, refs: Iterable[FileRef], wanted: Iterable[str] | pa.Array
) -> npt.NDArray[np.int64]:
    """Return the place of each shard of ``wanted`` (distinct paths) in the manifest, or -1.

    Raises:
        CorruptShardError: a manifest segment is missing or changed.
    """
    names: Any = wanted if isinstance(wanted, pa.Array) else pa.array(wanted, pa.string())
    places = np.full(len(names), -1, np.int64)
    start = 0
    for ref in refs:
        column = read_table(storage, ref, ["path"]).column("path").combine_chunks()
        found = pc.index_in(column, value_set=names)
        there = np.flatnonzero(found.is_valid().to_numpy(zero_copy_only=False))
        places[found.drop_null().to_numpy()] = there + start
        start += len(column)
    return places


def held_units(
    storage: Storage, refs: Iterable[FileRef], unit_ids: Iterable[str]
) -> frozenset[str]:
    """Return which of ``unit_ids`` the segments hold already."""
    wanted = pa.array(sorted(unit_ids), pa.string())
    held: set[str] = set()
    for ref in refs if len(wanted) else ():
        column = read_table(storage, ref, ["unit_id"]).column("unit_id")
        held.update(column.filter(pc.is_in(column, value_set=wanted)).to_pylist())
    return frozenset(held)


def taken_units(
    storage: Storage, refs: Iterable[FileRef], unit_ids: Iterable[str]
) -> frozenset[str]:
    """Return which of ``unit_ids`` the segments hold, or hold a shard of under another unit.

    Compaction leaves a shard the file that it is where its unit comes together with others that
    have none. Made again, the unit would give that very file, of which rows may be hidden.
    """
    ids, refs = sorted(unit_ids), tuple(refs)
    wanted = pa.array(ids, pa.string())
    taken = set(held_units(storage, refs, ids))
    for ref in refs if ids else ():
        column = read_table(storage, ref, ["path"]).column("path")
        owners = pc.replace_substring_regex(column, _SHARD_NAME, r"\1")
        taken.update(owners.filter(pc.is_in(owners, value_set=wanted)).to_pylist())
    return frozenset(taken)


def reject_table(receipts: Iterable[Receipt]) -> pa.Table:
    """Return the rejects of ``receipts`` as rows of `REJECT_SCHEMA`."""
    rows = [
        {
            "asset_key": reject.asset_key,
            "uri": reject.uri,
            "disposition": reject.disposition,
            "reason": reject.reason,
            "stage": reject.stage,
            "error": reject.error,
            "unit_id": receipt.unit_id,
        }
        for receipt in receipts
        for reject in receipt.rejects
    ]
    return pa.Table.from_pylist(rows, REJECT_SCHEMA)
