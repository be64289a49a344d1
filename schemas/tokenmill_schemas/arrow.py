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
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import pyarrow as pa

from tokenmill_schemas.errors import FormatVersionError
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


#: Coordinates of a clip: those of an image view for the part of the frame that is read, and the
#: time that it covers: from the first chosen frame's presentation time to the last one's, in
#: seconds; ``view.fps`` the rate that was asked for (0: every frame); ``view.shot`` the number of
#: the shot it lies in (-1: shots were not looked for); ``view.pts`` the presentation timestamp of
#: each chosen frame in units of ``asset.time_base``.
CLIP_VIEW_FIELDS = (
    *IMAGE_VIEW_FIELDS,
    pa.field("view.start_s", pa.float64(), nullable=False),
    pa.field("view.end_s", pa.float64(), nullable=False),
    pa.field("view.fps", pa.float64(), nullable=False),
    pa.field("view.shot", pa.int32(), nullable=False),
    pa.field("view.pts", pa.list_(pa.int64()), nullable=False),
)

#: Facts of a video: coded width and height before rotation, container and codec and pixel format
#: as found, clockwise rotation in degrees that was applied, mean frame rate, and what the container
#: claims of duration and frames (null: nothing). ``asset.time_base`` is numerator and denominator.
VIDEO_FACT_FIELDS = (
    pa.field("asset.uri", pa.string(), nullable=False),
    pa.field("asset.width", pa.int32(), nullable=False),
    pa.field("asset.height", pa.int32(), nullable=False),
    pa.field("asset.format", pa.string(), nullable=False),
    pa.field("asset.codec", pa.string(), nullable=False),
    pa.field("asset.pixel_format", pa.string(), nullable=False),
    pa.field("asset.rotation", pa.int16(), nullable=False),
    pa.field("asset.fps", pa.float64(), nullable=False),
    pa.field("asset.time_base", pa.list_(pa.int32(), 2), nullable=False),
    pa.field("asset.duration_s", pa.float64()),
    pa.field("asset.frames", pa.int64()),
)

#: Coordinates of a 3D view: it is the shape turned by ``view.axes`` (source axes that become x, y,
#: z: ``xyz`` is unturned, ``x-zy`` takes y up to z up), less ``view.center``, times ``view.scale``;
#: ``view.seed`` is what sampling was seeded with (-1: nothing was sampled).
SHAPE_VIEW_FIELDS = (
    pa.field("view.index", pa.uint16(), nullable=False),
    pa.field("view.name", pa.string(), nullable=False),
    pa.field("view.axes", pa.string(), nullable=False),
    pa.field("view.center", pa.list_(pa.float64(), 3), nullable=False),
    pa.field("view.scale", pa.float64(), nullable=False),
    pa.field("view.seed", pa.int64(), nullable=False),
)

#: Facts of a 3D object: counts as decoded (faces are triangles), the axis that points up by its
#: format's convention ("" = none), the unit of length ("" = not said), and its bounds (low x, y, z,
#: high x, y, z) with all transforms baked.
SHAPE_FACT_FIELDS = (
    pa.field("asset.uri", pa.string(), nullable=False),
    pa.field("asset.format", pa.string(), nullable=False),
    pa.field("asset.content", pa.string(), nullable=False),
    pa.field("asset.vertices", pa.int64(), nullable=False),
    pa.field("asset.faces", pa.int64(), nullable=False),
    pa.field("asset.up_axis", pa.string(), nullable=False),
    pa.field("asset.units", pa.string(), nullable=False),
    pa.field("asset.bounds", pa.list_(pa.float64(), 6), nullable=False),
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


def union(schemas: Sequence[pa.Schema]) -> pa.Schema:
    """Return all columns of ``schemas``; those that one of them lacks may be null.

    Raises:
        ValueError: two of them give one name different types.
    """
    if len(schemas) == 1:
        return schemas[0]
    fields: dict[str, pa.Field] = {}
    for schema in schemas:
        for column in schema:
            known = fields.setdefault(column.name, column)
            if known.type != column.type:
                raise ValueError(f"{column.name} is {known.type} and {column.type}")
    shared = set.intersection(*(set(schema.names) for schema in schemas))
    return pa.schema([f if f.name in shared else f.with_nullable(True) for f in fields.values()])


def layout_of(schema: pa.Schema) -> ShardLayout:
    """Return the layout whose `ShardLayout.schema` is ``schema``.

    Raises:
        FormatVersionError: a newer library wrote it.
        KeyError, ValueError: it is no such schema.
    """
    metadata: dict[str, str] = {k.decode(): v.decode() for k, v in (schema.metadata or {}).items()}
    if int(metadata["tokenmill.format_version"]) > FORMAT_VERSION:
        raise FormatVersionError(
            f"a shard of format version {metadata['tokenmill.format_version']}, newer than "
            f"{FORMAT_VERSION}: update tokenmill"
        )
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


def stored_bits(stream: Stream, packing: Packing) -> int:
    """Return the bits that one id, one code or one latent vector takes in a shard."""
    if is_packed(stream, packing):
        return bits_per_value(stream) * (stream.width_bits if stream.kind == "bits" else 1)
    if stream.kind == "float":
        return stream.bits_per_token
    return int(stream.storage_dtype.removeprefix("uint"))


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
