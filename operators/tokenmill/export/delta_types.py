"""Columns of a store as columns of a Delta table: types, structs and statistics.

A dotted name becomes a field of a struct, ``asset.width`` the field ``width`` of ``asset``, so that
SQL spells it as the store does. Unsigned integers become the next wider signed ones, halves floats,
times of day and durations the integers that Arrow stores; times are in microseconds, UTC.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from tokenmill_schemas.errors import JobError

#: What Parquet's readers do not want in a name.
_BAD = str.maketrans(dict.fromkeys(" ,;{}()\n\t=", "_"))
_CAST = {
    pa.uint8(): pa.int16(),
    pa.uint16(): pa.int32(),
    pa.uint32(): pa.int64(),
    pa.uint64(): pa.decimal128(20, 0),
    pa.float16(): pa.float32(),
    pa.large_string(): pa.string(),
    pa.large_binary(): pa.binary(),
    pa.string_view(): pa.string(),
    pa.binary_view(): pa.binary(),
    pa.null(): pa.string(),
    pa.date64(): pa.date32(),
    pa.time32("s"): pa.int32(),
    pa.time32("ms"): pa.int32(),
}
_NAMES = {
    pa.int8(): "byte",
    pa.int16(): "short",
    pa.int32(): "integer",
    pa.int64(): "long",
    pa.float32(): "float",
    pa.float64(): "double",
    pa.string(): "string",
    pa.binary(): "binary",
    pa.bool_(): "boolean",
    pa.date32(): "date",
    pa.timestamp("us", "UTC"): "timestamp",
}
#: Longer texts are left out of the statistics.
_TEXT = 64


def nested(fields: Iterable[pa.Field]) -> pa.Schema:
    """Return the columns of a table for columns of a store.

    Raises:
        JobError: a type is not known to Delta, or two names differ by nothing that SQL minds.
    """
    flat = [pa.field(f.name.translate(_BAD), delta_type(f.name, f.type)) for f in fields]
    return pa.schema(_grouped(flat))


def _grouped(fields: list[pa.Field]) -> list[pa.Field]:
    groups: dict[str, list[pa.Field]] = {}
    for field in fields:
        groups.setdefault(field.name.partition(".")[0], []).append(field)
    made: list[pa.Field] = []
    for name, members in groups.items():
        below = [f.with_name(f.name.partition(".")[2]) for f in members]
        whole = [f for f in below if not f.name]
        if whole and len(members) > 1:
            raise JobError(f"{name!r} is a column and the beginning of another's name", path="to")
        kind = whole[0].type if whole else pa.struct(_grouped(below))
        made.append(pa.field(name, kind))
    lower = [field.name.lower() for field in made]
    if len(set(lower)) < len(lower):
        raise JobError(f"of the columns {lower}, two have one name in SQL", path="to")
    return made


def nest(columns: dict[str, pa.Array], kinds: Iterable[pa.Field]) -> list[pa.Array]:
    """Return columns, by their names in the store, as those of the schema `nested` gives."""
    flat = {name.translate(_BAD): column for name, column in columns.items()}
    return [_nest(flat, field, field.name) for field in kinds]


def _nest(flat: dict[str, pa.Array], field: pa.Field, path: str) -> pa.Array:
    if path in flat:
        return converted(flat[path], field.type)
    members = [_nest(flat, member, f"{path}.{member.name}") for member in field.type]
    return pa.StructArray.from_arrays(members, fields=list(field.type))


def converted(column: pa.Array, kind: pa.DataType) -> pa.Array:
    """Return a column as the type that `delta_type` gave for it; finer times are cut off."""
    if pa.types.is_struct(kind):
        # By position: a cast of structs goes by name, and leaves null what was renamed.
        members = [converted(column.field(i), kind.field(i).type) for i in range(kind.num_fields)]
        return pa.StructArray.from_arrays(members, fields=list(kind), mask=column.is_null())
    if pa.types.is_list(kind) and pa.types.is_nested(kind.value_type):
        lists = column.cast(pa.list_(column.type.value_type)).take(pa.array(range(len(column))))
        values = converted(lists.values, kind.value_type)
        return pa.ListArray.from_arrays(lists.offsets, values, type=kind, mask=lists.is_null())
    if pa.types.is_time(column.type) or pa.types.is_duration(column.type):
        column = column.cast(pa.int32() if column.type.bit_width == 32 else pa.int64())
    return column.cast(kind, safe=False)


def delta_type(name: str, kind: pa.DataType) -> pa.DataType:
    """Return the nearest type that Delta and Parquet both have.

    Raises:
        JobError: there is none.
    """
    if pa.types.is_list(kind) or pa.types.is_fixed_size_list(kind) or pa.types.is_large_list(kind):
        return pa.list_(pa.field("element", delta_type(name, kind.value_type)))
    if pa.types.is_struct(kind):
        return pa.struct([pa.field(f.name.translate(_BAD), delta_type(name, f.type)) for f in kind])
    if pa.types.is_timestamp(kind):
        return pa.timestamp("us", "UTC")
    if pa.types.is_time64(kind) or pa.types.is_duration(kind):
        return pa.int64()
    if pa.types.is_fixed_size_binary(kind):
        return pa.binary()
    found = _CAST.get(kind, kind)
    if found in _NAMES or pa.types.is_decimal128(found):
        return found
    raise JobError(f"column {name!r}: {kind} is no type of Delta tables", path="format")


def schema_json(fields: Iterable[pa.Field]) -> dict[str, Any]:
    """Return the JSON of a struct, or of a whole schema."""
    members = [
        {"name": f.name, "type": _type_json(f.type), "nullable": True, "metadata": {}}
        for f in fields
    ]
    return {"type": "struct", "fields": members}


def _type_json(kind: pa.DataType) -> Any:
    if pa.types.is_struct(kind):
        return schema_json(kind)
    if pa.types.is_list(kind):
        return {"type": "array", "elementType": _type_json(kind.value_type), "containsNull": True}
    if pa.types.is_decimal(kind):
        return f"decimal({kind.precision},{kind.scale})"
    return _NAMES[kind]


def statistics(table: pa.Table) -> dict[str, Any]:
    """Return the row count, and least, greatest and missing values of what has an order."""
    found: dict[str, Any] = {"numRecords": table.num_rows}
    low: dict[str, Any] = {}
    high: dict[str, Any] = {}
    nulls: dict[str, Any] = {}
    for field in table.schema:
        column = table.column(field.name).combine_chunks()
        _measure(field.name, column, (low, high, nulls))
    return found | {"minValues": low, "maxValues": high, "nullCount": nulls}


def _measure(name: str, column: pa.Array, into: tuple[dict[str, Any], ...]) -> None:
    if pa.types.is_struct(column.type):
        inner: tuple[dict[str, Any], ...] = ({}, {}, {})
        # Flattened, a field is null where its struct is.
        for field, member in zip(column.type, column.flatten(), strict=True):
            _measure(field.name, member, inner)
        for mine, theirs in zip(into, inner, strict=True):
            mine |= {name: theirs} if theirs else {}
        return
    if pa.types.is_list(column.type):
        return
    into[2][name] = column.null_count
    low, high = _range(column)
    if low is not None:
        into[0][name], into[1][name] = low, high


def _range(column: pa.Array) -> tuple[Any, Any]:
    """Return least and greatest value; None where they would mislead, as beside a NaN."""
    kind = column.type
    ordered = pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_string(kind)
    if not ordered or column.null_count == len(column):
        return None, None
    if pa.types.is_floating(kind) and not pc.all(pc.is_finite(column)).as_py():
        return None, None
    ends = pc.min_max(column).as_py()
    low, high = ends["min"], ends["max"]
    if isinstance(low, str) and max(len(low), len(high)) > _TEXT:
        return None, None
    return low, high
