"""Plans on disk: what was listed, kept with the store so that its ledger can be proved.

A plan part is a Parquet file of listing rows, one row group per unit; its footer names the units
under ``tokenmill.units``. Parts are content-addressed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from tokenmill.store import paths
from tokenmill_infra.storage import open_ranges, scratch
from tokenmill_infra.storage.storage import Storage
from tokenmill_schemas.plan import Unit
from tokenmill_schemas.snapshot import FileRef

#: Assets of one part: some 50 MB of Parquet, read whole by nobody but `verify`.
PART_ASSETS = 1_000_000


@dataclass(frozen=True, slots=True)
class PlanPart:
    """One written plan part and its units, in order."""

    ref: FileRef
    units: tuple[Unit, ...]


def write_plan(
    storage: Storage, planned: Iterable[tuple[str, pa.Table]], schema: pa.Schema
) -> list[PlanPart]:
    """Write planned units ``(unit id, listing rows)`` as plan parts, in bounded memory."""
    parts: list[PlanPart] = []
    iterator = iter(planned)
    with scratch(storage) as folder:
        while True:
            part = _write_part(storage, iterator, schema, folder=folder)
            if part is None:
                return parts
            parts.append(part)


def _write_part(
    storage: Storage, planned: Iterator[tuple[str, pa.Table]], schema: pa.Schema, *, folder: Path
) -> PlanPart | None:
    file = folder / "part.parquet"
    units: list[tuple[str, int]] = []
    with pq.ParquetWriter(file, schema, compression="zstd", store_schema=True) as writer:
        for name, table in planned:
            writer.write_table(table.cast(schema), row_group_size=max(1, table.num_rows))
            units.append((name, table.num_rows))
            if sum(rows for _, rows in units) >= PART_ASSETS:
                break
        writer.add_key_value_metadata({"tokenmill.units": json.dumps([n for n, _ in units])})
    if not units:
        return None
    with file.open("rb") as stream:
        sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
    size = file.stat().st_size
    path = f"{paths.PLANS}/{sha256}.parquet"
    storage.create_from(path, file)
    rows = sum(count for _, count in units)
    made = (Unit(name, path, i, count) for i, (name, count) in enumerate(units))
    return PlanPart(FileRef(path, sha256, rows, size), tuple(made))


def read_unit(storage: Storage, unit: Unit) -> pa.Table:
    """Return the listing rows of one unit; only the footer and its row group are read."""
    with open_ranges(storage, unit.part) as stream, pq.ParquetFile(stream) as file:
        return file.read_row_group(unit.row_group)


def read_units(
    storage: Storage, units: Iterable[Unit], columns: list[str]
) -> Iterator[tuple[Unit, pa.Table]]:
    """Yield units with columns of their listing rows; each plan part is opened once."""
    parts: dict[str, list[Unit]] = {}
    for unit in units:
        parts.setdefault(unit.part, []).append(unit)
    for part, members in parts.items():
        with open_ranges(storage, part) as stream, pq.ParquetFile(stream) as file:
            for unit in members:
                yield unit, file.read_row_group(unit.row_group, columns=columns)


def listed(storage: Storage, ref: FileRef, columns: list[str]) -> Iterator[pa.RecordBatch]:
    """Yield columns of every asset that a plan part lists, in bounded memory."""
    with open_ranges(storage, ref.path) as stream, pq.ParquetFile(stream, pre_buffer=True) as file:
        yield from file.iter_batches(batch_size=65536, columns=columns)
