"""Plans: which assets make which unit, decided by pure functions.

A unit is content-addressed: its id is a hash of the job's fingerprint, the settings that change a
shard's bytes, and every asset's identity in order. The same listing under the same job therefore
always gives the same units, and a unit whose receipt exists need never run again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute

IDENTITY = ("key", "uri", "locator", "modality", "version")


@dataclass(frozen=True, slots=True)
class Unit:
    """A planned piece of work: rows of one row group of a plan part; becomes exactly one shard."""

    unit_id: str
    index: int
    part: str
    row_group: int
    assets: int


def unit_id(fingerprint: str, shape: str, assets: pa.RecordBatch | pa.Table) -> str:
    """Return the id (32 hex digits) of the unit that tokenizes ``assets`` in this order.

    ``shape`` is the digest of the settings that change a shard's bytes but not its tokens, and
    companion values are part of the identity, for they are columns of the shard.
    """
    sha = hashlib.sha256(f"unit-v1\n{fingerprint}\n{shape}\n{assets.num_rows}\n".encode())
    for name in assets.schema.names:
        sha.update(f"\n{name}\n".encode())
        sha.update(_column_bytes(assets.column(name)))
    return sha.hexdigest()[:32]


def _column_bytes(column: pa.Array | pa.ChunkedArray) -> bytes:
    """Bytes that two columns share if and only if their values are equal, chunking aside."""
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    if pa.types.is_string(array.type) and array.null_count == 0:
        # Lengths first, then text: no two lists of strings share both.
        lengths = pa.compute.binary_length(array).to_numpy(zero_copy_only=False)
        text: bytes = "".join(array.to_pylist()).encode()
        return bytes(lengths.astype("<i4").tobytes()) + text
    return repr(array.to_pylist()).encode()


def split(batches: Iterable[pa.RecordBatch], unit_assets: int) -> Iterator[pa.Table]:
    """Regroup listing batches into tables of ``unit_assets`` rows, the last one shorter."""
    held: list[pa.RecordBatch] = []
    rows = 0
    for batch in batches:
        start = 0
        while start < batch.num_rows:
            piece = batch.slice(start, min(unit_assets - rows, batch.num_rows - start))
            held.append(piece)
            rows += piece.num_rows
            start += piece.num_rows
            if rows == unit_assets:
                yield pa.Table.from_batches(held)
                held, rows = [], 0
    if held:
        yield pa.Table.from_batches(held)


def missing(units: Iterable[Unit], done: set[str]) -> list[Unit]:
    """Return the units that have no receipt yet, in plan order."""
    return [unit for unit in units if unit.unit_id not in done]
