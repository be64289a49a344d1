"""List, diff and plan: from a source to the units that are still to be made."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tokenmill.sources.hashing import content_hasher
from tokenmill.store.plans import PlanPart, listed, write_plan
from tokenmill.store.segments import taken_units
from tokenmill.store.tables import read_tables
from tokenmill_infra.observe import Observer
from tokenmill_infra.storage.storage import Storage
from tokenmill_pipelines.assemble import Assembly
from tokenmill_schemas.asset import listing_schema
from tokenmill_schemas.errors import JobError
from tokenmill_schemas.increment import ContentOf, Diff, Known
from tokenmill_schemas.plan import IDENTITY, Unit, digests, split, unit_id
from tokenmill_schemas.snapshot import MISSING_SCHEMA, FileRef, Receipt, Snapshot

#: Rows that the listing file is read back in.
READ_ROWS = 65536
#: Threads that hash assets where the job does not say how many fetch them.
HASH_THREADS = 4
#: Plan parts of up to so many rows that are read at once, where reading is waiting for answers.
PART_THREADS = 8
SMALL_PART = 16384


@dataclass(frozen=True, slots=True)
class Listing:
    """What a source lists, held against what the store has.

    ``file`` has the ``todo`` rows that are to be tokenized: all new ones, and those that changed
    unless the job leaves them. ``assets`` counts all that was listed; each is ``new``,
    ``unchanged``, ``changed`` or ``withheld`` (taken down). ``bytes`` is the size of what is to do,
    where it is known.

    ``replaced`` are the keys of changed assets that are to be tokenized again, ``vanished`` those
    of the ``there`` assets that the job listed before and no longer does, ``returned`` those that
    it misses and lists again; ``missed`` is how many it missed so far. ``held_in`` are the segments
    of the version that all this was held against.
    """

    file: Path
    todo: int = 0
    bytes: int = 0
    assets: int = 0
    new: int = 0
    unchanged: int = 0
    changed: int = 0
    withheld: int = 0
    duplicates: int = 0
    there: int = 0
    missed: int = 0
    replaced: pa.ChunkedArray = field(default_factory=lambda: _keys(()))
    vanished: pa.ChunkedArray = field(default_factory=lambda: _keys(()))
    returned: pa.ChunkedArray = field(default_factory=lambda: _keys(()))
    held_in: tuple[FileRef, ...] = ()


@dataclass(frozen=True, slots=True)
class Planned:
    """The units of a listing, in order, and the files that keep them."""

    units: tuple[Unit, ...] = ()
    plans: tuple[FileRef, ...] = ()


def known_assets(assembly: Assembly, head: Snapshot | None) -> Known:
    """Return what the newest version of the store lists already, and what the job misses of it."""
    if head is None:
        return Known.of()
    name = assembly.job.name
    # Parts of nobody's are from before there were scopes: what they list is never missed.
    rows = (
        (batch, bool(ref.scope) and ref.scope == name)
        for ref, batch in _listed(assembly, head.plans, list(IDENTITY))
    )
    return Known.of(rows, digests(missing_assets(assembly, head), ("asset_key",)))


def missing_assets(assembly: Assembly, head: Snapshot) -> pa.Table:
    """Return the rows of `MISSING_SCHEMA` that are the job's own."""
    table = read_tables(assembly.store.storage, head.missing, MISSING_SCHEMA)
    return table.filter(pc.equal(table.column("scope"), assembly.job.name))


def list_assets(
    assembly: Assembly, file: Path, *, head: Snapshot | None, observer: Observer
) -> Listing:
    """Write to ``file`` what the source lists and ``head`` does not have, in bounded memory.

    Raises:
        JobError: a place to list does not exist, or the source lists nothing and never did.
    """
    replaces = assembly.job.increment.on_changed == "replace"
    known, denied = known_assets(assembly, head), assembly.store.denied()
    with _contents(assembly, observer) as content:
        diff = Diff(known, denied, content, replaces)
        listing = _write(assembly, map(diff.sift, assembly.source.list()), file, diff=diff)
    if not (listing.assets or listing.there or listing.missed):
        raise JobError("lists no assets", path="source")
    listing = replace(
        listing,
        replaced=_keys(diff.changed_keys if replaces else ()),
        vanished=_keys(diff.vanished(_own_keys(assembly, head))),
        held_in=head.segments if head else (),
    )
    if listing.changed and not replaces:
        observer.warn(
            "assets have changed since they were tokenized; the store keeps their old samples",
            count=listing.changed,
        )
    observer.event("list", **counts(listing))
    return listing


def counts(listing: Listing) -> dict[str, int]:
    """Return how many assets were listed, and what they are to the store."""
    names = ("assets", "new", "changed", "unchanged", "duplicates", "withheld")
    return {name: getattr(listing, name) for name in names} | {
        "missing": len(listing.vanished),
        "returned": len(listing.returned),
    }


def list_quarantined(
    assembly: Assembly, file: Path, keys: set[str], *, observer: Observer
) -> Listing:
    """Write to ``file`` what the source lists under ``keys``, whatever the store has."""
    wanted = pa.array(sorted(keys), pa.string())

    def is_wanted(batch: pa.RecordBatch) -> pa.Array:
        return pc.is_in(batch.column("key"), value_set=wanted)

    with _contents(assembly, observer) as content:

        def content_of_wanted(batch: pa.RecordBatch) -> list[str]:
            mask = is_wanted(batch)
            found = iter(content(batch.filter(mask)) if content else ())
            return [next(found) if asked else "" for asked in mask.to_pylist()]

        diff = Diff(Known.of(), assembly.store.denied(), content and content_of_wanted)
        batches = map(diff.sift, assembly.source.list())
        wanted_only = (batch.filter(is_wanted(batch)) for batch in batches)
        return _write(assembly, wanted_only, file, diff=diff)


