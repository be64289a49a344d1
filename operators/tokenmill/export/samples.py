"""The samples that an export shows: visible, filtered, and unpacked to what anybody can read."""

from __future__ import annotations

from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tokenmill.shards.columns import decode_stream, widen_bfloat16
from tokenmill.shards.jsonrow import check_json_types, to_json
from tokenmill.shards.select import stored_layout
from tokenmill.store.groups import group_table
from tokenmill.store.groups.names import find_group, present_name
from tokenmill.store.version import Version
from tokenmill_schemas.arrow import ShardLayout, values_per_sample
from tokenmill_schemas.canonical import canonical_json
from tokenmill_schemas.errors import JobError
from tokenmill_schemas.tokens import Stream, TokenSpec
from tokenmill_schemas.where import Where, parse

Array = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class Samples:
    """Samples of a version: those that a feed would show and for which the filter is true.

    ``layout`` has the streams and columns of the shards and of ``groups``; whether a stream is
    packed its stored column tells.
    """

    version: Version
    layout: ShardLayout
    where: Where | None = None
    groups: tuple[str, ...] = ()

    @classmethod
    def of(cls, version: Version, where: str = "", groups: Sequence[str] = ()) -> Samples:
        """Return the samples of a version, with the columns of some of its column groups.

        Raises:
            JobError: the filter does not go with the columns, or there is no such group.
            StoreError: the version has no shard.
        """
        layout = _with_groups(version, groups)
        parsed = parse(where) if where else None
        if parsed is not None:
            parsed.check(layout.schema)
        return cls(version, layout, parsed, tuple(groups))

    def places(
        self, shards: Container[str] | None = None
    ) -> Iterator[tuple[str, Array, pa.RecordBatch]]:
        """Yield the path of a shard, rows of it that are shown, and these as they are stored."""
        for path, rows, batch in self.version.places(None, self.groups, shards=shards):
            chosen, shown = batch, rows
            if self.where is not None:
                mask = self.where.mask(batch)
                chosen, shown = batch.filter(mask), rows[mask.to_numpy(zero_copy_only=False)]
            if chosen.num_rows:
                yield path, shown, chosen

    def batches(self) -> Iterator[pa.RecordBatch]:
        """Yield the samples in order as they are stored."""
        for _, _, batch in self.places():
            yield batch

    @property
    def companions(self) -> list[str]:
        """Names of all columns but those of the streams: ``sample_id``, ``asset_key``, others."""
        return ["sample_id", "asset_key", *self.layout.extras.names]

    @property
    def facts(self) -> dict[str, Any]:
        """What the export is of, as a JSON value; the same for the same version."""
        snapshot = self.version.snapshot
        return {
            "branch": snapshot.branch,
            "content_id": snapshot.content_id,
            "fingerprint": snapshot.fingerprint,
            "fingerprint_parts": snapshot.fingerprint_parts,
            "groups": {name: find_group(snapshot, name).fingerprint for name in self.groups},
            "number": snapshot.number,
            "spec": self.layout.spec.to_json(),
            "where": self.where.text if self.where else "",
        }


def plain_dtype(stream: Stream) -> str:
    """Return the numpy type of a stream's values in an export: bfloat16 is widened to float32."""
    return "float32" if stream.dtype == "bfloat16" else stream.storage_dtype


def _with_groups(version: Version, groups: Sequence[str]) -> ShardLayout:
    """Return the layout of a version's shards with the streams and columns of groups behind."""
    layout, storage = version.layout(), version.store.storage
    streams, extras = [*layout.spec.streams], [*layout.extras]
    for name in groups:
        files = group_table(storage, find_group(version.snapshot, name), ["path"])
        if not files.num_rows:
            raise JobError(f"the column group {name!r} covers no shard", path="groups")
        added = stored_layout(storage, files.column("path")[0].as_py())
        streams += added.spec.streams
        extras += [field for field in added.extras if field.name != present_name(name)]
    return ShardLayout(TokenSpec(tuple(streams)), layout.packing, pa.schema(extras))


