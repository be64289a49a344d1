"""Receipts and snapshots: the records that make a pile of shards a versioned dataset.

A receipt says which shard a unit produced. A snapshot is one committed version of a store: a small
JSON document that names immutable files by content hash. ``content_id`` covers what the dataset
holds and nothing of when or by whom it was made, so equal inputs give equal content ids.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, ClassVar, Literal, Protocol, TypeVar

import pyarrow as pa

from tokenmill_schemas.arrow import FORMAT_VERSION
from tokenmill_schemas.canonical import canonical_json, digest
from tokenmill_schemas.entropy import EntropySums
from tokenmill_schemas.errors import FormatVersionError
from tokenmill_schemas.tokens import TokenSpec, spec_from_json

Disposition = Literal["quarantine", "filtered"]
#: Why samples are hidden: a takedown; a newer version of their asset; an asset that is gone.
TombstoneReason = Literal["taken_down", "replaced", "vanished"]

#: One row per shard, in plan order: the columns of a manifest segment. ``shapes`` are those of the
#: shard's samples (`tokenmill_schemas.shapes`); null where they are not known or do not vary.
SEGMENT_SCHEMA = pa.schema(
    [
        pa.field("unit_id", pa.string(), nullable=False),
        pa.field("plan", pa.string(), nullable=False),
        pa.field("row_group", pa.int32(), nullable=False),
        pa.field("path", pa.string(), nullable=False),
        pa.field("format", pa.string(), nullable=False),
        pa.field("samples", pa.int64(), nullable=False),
        pa.field("tokens", pa.int64(), nullable=False),
        pa.field("bytes", pa.int64(), nullable=False),
        pa.field("sha256", pa.string(), nullable=False),
        pa.field("assets", pa.int64(), nullable=False),
        pa.field("rejected", pa.int64(), nullable=False),
        pa.field("batch_rows", pa.int32(), nullable=False),
        pa.field("min_key", pa.string(), nullable=False),
        pa.field("max_key", pa.string(), nullable=False),
        pa.field("shapes", pa.binary()),
    ]
)

#: Rows of shards that no reader may show. ``reason`` is one of `TombstoneReason`.
TOMBSTONE_SCHEMA = pa.schema(
    [
        pa.field("path", pa.string(), nullable=False),
        pa.field("row", pa.int64(), nullable=False),
        pa.field("asset_key", pa.string(), nullable=False),
        pa.field("sample_id", pa.string(), nullable=False),
        pa.field("reason", pa.string(), nullable=False),
    ]
)

#: Assets that the newest run of the job ``scope`` did not list any more.
MISSING_SCHEMA = pa.schema(
    [
        pa.field("asset_key", pa.string(), nullable=False),
        pa.field("scope", pa.string(), nullable=False),
    ]
)

#: One row per data shard that a column group covers: the file beside it, row for row. Bit r of
#: ``absent`` (least significant first) says that row r has no values; it is empty if all have.
GROUP_SCHEMA = pa.schema(
    [
        pa.field("shard", pa.string(), nullable=False),
        pa.field("path", pa.string(), nullable=False),
        pa.field("format", pa.string(), nullable=False),
        pa.field("samples", pa.int64(), nullable=False),
        pa.field("present", pa.int64(), nullable=False),
        pa.field("bytes", pa.int64(), nullable=False),
        pa.field("sha256", pa.string(), nullable=False),
        pa.field("batch_rows", pa.int32(), nullable=False),
        pa.field("absent", pa.binary(), nullable=False),
    ]
)

#: One row per asset without samples. ``disposition`` is "quarantine" (it failed; replayable) or
#: "filtered" (a rule of the job left it out).
REJECT_SCHEMA = pa.schema(
    [
        pa.field("asset_key", pa.string(), nullable=False),
        pa.field("uri", pa.string(), nullable=False),
        pa.field("disposition", pa.string(), nullable=False),
        pa.field("reason", pa.string(), nullable=False),
        pa.field("stage", pa.string(), nullable=False),
        pa.field("error", pa.string(), nullable=False),
        pa.field("unit_id", pa.string(), nullable=False),
    ]
)


@dataclass(frozen=True, slots=True)
class Reject:
    """One asset that gave no samples, and why."""

    asset_key: str
    uri: str
    reason: str
    stage: str
    error: str
    disposition: Disposition = "quarantine"


@dataclass(frozen=True, slots=True)
class Receipt:
    """Which shard a unit produced. ``path`` is "" when every asset was rejected.

    ``plan`` and ``row_group`` say where the unit's listing is kept.
    ``seconds`` holds thread-seconds per hop, ``statistics`` token counts per stream; neither is
    part of the dataset's identity. ``min_key`` and ``max_key`` bound the keys of the unit's assets
    (by code points), so that one asset is found without opening every shard. ``shapes`` are those
    of the samples (`tokenmill_schemas.shapes`) in base64; "" where none varies. ``entropy`` are
    sums (`tokenmill_schemas.entropy`), and ``checks`` what a sample of the shard decodes to
    (`tokenmill.worker.roundtrip`); {} where nobody asked.
    """

    unit_id: str
    plan: str
    row_group: int
    path: str
    format: str
    samples: int
    tokens: int
    bytes: int
    sha256: str
    assets: int
    batch_rows: int
    rejects: tuple[Reject, ...] = ()
    seconds: dict[str, float] = field(default_factory=dict)
    statistics: dict[str, Any] = field(default_factory=dict)
    attempt: int = 1
    min_key: str = ""
    max_key: str = ""
    shapes: str = ""
    entropy: EntropySums = field(default_factory=dict)
    checks: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return a JSON value from which `receipt_from_json` makes an equal receipt."""
        value = asdict(self)
        for name in ("shapes", "entropy", "checks"):
            if not value[name]:
                del value[name]  # as in the receipts that were written before there were any
        return value


