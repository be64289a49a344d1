"""Column values as JSON and back, for forms of a shard that have no typed columns.

Integers, booleans, strings, lists and structs are what JSON calls them. Floats are numbers, or the
strings "NaN", "Infinity" and "-Infinity"; binary values are base64; dates, times, timestamps and
durations are the integers that Arrow stores; decimals are strings. Null is null.
"""

from __future__ import annotations

import base64
import math
from typing import Any

import pyarrow as pa


def check_json_types(schema: pa.Schema) -> None:
    """Check that every column can be told in JSON.

    Raises:
        ValueError: one cannot; names it and its type.
    """
    for field in schema:
        if not (_is_temporal(field.type) or _is_decimal(field.type) or _is_plain(field.type)):
            raise ValueError(f"column {field.name!r}: {field.type} has no JSON form; cast it")


def to_json(array: pa.Array) -> list[Any]:
    """Return a column's values as JSON values."""
    kind = array.type
    if _is_temporal(kind):
        return list(array.view(_integer(kind)).to_pylist())
    if _is_decimal(kind):
        return list(array.cast(pa.string()).to_pylist())
    return [_encode(value, kind) for value in array.to_pylist()]


def from_json(values: list[Any], kind: pa.DataType) -> pa.Array:
    """Return the column that `to_json` told."""
    if _is_temporal(kind):
        return pa.array(values, _integer(kind)).view(kind)
    if _is_decimal(kind):
        return pa.array(values, pa.string()).cast(kind)
    return pa.array([_decode(value, kind) for value in values], kind)


def _encode(value: Any, kind: pa.DataType) -> Any:
    if value is None:
        return None
    if pa.types.is_floating(kind):
        number = float(value)
        return number if math.isfinite(number) else _NAMES[str(number)]
    if _is_binary(kind):
        return base64.b64encode(value).decode()
    if _is_list(kind):
        return [_encode(entry, kind.value_type) for entry in value]
    if pa.types.is_struct(kind):
        return {field.name: _encode(value[field.name], field.type) for field in kind}
    return value


def _decode(value: Any, kind: pa.DataType) -> Any:
    if value is None:
        return None
    if pa.types.is_floating(kind):
        return float(value)
    if _is_binary(kind):
        return base64.b64decode(value)
    if _is_list(kind):
        return [_decode(entry, kind.value_type) for entry in value]
    if pa.types.is_struct(kind):
        return {field.name: _decode(value[field.name], field.type) for field in kind}
    return value


_NAMES = {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}


def _is_plain(kind: pa.DataType) -> bool:
    if _is_list(kind):
        return _is_plain(kind.value_type)
    if pa.types.is_struct(kind):
        return all(_is_plain(field.type) for field in kind)
    tests = (pa.types.is_integer, pa.types.is_floating, pa.types.is_boolean, _is_string, _is_binary)
    return any(test(kind) for test in tests)


def _is_temporal(kind: pa.DataType) -> bool:
    return bool(pa.types.is_temporal(kind) and not pa.types.is_interval(kind))


def _is_decimal(kind: pa.DataType) -> bool:
    return bool(pa.types.is_decimal(kind))


def _is_string(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _is_binary(kind: pa.DataType) -> bool:
    tests = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_fixed_size_binary)
    return any(test(kind) for test in tests)


def _is_list(kind: pa.DataType) -> bool:
    tests = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
    return any(test(kind) for test in tests)


def _integer(kind: pa.DataType) -> pa.DataType:
    return pa.int64() if kind.bit_width == 64 else pa.int32()