@contextmanager
def _contents(assembly: Assembly, observer: Observer) -> Iterator[ContentOf | None]:
    """What hashes assets, for a job that tells them by their content; says how far it is."""
    if assembly.job.increment.identity == "version":
        yield None
        return
    hashed = 0

    def tell(count: int) -> None:
        nonlocal hashed
        hashed += count
        observer.progress(hashed, 0)

    threads = assembly.job.cluster.fetch_threads or HASH_THREADS
    modalities = assembly.view.modalities
    with content_hasher(assembly.source, modalities=modalities, threads=threads, tell=tell) as made:
        yield made
    observer.event("fetch", hashed=hashed)


def _own_keys(assembly: Assembly, head: Snapshot | None) -> Iterator[pa.RecordBatch]:
    own = [ref for ref in (head.plans if head else ()) if ref.scope == assembly.job.name]
    yield from (batch for _, batch in _listed(assembly, own, ["key"]))


def _listed(
    assembly: Assembly, refs: Iterable[FileRef], columns: list[str]
) -> Iterator[tuple[FileRef, pa.RecordBatch]]:
    """Yield columns of plan parts, in order.

    Years of nightly runs leave thousands of small parts; on an object store each takes some
    requests, so that many are under way at a time.
    """
    storage = assembly.store.storage
    with ThreadPoolExecutor(PART_THREADS, "tokenmill-plans") as pool:
        ahead: deque[tuple[FileRef, Iterable[pa.RecordBatch] | Future[list[pa.RecordBatch]]]]
        ahead = deque()
        for ref in refs:
            if ref.rows <= SMALL_PART and storage.local(ref.path) is None:
                ahead.append((ref, pool.submit(_all_listed, storage, ref, columns)))
            else:
                ahead.append((ref, listed(storage, ref, columns)))
            if len(ahead) > PART_THREADS:
                yield from _taken(*ahead.popleft())
        for one in ahead:
            yield from _taken(*one)


def _all_listed(storage: Storage, ref: FileRef, columns: list[str]) -> list[pa.RecordBatch]:
    return list(listed(storage, ref, columns))


def _taken(
    ref: FileRef, found: Iterable[pa.RecordBatch] | Future[list[pa.RecordBatch]]
) -> Iterator[tuple[FileRef, pa.RecordBatch]]:
    batches = found.result() if isinstance(found, Future) else found
    yield from ((ref, batch) for batch in batches)


def _keys(arrays: Iterable[pa.Array]) -> pa.ChunkedArray:
    return pa.chunked_array(list(arrays), pa.string())


def _write(
    assembly: Assembly, batches: Iterable[pa.RecordBatch], file: Path, *, diff: Diff
) -> Listing:
    todo = size = 0
    schema = listing_schema(assembly.source.companions())
    with pq.ParquetWriter(file, schema, compression="zstd") as writer:
        for batch in batches:
            writer.write_batch(batch)
            todo += batch.num_rows
            known = pc.max_element_wise(batch.column("size_bytes"), pa.scalar(0, pa.int64()))
            size += pc.sum(known).as_py() or 0
    return Listing(
        file=file,
        todo=todo,
        bytes=size,
        assets=diff.assets,
        new=diff.new,
        unchanged=diff.unchanged,
        changed=diff.changed,
        withheld=diff.withheld,
        duplicates=diff.duplicates,
        there=diff.there,
        missed=int(diff.known.missing.sum()),
        returned=_keys(diff.returned_keys),
    )


def unit_tables(
    assembly: Assembly, listing: Listing, *, salt: str = ""
) -> Iterator[tuple[str, pa.Table]]:
    """Yield every unit of a listing: its id and its rows. ``salt`` sets a retry's ids apart."""
    held = _held(assembly, listing)
    for table in _tables(assembly, listing):
        if salt:
            yield _retry_id(assembly, table, salt), table
        else:
            yield _fresh_id(assembly, table, listing, held), table


def _tables(assembly: Assembly, listing: Listing) -> Iterator[pa.Table]:
    with pq.ParquetFile(listing.file) as file:
        batches = file.iter_batches(batch_size=READ_ROWS)
        yield from split(batches, assembly.job.shards.unit_assets)


def _held(assembly: Assembly, listing: Listing) -> frozenset[str]:
    """Return ids of the listing's units that the store's newest version has a shard of.

    That is so where assets are again what they once were: the shard is there, with its samples
    hidden for what came between.
    """
    if not len(listing.replaced):
        return frozenset()
    ids = (_unit_id(assembly, table) for table in _tables(assembly, listing))
    return taken_units(assembly.store.storage, listing.held_in, ids)


def _fresh_id(assembly: Assembly, table: pa.Table, listing: Listing, held: frozenset[str]) -> str:
    """Return an id under which the store's newest version has no shard."""
    name, again = _unit_id(assembly, table), 0
    while name in held:
        again += 1
        name = _unit_id(assembly, table, salt=f":again-{again}")
        held = taken_units(assembly.store.storage, listing.held_in, [name])
    return name


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
