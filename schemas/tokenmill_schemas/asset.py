"""Assets: raw media objects before anything is read from them.

Listings travel in columns (Arrow record batches), since a Python object per asset would not fit a
million of them in bounded memory; a worker turns its own rows into `AssetRef`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

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
Modality = Literal["image", "video", "shape"]
MODALITIES: tuple[Modality, ...] = ("image", "video", "shape")
#: What a file's name says of its modality; a GIF is a picture unless the source says otherwise.
EXTENSIONS: dict[Modality, tuple[str, ...]] = {
    "image": (
        *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".avif", ".gif"),
        *(".tif", ".tiff", ".bmp", ".jp2", ".j2k", ".jpx"),
    ),
    "video": (
        *(".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".m1v", ".m2v"),
        *(".mts", ".m2ts", ".ts", ".vob", ".ogv", ".ogg", ".ogm", ".flv", ".f4v", ".wmv", ".asf"),
        *(".3gp", ".3g2", ".rm", ".rmvb", ".swf", ".y4m", ".mxf", ".mjpeg", ".mjpg"),
    ),
    "shape": (
        *(".glb", ".gltf", ".obj", ".ply", ".stl", ".off", ".3mf", ".xyz", ".las", ".laz"),
        *(".step", ".stp"),
    ),
}
_BY_EXTENSION: dict[str, Modality] = {
    extension: modality for modality, known in EXTENSIONS.items() for extension in known
}


def modality_of(name: str) -> Modality:
    """Return the modality that a file's name tells; ``image`` where it tells nothing.

    A web address is taken without its query: it may be signed.
    """
    if name.startswith(("http://", "https://")):
        name = name.partition("#")[0].partition("?")[0]
    _, dot, extension = name.rpartition(".")
    return _BY_EXTENSION.get(dot + extension.lower(), "image")


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
