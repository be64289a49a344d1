"""Takedowns: what must be shown by no version any more, whichever it is.

A takedown is a record in a chain of its own beside the versions: each holds the sha256 of the bytes
of the one before, so that what was taken down, and when, cannot be changed unnoticed. Every reader
of every version honours all of them from the moment they are written.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

import pyarrow as pa

from tokenmill.store import paths
from tokenmill.store.records import read_record
from tokenmill.store.tables import read_tables
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


@dataclass(frozen=True, slots=True)
class Takedown:
    """One record of the chain.

    ``positions`` are tables of `TOMBSTONE_SCHEMA`: the samples found in any version that there was.
    ``denied`` are tables of `DENIED_SCHEMA`. ``request`` says what was asked for and ``facts`` what
    was done; ``previous`` is the sha256 of the record before ("" for the first).
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

    def to_bytes(self) -> bytes:
        """Return the record's file."""
        return canonical_json(asdict(self)) + b"\n"

    @property
    def sha256(self) -> str:
        """Hash of the record's file, which the next record holds."""
        return hashlib.sha256(self.to_bytes()).hexdigest()


@dataclass(frozen=True, slots=True)
class Takedowns:
    """The takedowns of one store."""

    storage: Storage

    def records(self) -> list[Takedown]:
        """Return all records, oldest first.

        A listing may be late, so what follows its last number is asked for by name.

        Raises:
            CorruptShardError: a record is damaged or missing, or does not follow the one before.
        """
        listed = self.storage.list(paths.TAKEDOWNS)
        newest = max((paths.log_number(entry.path) or 0 for entry in listed), default=0)
        while self.storage.exists(paths.takedown_file(newest + 1)):
            newest += 1
        records: list[Takedown] = []
        for number in range(1, newest + 1):
            previous = records[-1].sha256 if records else ""
            records.append(self._read(number, previous))
        return records

    def append(self, kind: Kind, request: dict[str, Any], **facts: Any) -> Takedown:
        """Add a record to the chain; its position files must be written already.

        Raises:
            ConflictError: others kept adding records.
        """
        for _ in range(20):
            before = self.records()
            previous = before[-1].sha256 if before else ""
            record = Takedown(len(before) + 1, previous, kind, request, **facts)
            try:
                self.storage.create(paths.takedown_file(record.number), record.to_bytes())
            except FileExistsError:
                continue
            return record
        raise ConflictError("20 takedowns came first; try again", uri=self.storage.uri)

    def positions(self, columns: Sequence[str] | None = None) -> pa.Table:
        """Return every sample that was taken down (`TOMBSTONE_SCHEMA`)."""
        refs = [ref for record in self.records() for ref in record.positions]
        return read_tables(self.storage, refs, TOMBSTONE_SCHEMA, columns)

    def denied(self) -> pa.Table:
        """Return digests of what may not come back (`DENIED_SCHEMA`)."""
        refs = [ref for record in self.records() for ref in record.denied]
        return read_tables(self.storage, refs, DENIED_SCHEMA)

    def _read(self, number: int, previous: str) -> Takedown:
        def parse(value: Any) -> Takedown:
            if value["format_version"] > FORMAT_VERSION:
                raise FormatVersionError(
                    f"a takedown of format version {value['format_version']}: update tokenmill",
                    uri=self.storage.uri,
                )
            if value["previous"] != previous or value["number"] != number:
                raise ValueError("it does not follow the record before it")
            refs = {k: tuple(FileRef(**r) for r in value[k]) for k in ("positions", "denied")}
            return Takedown(**{**value, **refs})

        try:
            return read_record(self.storage, paths.takedown_file(number), parse)
        except FileNotFoundError as error:
            raise CorruptShardError(
                f"{paths.takedown_file(number)} is missing", uri=self.storage.uri
            ) from error
