"""Commits: receipts become the next version of a store, all of them or none.

A commit is one exclusive create of the next log file. When another commit took that number first,
this one reads what won, checks that it still may be added, drops the units that the winner already
holds, and tries the next number.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa

from tokenmill.store import paths
from tokenmill.store.log import Log
from tokenmill.store.plans import listed, read_unit
from tokenmill.store.tables import put_table, read_table
from tokenmill_infra.storage.storage import Storage
from tokenmill_schemas.arrow import ShardLayout
from tokenmill_schemas.canonical import canonical_json, digest
from tokenmill_schemas.errors import ConflictError, FingerprintError
from tokenmill_schemas.plan import Unit
from tokenmill_schemas.snapshot import (
    REJECT_SCHEMA,
    SEGMENT_SCHEMA,
    FileRef,
    Receipt,
    Snapshot,
)
from tokenmill_schemas.tokens import TokenSpec

#: Rows of one manifest segment, at the most.
SEGMENT_ROWS = 65536
#: Rebases of one commit before it gives up: each means that another commit won in between.
REBASES = 20


@dataclass(frozen=True, slots=True)
class Identity:
    """What all samples of a store have in common; ``shard_format`` is a kind of shard format."""

    spec: TokenSpec
    parts: dict[str, Any]
    layout: ShardLayout
    shard_format: str

    @property
    def fingerprint(self) -> str:
        """Hash of everything that can change a token."""
        return digest(self.parts)

    @property
    def layout_digest(self) -> str:
        """Hash of the columns that every shard has, and of the shards' format."""
        schema = str(self.layout.schema.to_string(show_schema_metadata=True))
        return digest({"schema": schema, "format": self.shard_format})


@dataclass(frozen=True, slots=True)
class Commit:
    """What one commit adds to a store, and for the record why and by which job.

    ``resolved`` are keys of assets that were in quarantine and are accounted for anew by
    ``receipts``. ``base`` is the number of the version that the listing was compared with (0 before
    the first); ``commit_id`` tells this commit's version from one that another commit made.
    """

    receipts: tuple[Receipt, ...]
    plans: tuple[FileRef, ...]
    identity: Identity
    operation: str = "append"
    message: str = ""
    job: dict[str, Any] = field(default_factory=dict)
    resolved: frozenset[str] = frozenset()
    base: int = 0
    commit_id: str = field(default_factory=lambda: uuid.uuid4().hex)


def check(log: Log, identity: Identity) -> Snapshot | None:
    """Return the newest version after checking that ``identity`` may be added to it.

    Raises:
        FingerprintError: the store holds tokens of another kind, or shards of another format or
            with other columns; says what differs.
    """
    if not log.numbers():
        return None
    head, uri = log.resolve(None), log.storage.uri
    if head.fingerprint != identity.fingerprint:
        raise FingerprintError(
            "holds tokens of another kind: "
            + "; ".join(differences(head.fingerprint_parts, identity.parts))
            + ". Use another store, or the settings that made this one",
            uri=uri,
        )
    if head.layout != identity.layout_digest:
        raise FingerprintError(
            f"{_other_layout(log.storage, head, identity)}: use another store, or the settings "
            "that made this one",
            uri=uri,
        )
    return head


def _other_layout(storage: Storage, head: Snapshot, identity: Identity) -> str:
    asked = identity.shard_format
    for ref in head.segments:
        there = set(read_table(storage, ref, ["format"]).column("format").to_pylist())
        if there - {asked}:
            return f"its shards have the format {', '.join(sorted(there))}, asked for is {asked}"
    return "its shards have other columns (packing, companion columns or view)"


def append(log: Log, commit: Commit) -> Snapshot:
    """Make receipts visible as the next version; returns the newest one if nothing is new.

    Raises:
        FingerprintError: the store holds tokens of another kind.
        ConflictError: a commit that came first holds the same assets in other units, or other
            commits kept winning.
    """
    for _ in range(REBASES):
        head = check(log, commit.identity)
        fresh = replace(commit, receipts=_fresh(log.storage, head, commit.receipts))
        if head is not None and not fresh.receipts:
            return head
        if head is not None and head.number != commit.base:
            _check_rebase(log, fresh, head)
        snapshot = _next(log.storage, fresh, head or _root(commit.identity))
        try:
            log.append(snapshot)
        except ConflictError:
            continue
        return snapshot
    raise ConflictError(f"{REBASES} commits came first; try again", uri=log.storage.uri)


def _fresh(
    storage: Storage, head: Snapshot | None, receipts: tuple[Receipt, ...]
) -> tuple[Receipt, ...]:
    """Drop the units that the newest version already holds."""
    held: set[str] = set()
    for ref in head.segments if head else ():
        held.update(read_table(storage, ref, ["unit_id"]).column("unit_id").to_pylist())
    return tuple(receipt for receipt in receipts if receipt.unit_id not in held)