class _Record(Protocol):
    __dataclass_fields__: ClassVar[dict[str, Any]]


R = TypeVar("R", bound=_Record)

#: Python's types of the JSON values that a field's annotation allows; others are made from several.
_TYPES: dict[str, type] = {
    "str": str,
    "Disposition": str,
    "int": int,
    "dict": dict,
    "EntropySums": dict,
}


def _record(cls: type[R], value: Any, **made: Any) -> R:
    """Return a record of the keys of ``value``, but for those in ``made``.

    Keys that it does not know are of a newer library and left out.

    Raises:
        TypeError: ``value`` lacks a key or holds a value of a wrong type.
    """
    if not isinstance(value, Mapping):
        raise TypeError(f"{value!r:.40} is not a {cls.__name__.lower()}")
    known = {field.name: str(field.type).partition("[")[0] for field in fields(cls)}
    given = {key: entry for key, entry in value.items() if key in known and key not in made}
    for key, entry in given.items():
        wanted = _TYPES.get(known[key])
        if wanted is not None and not isinstance(entry, wanted):
            raise TypeError(f"{key} is {entry!r:.40}, not of type {wanted.__name__}")
    return cls(**given, **made)


def receipt_from_json(value: dict[str, Any]) -> Receipt:
    """Return the receipt that `Receipt.to_json` wrote.

    Raises:
        KeyError, TypeError: it is no receipt.
    """
    return _record(Receipt, value, rejects=tuple(_record(Reject, r) for r in value["rejects"]))


@dataclass(frozen=True, slots=True)
class FileRef:
    """An immutable file of the store, relative to its root.

    ``scope``, of a plan part, is the name of the job that listed it.
    """

    path: str
    sha256: str
    rows: int
    bytes: int
    scope: str = ""


