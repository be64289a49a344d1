"""Plans: which assets make which unit, decided by pure functions.

A unit is content-addressed: its id is a hash of the job's fingerprint, the columns of its shard,
and every asset's row in order. The same listing under the same job therefore always gives the same
units, and a unit whose receipt exists need never run again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

DIGEST_BYTES = 16
#: The columns of a listing that say which asset it is, and in which version.
IDENTITY = ("key", "uri", "locator", "version")


@dataclass(frozen=True, slots=True)
class Unit:
    """A planned piece of work: one row group of one plan part; becomes exactly one shard."""

    unit_id: str
    part: str
    row_group: int
    assets: int


def unit_id(fingerprint: str, layout: str, assets: pa.Table) -> str:
    """Return the id (32 hex digits) of the unit that tokenizes ``assets`` in this order.

    ``layout`` is the digest of what changes a shard's bytes but not its tokens. Companion values
    count too, for they are columns of the shard.
    """
    sha = hashlib.sha256(f"unit-v1\n{fingerprint}\n{layout}\n{assets.num_rows}\n".encode())
    for name in assets.schema.names:
        sha.update(f"\n{name}\n".encode())
        sha.update(_column_bytes(assets.column(name)))
    return sha.hexdigest()[:32]


def _column_bytes(column: pa.ChunkedArray) -> bytes:
    """Bytes that two columns share if and only if their values are equal, chunking aside."""
    if pa.types.is_string(column.type) and column.null_count == 0:
        # Lengths first, then text: no two lists of strings share both.
        lengths = pc.binary_length(column).to_numpy()
        text: bytes = "".join(column.to_pylist()).encode()
        return bytes(lengths.astype("<i4").tobytes()) + text
    return repr(column.to_pylist()).encode()


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


def digests(batch: pa.RecordBatch | pa.Table, names: tuple[str, ...]) -> list[bytes]:
    """Return a 16-byte digest per row over the named string columns."""
    joined = pc.binary_join_element_wise(*(batch.column(n) for n in names), "\x00").to_pylist()
    return [hashlib.blake2b(text.encode(), digest_size=DIGEST_BYTES).digest() for text in joined]


def missing(units: Iterable[Unit], done: set[str]) -> list[Unit]:
    """Return the units that have no receipt yet, in plan order."""
    return [unit for unit in units if unit.unit_id not in done]
