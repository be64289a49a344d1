"""What all samples of a store have in common, and the check that others may join them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tokenmill.store.segments import read_segments
from tokenmill_infra.storage.storage import Storage
from tokenmill_schemas.arrow import ShardLayout
from tokenmill_schemas.canonical import canonical_json, digest
from tokenmill_schemas.errors import FingerprintError
from tokenmill_schemas.snapshot import Snapshot
from tokenmill_schemas.tokens import TokenSpec


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


def check(storage: Storage, head: Snapshot | None, identity: Identity) -> None:
    """Check that samples of ``identity`` may be added to a version.

    Raises:
        FingerprintError: the store holds tokens of another kind, or shards of another format or
            with other columns; says what differs.
    """
    if head is None:
        return
    uri = storage.uri
    if head.fingerprint != identity.fingerprint:
        raise FingerprintError(
            "holds tokens of another kind: "
            + "; ".join(differences(head.fingerprint_parts, identity.parts))
            + ". Use another store, or the settings that made this one",
            uri=uri,
        )
    if head.layout != identity.layout_digest:
        raise FingerprintError(
            f"{_other_layout(storage, head, identity)}: use another store, or the settings "
            "that made this one",
            uri=uri,
        )


def _other_layout(storage: Storage, head: Snapshot, identity: Identity) -> str:
    asked = identity.shard_format
    formats = read_segments(storage, head.segments, ["format"]).column("format")
    others = sorted(set(formats.unique().to_pylist()) - {asked})
    if others:
        return f"its shards have the format {', '.join(others)}, asked for is {asked}"
    return "its shards have other columns (packing, companion columns or view)"


def root(identity: Identity) -> Snapshot:
    """Return the version before the first: number 0, empty, never written."""
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
