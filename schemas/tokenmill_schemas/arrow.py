"""From a token spec to the columns of a shard, and back.

A shard's columns, in this order:

1. one per stream, named as the stream: the tokens of all positions, flattened in C order;
   then ``<stream>.shape`` (``fixed_size_list<int32>``) where the stream's shape varies;
2. ``sample_id``, ``asset_key``, then the view's coordinate columns (``view.*``);
3. facts of the asset (``asset.*``) and the companion columns of the listing.

Fixed-width columns come first so that a row's tokens lie at a constant stride inside a record
batch. FORMAT.md states the bytes.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any, Literal

import pyarrow as pa

from tokenmill_schemas.tokens import Stream, TokenSpec, spec_from_json

Packing = Literal["raw", "bits"]

FORMAT_VERSION = 1

#: Coordinates of an image view in the pixels of the upright source picture: ``view.box`` is
#: left, top, right, bottom (float, may be fractional), ``view.size`` the height and width of the
#: view in pixels, ``view.flip`` whether it is mirrored left to right.
IMAGE_VIEW_FIELDS = (
    pa.field("view.index", pa.uint16(), nullable=False),
    pa.field("view.name", pa.string(), nullable=False),
    pa.field("view.box", pa.list_(pa.float32(), 4), nullable=False),
    pa.field("view.size", pa.list_(pa.int32(), 2), nullable=False),
    pa.field("view.flip", pa.bool_(), nullable=False),
)

#: Facts of a decoded picture: its stored width and height before EXIF rotation is applied, the
#: container format and colour mode as found, the EXIF orientation (1 = upright), and the sha256
#: of its ICC profile ("" = none), which is recorded and not applied.
IMAGE_FACT_FIELDS = (
    pa.field("asset.uri", pa.string(), nullable=False),
    pa.field("asset.width", pa.int32(), nullable=False),
    pa.field("asset.height", pa.int32(), nullable=False),
    pa.field("asset.format", pa.string(), nullable=False),
    pa.field("asset.mode", pa.string(), nullable=False),
    pa.field("asset.orientation", pa.uint8(), nullable=False),
    pa.field("asset.icc_sha256", pa.string(), nullable=False),
)


@dataclass(frozen=True, slots=True)
class ShardLayout:
    """Everything that fixes the columns of a store's shards."""

    spec: TokenSpec
    packing: Packing = "raw"
    extras: pa.Schema = field(default_factory=lambda: pa.schema([]))

    @property
    def schema(self) -> pa.Schema:
        """The Arrow schema of a shard, with the spec and format version in its metadata."""
        fields: list[pa.Field] = []
        for stream in self.spec.streams:
            fields.extend(stream_fields(stream, self.packing))
        fields.append(pa.field("sample_id", pa.string(), nullable=False))
        fields.append(pa.field("asset_key", pa.string(), nullable=False))
        fields.extend(self.extras)
        return pa.schema(fields, metadata=self._metadata())

    def _metadata(self) -> dict[str, str]:
        return {
            "tokenmill.format_version": str(FORMAT_VERSION),
            "tokenmill.packing": self.packing,
            "tokenmill.spec": json.dumps(self.spec.to_json(), sort_keys=True),
        }


def layout_of(schema: pa.Schema) -> ShardLayout:
    """Return the layout whose `ShardLayout.schema` is ``schema``."""
    metadata: dict[str, str] = {k.decode(): v.decode() for k, v in (schema.metadata or {}).items()}
    spec = spec_from_json(json.loads(metadata["tokenmill.spec"]))
    packing: Packing = "bits" if metadata["tokenmill.packing"] == "bits" else "raw"
    own = {f.name for s in spec.streams for f in stream_fields(s, packing)}
    own |= {"sample_id", "asset_key"}
    return ShardLayout(spec, packing, pa.schema([f for f in schema if f.name not in own]))


def values_per_sample(stream: Stream) -> int | None:
    """Number of stored values (ids, bits or floats) of one sample, if fixed."""
    if not stream.is_fixed:
        return None
    count = 1
    for size in stream.shape:
        count *= size or 1
    return count


def is_packed(stream: Stream, packing: Packing) -> bool:
    """Whether the stream's values are stored as a bit string: always for ``bits`` streams."""
    return stream.kind == "bits" or (packing == "bits" and stream.kind == "index")


def bits_per_value(stream: Stream) -> int:
    """Bits of one packed value: 1 for ``bits`` streams, the id's width for ``index`` streams."""
    return 1 if stream.kind == "bits" else stream.bits_per_token


def stream_fields(stream: Stream, packing: Packing) -> list[pa.Field]:
    """Return the columns that hold one stream: the tokens, and their shapes where they vary."""
    count = values_per_sample(stream)
    kind = _packed_type(stream, count) if is_packed(stream, packing) else _raw_type(stream, count)
    metadata: dict[str, Any] = {"tokenmill.stream": stream.name}
    if is_packed(stream, packing):
        metadata["tokenmill.bits_per_value"] = str(bits_per_value(stream))
    fields = [pa.field(stream.name, kind, nullable=False, metadata=metadata)]
    if count is None:
        shape = pa.list_(pa.int32(), len(stream.shape))
        fields.append(pa.field(f"{stream.name}.shape", shape, nullable=False))
    return fields


def _packed_type(stream: Stream, count: int | None) -> pa.DataType:
    if count is None:
        return pa.binary()
    return pa.binary((count * bits_per_value(stream) + 7) // 8)


def _raw_type(stream: Stream, count: int | None) -> pa.DataType:
    item = pa.field("item", pa.from_numpy_dtype(stream.storage_dtype), nullable=False)
    return pa.list_(item) if count is None else pa.list_(item, count)