def arrays(batch: pa.RecordBatch, stream: Stream) -> Array | list[Array]:
    """Return a stream's tokens of `plain_dtype`: ``[rows, *shape]``, or a list if shapes vary."""
    kind = batch.schema.field(stream.name).type
    packed = pa.types.is_binary(kind) or pa.types.is_fixed_size_binary(kind)
    found = decode_stream(batch, stream, "bits" if packed else "raw")
    if stream.dtype != "bfloat16":
        return found
    if isinstance(found, list):
        return [widen_bfloat16(array) for array in found]
    return widen_bfloat16(found)


def json_rows(batch: pa.RecordBatch, names: list[str]) -> list[bytes]:
    """Return the columns ``names`` of every row as canonical JSON (see FORMAT.md, tar form).

    Raises:
        JobError: a column has no JSON form.
    """
    chosen = batch.select(names)
    try:
        check_json_types(chosen.schema)
    except ValueError as error:
        raise JobError(str(error), path="format") from error
    rows = zip(*(to_json(column) for column in chosen.columns), strict=True)
    return [canonical_json(dict(zip(names, row, strict=True))) for row in rows]


def plain_schema(layout: ShardLayout) -> pa.Schema:
    """Return the columns of a layout with nothing packed: streams are lists of numbers.

    A stream of varying shape keeps its column ``<stream>.shape``.
    """
    fields: list[pa.Field] = []
    for stream in layout.spec.streams:
        item = pa.field("element", pa.from_numpy_dtype(plain_dtype(stream)), nullable=False)
        count = values_per_sample(stream)
        kind = pa.list_(item) if count is None else pa.list_(item, count)
        fields.append(pa.field(stream.name, kind, nullable=False))
        if count is None:
            fields.append(layout.schema.field(f"{stream.name}.shape"))
    fields += [layout.schema.field(name) for name in ("sample_id", "asset_key")]
    return pa.schema([*fields, *(field.with_type(_plain(field.type)) for field in layout.extras)])


def plain_batch(batch: pa.RecordBatch, layout: ShardLayout, schema: pa.Schema) -> pa.RecordBatch:
    """Return rows of ``layout`` as rows of ``schema``, its `plain_schema`."""
    own = {stream.name: stream for stream in layout.spec.streams}
    columns: list[pa.Array] = []
    for field in schema:
        if field.name in own:
            found = arrays(batch, own[field.name])
            columns.append(_lists(found, field.type))
        else:
            columns.append(batch.column(field.name).cast(field.type))
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def _plain(kind: pa.DataType) -> pa.DataType:
    return pa.binary() if pa.types.is_fixed_size_binary(kind) else kind


def _lists(found: Array | list[Array], kind: pa.DataType) -> pa.Array:
    if not isinstance(found, list):
        flat = np.ascontiguousarray(found).reshape(-1)
        return pa.FixedSizeListArray.from_arrays(pa.array(flat, kind.value_type), type=kind)
    offsets = np.cumsum([0, *(array.size for array in found)])
    empty = np.empty(0, kind.value_type.to_pandas_dtype())
    flat = np.concatenate([empty, *(array.reshape(-1) for array in found)])
    values = pa.array(flat, kind.value_type)
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), values, type=kind)


def tokens_and_json(samples: Samples) -> Iterator[tuple[dict[str, Array], bytes]]:
    """Yield every sample as arrays by stream, and the canonical JSON of all else.

    Raises:
        JobError: a stream is called ``json``, or a column has no JSON form.
    """
    streams = samples.layout.spec.streams
    if any(stream.name == "json" for stream in streams):
        raise JobError("a stream called 'json' stands in the way of the companions", path="format")
    for batch in samples.batches():
        tokens = [arrays(batch, stream) for stream in streams]
        for row, document in enumerate(json_rows(batch, samples.companions)):
            found = zip(streams, tokens, strict=True)
            yield {stream.name: array[row] for stream, array in found}, document
