"""Plan parts cut anew, so that each new unit has its listing in one row group.

Parts are replaced where they stood, each stretch of them by new ones with the rows in the order
they had; so of two rows of one key the later one stays the later.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tokenmill.store.compact.grouping import blocks
from tokenmill.store.plans import write_plan
from tokenmill_infra.storage import open_ranges
from tokenmill_infra.storage.storage import Storage
from tokenmill_schemas.snapshot import FileRef

#: Where a listing lies: a plan part and a row group.
Place = tuple[str, int]


@dataclass(frozen=True, slots=True)
class Unlisted:
    """A unit to be: its id, the listings that it is made of, and the assets that go from each."""

    unit_id: str
    places: tuple[Place, ...]
    without: Mapping[Place, frozenset[str]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Listed:
    """Where a unit's listing lies, how many assets it has, and its least and greatest key."""

    place: Place
    assets: int
    min_key: str
    max_key: str


@dataclass(slots=True)
class Listings:
    """The plan parts of the next version, and what is now where an old listing was.

    Of a merged unit, the place of its first listing stands for all; one that has no asset left is
    not among ``units``. ``parts`` are the old parts that gave way.
    """

    plans: tuple[FileRef, ...] = ()
    units: dict[Place, Listed] = field(default_factory=dict)
    parts: set[str] = field(default_factory=set)


def recut(storage: Storage, plans: Sequence[FileRef], units: Iterable[Unlisted]) -> Listings:
    """Write the plan parts that hold listings of ``units`` anew, a row group for each of those.

    Raises:
        CorruptShardError: a plan part is missing.
    """
    numbers = {part.path: i for i, part in enumerate(plans)}
    owners = {place: unit for unit in units for place in unit.places}
    spans = {}
    for unit in owners.values():
        touched = [numbers[part] for part, _ in unit.places]
        spans[unit.unit_id] = min(touched), max(touched)
    made, done = Listings(), 0
    for first, last in blocks(spans.values()):
        made.plans += tuple(plans[done:first])
        made.plans += _recut(storage, plans[first : last + 1], owners, made)
        done = last + 1
    made.plans += tuple(plans[done:])
    return made


def _recut(
    storage: Storage, parts: Sequence[FileRef], owners: Mapping[Place, Unlisted], made: Listings
) -> tuple[FileRef, ...]:
    noted: list[Listed] = []
    with ExitStack() as stack:
        files: dict[str, pq.ParquetFile] = {}
        for part in parts:
            stream = stack.enter_context(open_ranges(storage, part.path))
            files[part.path] = stack.enter_context(pq.ParquetFile(stream))
        schema = pa.unify_schemas([f.schema_arrow.remove_metadata() for f in files.values()])
        written = write_plan(storage, _planned(files, owners, schema, noted), schema)
    units = (unit for part in written for unit in part.units)
    for old, unit in zip(noted, units, strict=True):
        made.units[old.place] = replace(old, place=(unit.part, unit.row_group))
    made.parts.update(files)
    return tuple(replace(part.ref, scope=parts[0].scope) for part in written)


def _planned(
    files: Mapping[str, pq.ParquetFile],
    owners: Mapping[Place, Unlisted],
    schema: pa.Schema,
    noted: list[Listed],
) -> Iterator[tuple[str, pa.Table]]:
    """Yield every unit of some parts with its listing; merged ones where their first one was."""
    for path, file in files.items():
        ids = json.loads(file.metadata.metadata[b"tokenmill.units"])
        for group, unit_id in enumerate(ids):
            place = path, group
            unit = owners.get(place, Unlisted(unit_id, (place,)))
            if place != unit.places[0]:
                continue
            parts = [_listing(files, at, unit.without.get(at), schema) for at in unit.places]
            table = pa.concat_tables(parts)
            if table.num_rows:
                ends = pc.min_max(table.column("key")).as_py()
                noted.append(Listed(place, table.num_rows, ends["min"], ends["max"]))
                yield unit.unit_id, table


def _listing(
    files: Mapping[str, pq.ParquetFile],
    place: Place,
    without: frozenset[str] | None,
    schema: pa.Schema,
) -> pa.Table:
    table = _conformed(files[place[0]].read_row_group(place[1]), schema)
    if not without:
        return table
    gone = pa.array(sorted(without), pa.string())
    return table.filter(pc.invert(pc.is_in(table.column("key"), value_set=gone)))


def _conformed(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """Return a listing with columns of which its part knew nothing as nulls."""
    arrays = [
        table.column(column.name)
        if column.name in table.schema.names
        else pa.nulls(table.num_rows, column.type)
        for column in schema
    ]
    return pa.table(arrays, schema=schema)