@dataclass(frozen=True, slots=True)
class ColumnGroup:
    """Columns that were added to samples later: files beside the shards, row for row.

    ``segments`` are tables of `GROUP_SCHEMA`. ``spec`` has the group's streams, often none.
    ``fingerprint_parts`` say how its tokens were made ({} for plain columns); ``layout`` is the
    digest of the columns that its files share, ``columns`` their names.
    """

    name: str
    spec: TokenSpec
    columns: tuple[str, ...]
    layout: str
    fingerprint: str
    fingerprint_parts: dict[str, Any]
    segments: tuple[FileRef, ...]

    def to_json(self) -> dict[str, Any]:
        """Return a JSON value from which `snapshot_from_json` makes an equal group."""
        return asdict(self) | {"spec": self.spec.to_json()}


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One committed version of a store.

    ``number`` counts from 1 on its branch; ``parent`` is the commit id of the version before ("" at
    the first). ``segments`` list all live shards, ``rejects`` all assets without samples, ``plans``
    every listing that was tokenized (of two rows of one key the later one counts), ``tombstones``
    the samples that no feed may show, ``missing`` the assets that their source lists no longer,
    ``groups`` the columns that were added to samples later. ``merged`` says up to which number
    branches were merged into this one, ``entropy`` has the sums of the receipts that it came from
    (`tokenmill_schemas.entropy`), {} where they have none.
    ``fingerprint_parts`` is what the fingerprint hashes, kept readable; ``layout`` is the digest of
    the columns that all shards share.
    """

    number: int
    commit_id: str
    parent: str
    operation: str
    created_at: str
    spec: TokenSpec
    fingerprint: str
    fingerprint_parts: dict[str, Any]
    layout: str
    segments: tuple[FileRef, ...]
    rejects: tuple[FileRef, ...]
    plans: tuple[FileRef, ...]
    tombstones: tuple[FileRef, ...] = ()
    missing: tuple[FileRef, ...] = ()
    groups: tuple[ColumnGroup, ...] = ()
    merged: dict[str, int] = field(default_factory=dict)
    totals: dict[str, int] = field(default_factory=dict)
    entropy: EntropySums = field(default_factory=dict)
    branch: str = "main"
    message: str = ""
    job: dict[str, Any] = field(default_factory=dict)
    format_version: int = FORMAT_VERSION

    @property
    def content_id(self) -> str:
        """Hash of what this version holds: equal for equal inputs, whenever and however made."""
        content: dict[str, Any] = {
            "spec": self.spec.to_json(),
            "fingerprint": self.fingerprint,
            "layout": self.layout,
            "segments": [ref.sha256 for ref in self.segments],
            "rejects": [ref.sha256 for ref in self.rejects],
            "plans": [ref.sha256 for ref in self.plans],
            "tombstones": [ref.sha256 for ref in self.tombstones],
        }
        # Left out where there are none, as in the versions that were written before there were any.
        if self.missing:
            content["missing"] = [ref.sha256 for ref in self.missing]
        if self.groups:
            content["groups"] = {
                group.name: [group.fingerprint, *(ref.sha256 for ref in group.segments)]
                for group in self.groups
            }
        return digest(content)

    def to_bytes(self) -> bytes:
        """Return the canonical JSON of the snapshot file."""
        value = asdict(self)
        value["spec"] = self.spec.to_json()
        value["groups"] = [group.to_json() for group in self.groups]
        value["content_id"] = self.content_id
        if not self.entropy:
            del value["entropy"]  # as in the versions that were written before there was any
        return canonical_json(value) + b"\n"


def snapshot_from_json(value: dict[str, Any], *, uri: str = "") -> Snapshot:
    """Return the snapshot that `Snapshot.to_bytes` wrote.

    Raises:
        FormatVersionError: it was written by a newer format than this library reads.
        KeyError, TypeError, ValueError: it is no snapshot.
    """
    if value["format_version"] > FORMAT_VERSION:
        raise FormatVersionError(
            f"format version {value['format_version']} is newer than {FORMAT_VERSION}: "
            "update tokenmill to read this store",
            uri=uri,
        )
    made: dict[str, Any] = {"spec": spec_from_json(value["spec"])}
    for name in ("segments", "rejects", "plans", "tombstones"):
        made[name] = tuple(_record(FileRef, ref) for ref in value[name])
    made["missing"] = tuple(_record(FileRef, ref) for ref in value.get("missing", ()))
    made["groups"] = tuple(_group(group) for group in value.get("groups", ()))
    return _record(Snapshot, value, **made)


def _group(value: Mapping[str, Any]) -> ColumnGroup:
    return _record(
        ColumnGroup,
        value,
        spec=spec_from_json(value["spec"]),
        columns=tuple(value["columns"]),
        segments=tuple(_record(FileRef, ref) for ref in value["segments"]),
    )
