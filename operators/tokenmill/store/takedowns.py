"""Takedowns: what must be shown by no version any more, whichever it is.

A takedown is a record in a chain of its own beside the versions: each holds the sha256 of the bytes
of the one before, so that what was taken down, and when, cannot be changed unnoticed. Every reader
of every version honours all of them from the moment they are written.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import UTC, datetime
from typing import Any, Literal

import pyarrow as pa

from tokenmill.store import paths
from tokenmill.store.records import parse_record
from tokenmill.store.tables import at_once, put_rows, read_tables
from tokenmill_infra.storage import writing
from tokenmill_infra.storage.storage import Storage
from tokenmill_schemas.arrow import FORMAT_VERSION
from tokenmill_schemas.canonical import canonical_json
from tokenmill_schemas.errors import ConflictError, CorruptShardError, FormatVersionError
from tokenmill_schemas.snapshot import TOMBSTONE_SCHEMA, FileRef

#: What may not come back: digests (`tokenmill_schemas.plan.digests`, hex) of asset keys, and "" or
#: of the one sample of that asset that is meant.
DENIED_SCHEMA = pa.schema(
    [
        pa.field("asset", pa.string(), nullable=False),
        pa.field("sample", pa.string(), nullable=False),
    ]
)
Kind = Literal["takedown", "purge", "purged"]
#: Where the tables of records lie: beside them, under names that are no numbers.
TABLES = f"{paths.TAKEDOWNS}/tables"
#: What removals under way have written down.
REMOVALS = f"{paths.TAKEDOWNS}/removals"


@dataclass(frozen=True, slots=True)
class Takedown:
    """One record of the chain.

    ``positions`` are tables of `TOMBSTONE_SCHEMA`: the samples found in any version that there was.
    ``denied`` are tables of `DENIED_SCHEMA`. ``request`` says what was asked for and ``facts`` what
    was done; neither names an asset, for records stay. ``previous`` is the sha256 of the record
    before ("" for the first), and ``sha256`` that of this one's file as it was read.
    """

    number: int
    previous: str
    kind: Kind
    request: dict[str, Any]
    positions: tuple[FileRef, ...] = ()
    denied: tuple[FileRef, ...] = ()
    facts: dict[str, Any] = field(default_factory=dict)
    created_at: str = field(default_factory=lambda: datetime.now(UTC).isoformat())
    format_version: int = FORMAT_VERSION
    sha256: str = ""

    def to_bytes(self) -> bytes:
        """Return the record's file."""
        value = asdict(self)
        del value["sha256"]
        return canonical_json(value) + b"\n"


@dataclass(frozen=True, slots=True)
class Takedowns:
    """The takedowns of one store."""

    storage: Storage

    def records(self) -> list[Takedown]:
        """Return all records, oldest first.

        Raises:
            CorruptShardError: a record is damaged or missing, or does not follow the one before.
        """
        records: list[Takedown] = []
        numbers = range(1, self.newest() + 1)
        for number, data in zip(numbers, at_once(self.storage, self._bytes, numbers), strict=True):
            previous = records[-1].sha256 if records else ""
            records.append(self._parsed(number, data, previous))
        return records

    def append(self, kind: Kind, request: dict[str, Any], **facts: Any) -> Takedown:
        """Add a record to the chain; its tables must be written already.

        Raises:
            ConflictError: others kept adding records.
            StoreError: the storage does not keep exclusive create, and another writer is at work.
        """
        with writing(self.storage):
            for _ in range(20):
                before = self.records()
                previous = before[-1].sha256 if before else ""
                record = Takedown(len(before) + 1, previous, kind, request, **facts)
                data = record.to_bytes()
                try:
                    self.storage.create(paths.takedown_file(record.number), data)
                except FileExistsError:
                    continue
                return replace(record, sha256=hashlib.sha256(data).hexdigest())
        raise ConflictError("20 takedowns came first; try again", uri=self.storage.uri)

    def put(self, table: pa.Table) -> tuple[FileRef, ...]:
        """Write a table that a record will name."""
        return put_rows(self.storage, TABLES, table)

    def positions(
        self, columns: Sequence[str] | None = None, *, until: int | None = None
    ) -> pa.Table:
        """Return every sample that was taken down (`TOMBSTONE_SCHEMA`), but for what was purged.

        Positions name samples, so a purge deletes them: no version has those rows any more.
        ``until`` counts only the first records, as of when there were no more.
        """
        records = self.records()
        gone, purged = covered(records, "purged"), covered(records, "purge")
        refs = [r for record in records[:until] for r in record.positions if record.number > purged]
        left = [record for record in records[:until] if gone < record.number <= purged]
        due = [ref for record in left for ref in record.positions]
        refs += [ref for ref in due if self.storage.exists(ref.path)]
        try:
            return read_tables(self.storage, refs, TOMBSTONE_SCHEMA, columns)
        except CorruptShardError:
            # One of them may have been purged since it was looked for.
            if all(self.storage.exists(ref.path) for ref in refs):
                raise
            refs = [ref for ref in refs if ref not in due or self.storage.exists(ref.path)]
            return read_tables(self.storage, refs, TOMBSTONE_SCHEMA, columns)

    def denied(self, until: int | None = None) -> pa.Table:
        """Return digests of what may not come back (`DENIED_SCHEMA`), by the first ``until``."""
        records = self.records()[:until]
        refs = [ref for record in records for ref in record.denied]
        return read_tables(self.storage, refs, DENIED_SCHEMA)

    def newest(self) -> int:
        """Return the number of the newest record, 0 if there is none.

        A listing may be late, so what follows its last number is asked for by name.
        """
        listed = self.storage.list(paths.TAKEDOWNS)
        newest = max((paths.log_number(entry.path) or 0 for entry in listed), default=0)
        while self.storage.exists(paths.takedown_file(newest + 1)):
            newest += 1
        return newest

    def _bytes(self, number: int) -> bytes:
        path = paths.takedown_file(number)
        try:
            return self.storage.read(path)
        except FileNotFoundError as error:
            raise CorruptShardError(f"{path} is missing", uri=self.storage.uri) from error

    def _parsed(self, number: int, data: bytes, previous: str) -> Takedown:
        path = paths.takedown_file(number)

        def parse(value: Any) -> Takedown:
            if value["format_version"] > FORMAT_VERSION:
                raise FormatVersionError(
                    f"a takedown of format version {value['format_version']}: update tokenmill",
                    uri=self.storage.uri,
                )
            if value["previous"] != previous or value["number"] != number:
                raise ValueError("it does not follow the record before it")
            return _takedown(value)

        record = parse_record(self.storage, path, data, parse)
        return replace(record, sha256=hashlib.sha256(data).hexdigest())


def covered(records: Sequence[Takedown], kind: Kind) -> int:
    """Return the number up to which records of ``kind`` ("purge", "purged") cover takedowns."""
    return max((r.facts.get("covers", 0) for r in records if r.kind == kind), default=0)


def _takedown(value: dict[str, Any]) -> Takedown:
    """Return the record that a file holds; keys of newer libraries are left out."""
    known = {f.name for f in fields(Takedown)} - {"sha256"}
    given = {key: entry for key, entry in value.items() if key in known}
    for name in ("positions", "denied"):
        given[name] = tuple(_ref(ref) for ref in value[name])
    return Takedown(**given)


def _ref(value: dict[str, Any]) -> FileRef:
    return FileRef(**{f.name: value[f.name] for f in fields(FileRef) if f.name in value})
