"""List, diff and plan: from a source to the units that are still to be made."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tokenmill.store.plans import PlanPart, listed, write_plan
from tokenmill_infra.observe import Observer
from tokenmill_pipelines.assemble import Assembly
from tokenmill_schemas.asset import listing_schema
from tokenmill_schemas.errors import JobError
from tokenmill_schemas.plan import IDENTITY, Diff, Known, Unit, split, unit_id
from tokenmill_schemas.snapshot import FileRef, Receipt, Snapshot

#: Rows that the listing file is read back in.
READ_ROWS = 65536


@dataclass(frozen=True, slots=True)
class Listing:
    """What a source lists that the store does not have: rows in a file, and counts.

    ``assets`` counts all that was listed; ``new`` the rows of ``file``; ``changed`` those that the
    store has in another version; ``bytes`` the size of the new ones, where it is known.
    """

    file: Path
    assets: int
    new: int
    unchanged: int
    changed: int
    duplicates: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Planned:
    """The units of a listing, in order, and the files that keep them."""

    units: tuple[Unit, ...] = ()
    plans: tuple[FileRef, ...] = ()


def known_assets(assembly: Assembly, head: Snapshot | None) -> Known:
    """Return what the newest version of the store lists already."""
    known = Known()
    for ref in head.plans if head else ():
        for batch in listed(assembly.store.storage, ref, list(IDENTITY)):
            known.add(batch)
    return known


def list_assets(
    assembly: Assembly, file: Path, *, head: Snapshot | None, observer: Observer
) -> Listing:
    """Write to ``file`` what the source lists and ``head`` does not have, in bounded memory.

    Raises:
        JobError: a place to list does not exist, or the source lists nothing at all.
    """
    diff = Diff(known_assets(assembly, head))
    listing = _write(assembly, (diff.new(b) for b in _list(assembly)), file, diff=diff)
    if listing.assets == 0:
        raise JobError("lists no assets", path="source")
    if listing.changed:
        observer.warn(
            "assets have changed since they were tokenized; the store keeps their old samples",
            count=listing.changed,
        )
    observer.event("list", assets=listing.assets, new=listing.new, duplicates=listing.duplicates)
    return listing


def list_quarantined(assembly: Assembly, file: Path, keys: set[str]) -> Listing:
    """Write to ``file`` what the source lists under ``keys``, whatever the store has."""
    wanted = pa.array(sorted(keys), pa.string())
    batches = (b.filter(pc.is_in(b.column("key"), value_set=wanted)) for b in _list(assembly))
    return _write(assembly, batches, file, diff=Diff(Known()))


def _list(assembly: Assembly) -> Iterator[pa.RecordBatch]:
    return assembly.source.list()


def _write(
    assembly: Assembly, batches: Iterable[pa.RecordBatch], file: Path, *, diff: Diff
) -> Listing:
    new = size = 0
    schema = listing_schema(assembly.source.companions())
    with pq.ParquetWriter(file, schema, compression="zstd") as writer:
        for batch in batches:
            writer.write_batch(batch)
            new += batch.num_rows
            known = pc.max_element_wise(batch.column("size_bytes"), pa.scalar(0, pa.int64()))
            size += pc.sum(known).as_py() or 0
    assets = new + diff.unchanged + diff.changed
    return Listing(file, assets, new, diff.unchanged, diff.changed, diff.duplicates, size)


def unit_tables(
    assembly: Assembly, listing: Listing, *, salt: str = ""
) -> Iterator[tuple[str, pa.Table]]:
    """Yield every unit of a listing: its id and its rows. ``salt`` sets a retry's ids apart."""
    with pq.ParquetFile(listing.file) as file:
        batches = file.iter_batches(batch_size=READ_ROWS)
        for table in split(batches, assembly.job.shards.unit_assets):
            name = _retry_id(assembly, table, salt) if salt else _unit_id(assembly, table)
            yield name, table


def _unit_id(assembly: Assembly, table: pa.Table, *, salt: str = "") -> str:
    identity = assembly.identity
    layout = f"{identity.layout_digest}:{assembly.job.shards.batch_rows}"
    return unit_id(identity.fingerprint + salt, layout, table)


def _retry_id(assembly: Assembly, table: pa.Table, salt: str) -> str:
    """Return an id for which there is no receipt, or one without failures.

    A retry that was interrupted goes on from what it mended. What it could not mend is tried again,
    although nothing was committed since, for what is wrong may have been put right.
    """
    names = (_unit_id(assembly, table, salt=f"{salt}:{attempt}") for attempt in itertools.count(1))
    return next(name for name in names if not _failed(assembly.store.receipt(name)))


def _failed(receipt: Receipt | None) -> bool:
    return receipt is not None and any(r.disposition == "quarantine" for r in receipt.rejects)


def plan_units(assembly: Assembly, listing: Listing, *, salt: str = "") -> Planned:
    """Write a listing's units into the store as plan parts."""
    schema = listing_schema(assembly.source.companions())
    tables = unit_tables(assembly, listing, salt=salt)
    parts: list[PlanPart] = write_plan(assembly.store.storage, tables, schema)
    units = tuple(unit for part in parts for unit in part.units)
    return Planned(units, tuple(part.ref for part in parts))
