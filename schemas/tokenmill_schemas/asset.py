"""Assets: raw media objects before anything is read from them.

Listings travel in columns (Arrow record batches), since a Python object per asset would not fit a
million of them in bounded memory; a worker turns its own rows into `AssetRef`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

#: The columns that every listing has, in this order; companion columns follow them.
#: ``key`` is unique in a store; ``locator`` says where inside ``uri`` the bytes lie ("" = all of
#: it, "bytes=START-STOP" a half-open range, "row=N" a table row); ``version`` is an etag, or size
#: and mtime, or a content hash: two refs of equal uri and version have equal bytes.
ASSET_FIELDS = (
    pa.field("key", pa.string(), nullable=False),
    pa.field("uri", pa.string(), nullable=False),
    pa.field("locator", pa.string(), nullable=False),
    pa.field("modality", pa.string(), nullable=False),
    pa.field("size_bytes", pa.int64(), nullable=False),
    pa.field("version", pa.string(), nullable=False),
)
#: Locator of an asset whose key an earlier one in the listing already has: kept, never tokenized.
DUPLICATE = "duplicate"

ASSET_SCHEMA = pa.schema(ASSET_FIELDS)
ASSET_NAMES = tuple(ASSET_SCHEMA.names)


@dataclass(frozen=True, slots=True)
class AssetRef:
    """One raw media object and the companion values that its listing gave (``columns``)."""

    key: str
    uri: str
    locator: str = ""
    modality: str = "image"
    size_bytes: int = -1
    version: str = ""
    columns: dict[str, Any] = field(default_factory=dict)


def listing_schema(companions: pa.Schema) -> pa.Schema:
    """Return the schema of a listing that carries ``companions`` beside the asset columns."""
    return pa.schema([*ASSET_FIELDS, *companions])


def refs_of(batch: pa.RecordBatch) -> Iterator[AssetRef]:
    """Yield the rows of a listing batch as refs, in order."""
    for row in batch.to_pylist():
        core = {name: row.pop(name) for name in ASSET_NAMES}
        yield AssetRef(**core, columns=row)