def _check_rebase(log: Log, commit: Commit, head: Snapshot) -> None:
    """Refuse to account twice for assets that versions since ``commit.base`` account for.

    Another run may have listed the source at another moment and cut other units, which hold some
    of the same assets; or it may have retried some of the same quarantined ones.
    """
    held = log.read(commit.base).plans if commit.base else ()
    others = [part for part in head.plans if part not in held and part not in commit.plans]
    twice = _keys(log.storage, others)
    if twice:
        twice &= _planned_keys(log.storage, commit)
    if commit.resolved:
        tables = [read_table(log.storage, ref, ["asset_key"]) for ref in head.rejects]
        twice = set(commit.resolved).difference(*(t.column(0).to_pylist() for t in tables))
    if twice:
        raise ConflictError(
            f"snapshot {head.number} came first and accounts for {len(twice)} of the same assets "
            f"({', '.join(sorted(twice)[:3])}, ...) in other units; run again to add the rest",
            uri=log.storage.uri,
            asked=commit.base + 1,
            found=head.number,
        )


def _keys(storage: Storage, parts: Iterable[FileRef]) -> set[str]:
    batches = (batch for part in parts for batch in listed(storage, part, ["key"]))
    return {key for batch in batches for key in batch.column("key").to_pylist()}


def _planned_keys(storage: Storage, commit: Commit) -> set[str]:
    units = (Unit(r.unit_id, r.plan, r.row_group, r.assets) for r in commit.receipts)
    return {key for unit in units for key in read_unit(storage, unit).column("key").to_pylist()}


def _next(storage: Storage, commit: Commit, base: Snapshot) -> Snapshot:
    rejects = _rejects(storage, base, commit)
    return replace(
        base,
        number=base.number + 1,
        commit_id=commit.commit_id,
        parent=base.commit_id,
        operation=commit.operation,
        created_at=datetime.now(UTC).isoformat(timespec="milliseconds"),
        segments=base.segments + _put_segments(storage, commit.receipts),
        rejects=rejects,
        plans=base.plans + tuple(p for p in commit.plans if p not in base.plans),
        totals=_totals(base, commit, rejected=sum(ref.rows for ref in rejects)),
        message=commit.message,
        job=commit.job,
    )


def _put_segments(storage: Storage, receipts: tuple[Receipt, ...]) -> tuple[FileRef, ...]:
    rows = [_segment_row(receipt) for receipt in receipts]
    starts = range(0, len(rows), SEGMENT_ROWS)
    tables = (pa.Table.from_pylist(rows[i : i + SEGMENT_ROWS], SEGMENT_SCHEMA) for i in starts)
    return tuple(put_table(storage, paths.SEGMENTS, table) for table in tables)


def _rejects(storage: Storage, base: Snapshot, commit: Commit) -> tuple[FileRef, ...]:
    kept = base.rejects
    if commit.resolved:
        table = pa.concat_tables([read_table(storage, ref) for ref in base.rejects])
        stays = [key not in commit.resolved for key in table.column("asset_key").to_pylist()]
        table = table.filter(pa.array(stays, pa.bool_()))
        kept = (put_table(storage, paths.REJECTS, table),) if table.num_rows else ()
    new = reject_table(commit.receipts)
    return kept + ((put_table(storage, paths.REJECTS, new),) if new.num_rows else ())


def differences(old: Mapping[str, Any], new: Mapping[str, Any], path: str = "") -> list[str]:
    """Return ``dotted.key: old -> new`` for every leaf in which two mappings differ."""
    found: list[str] = []
    for key in sorted({*old, *new}):
        a, b = old.get(key), new.get(key)
        where = f"{path}.{key}" if path else key
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            found += differences(a, b, where)
        elif canonical_json(a) != canonical_json(b):
            found.append(f"{where} is {a!r} there and {b!r} here")
    return found


def _root(identity: Identity) -> Snapshot:
    """The version before the first: number 0, empty, never written."""
    return Snapshot(
        number=0,
        commit_id="",
        parent="",
        operation="",
        created_at="",
        spec=identity.spec,
        fingerprint=identity.fingerprint,
        fingerprint_parts=identity.parts,
        layout=identity.layout_digest,
        segments=(),
        rejects=(),
        plans=(),
    )


def _totals(base: Snapshot, commit: Commit, *, rejected: int) -> dict[str, int]:
    old = base.totals
    added = {
        "shards": sum(1 for r in commit.receipts if r.path),
        "samples": sum(r.samples for r in commit.receipts),
        "tokens": sum(r.tokens for r in commit.receipts),
        "bytes": sum(r.bytes for r in commit.receipts),
        "assets": sum(r.assets for r in commit.receipts) - len(commit.resolved),
    }
    return {k: old.get(k, 0) + v for k, v in added.items()} | {"rejected": rejected}


def _segment_row(receipt: Receipt) -> dict[str, Any]:
    row = {name: getattr(receipt, name) for name in SEGMENT_SCHEMA.names if name != "rejected"}
    return row | {"rejected": len(receipt.rejects)}


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
