"""Values of a filter beside columns: comparisons that neither round, overflow nor raise.

Integers, days and times are compared as integers with a bound that is moved into the column's type:
``x > 5.5`` is ``x >= 6``, and ``x < 300`` is true of every uint8.
"""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tokenmill_schemas.where_tokens import Value

Batch: TypeAlias = pa.RecordBatch | pa.Table

_SIGNS = {
    "=": pc.equal,
    "!=": pc.not_equal,
    "<": pc.less,
    "<=": pc.less_equal,
    ">": pc.greater,
    ">=": pc.greater_equal,
}
_PER_SECOND = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
_DAY_S = 86_400


def family(kind: pa.DataType) -> str:
    """Return number, text, boolean, time or null; "" for types that have no order."""
    kind = _plain(kind)
    if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        return "number"
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return "text"
    if pa.types.is_date(kind) or pa.types.is_timestamp(kind):
        return "time"
    if pa.types.is_boolean(kind):
        return "boolean"
    return "null" if pa.types.is_null(kind) else ""


def load(batch: Batch, name: str) -> pa.Array:
    """Return a column as one array without dictionary, in which NaNs are nulls."""
    column = batch.column(name)
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
    if isinstance(column, pa.ChunkedArray):  # of a table without rows
        column = pa.array([], column.type)
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if pa.types.is_floating(column.type) or pa.types.is_decimal(column.type):
        column = column.cast(pa.float64())
        column = pc.if_else(pc.is_nan(column), pa.scalar(None, pa.float64()), column)
    return column


def scaled(text: str, kind: pa.DataType) -> Fraction:
    """Return ISO 8601 text as a count of the column's unit since 1970.

    Raises:
        ValueError: it is no day or time, or names a zone and the column has none.
    """
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(f"{text!r} is no ISO 8601 day or time") from None
    kind = _plain(kind)
    zoned = pa.types.is_timestamp(kind) and kind.tz is not None
    if moment.tzinfo is not None and not zoned:
        raise ValueError(f"{text!r} names a time zone, the column ({kind}) has none")
    since = moment.replace(tzinfo=moment.tzinfo or UTC) - datetime(1970, 1, 1, tzinfo=UTC)
    seconds = Fraction(since // timedelta(microseconds=1), 10**6)
    if kind == pa.date32():
        return seconds / _DAY_S
    return seconds * (_PER_SECOND["ms"] if kind == pa.date64() else _PER_SECOND[kind.unit])


def order_mask(sign: str, column: pa.Array, value: Value) -> pa.Array:
    """Return where ``column sign value`` holds; null where the column is."""
    if pa.types.is_null(column.type):
        return pa.nulls(len(column), pa.bool_())
    column, number = _integers(column, value)
    if not pa.types.is_integer(column.type):
        return _SIGNS[sign](column, _scalar(number, column.type))
    bound = _bound(sign, number, column.type)
    if isinstance(bound, bool):
        return pc.if_else(pc.is_valid(column), bound, pa.scalar(None, pa.bool_()))
    return _SIGNS[bound[0]](column, pa.scalar(bound[1], column.type))


def member_mask(column: pa.Array, values: list[Value]) -> pa.Array:
    """Return where the column has one of ``values``; false, never null, elsewhere."""
    if pa.types.is_null(column.type):
        return pc.is_valid(column)
    numbers = [_integers(column, value)[1] for value in values]
    column = _integers(column, values[0])[0]
    if pa.types.is_integer(column.type):
        numbers = [n for n in numbers if not isinstance(_bound("=", n, column.type), bool)]
        wanted = pa.array([int(n) for n in numbers], column.type)
    else:
        wanted = pa.array([_scalar(n, column.type).as_py() for n in numbers], column.type)
    if pa.types.is_floating(column.type):
        column = pc.add(column, 0.0)  # -0.0, which is equal to 0.0 but hashed apart, becomes 0.0
    return pc.is_in(column, value_set=wanted)


def pair_mask(sign: str, left: pa.Array, right: pa.Array) -> pa.Array:
    """Return where two columns of one family compare so; null where one of them is."""
    kinds = {left.type, right.type}
    if any(map(pa.types.is_null, kinds)):
        return pa.nulls(len(left), pa.bool_())
    if len(kinds) > 1:
        common = _common(left.type, right.type)
        left, right = left.cast(common), right.cast(common)
    return _SIGNS[sign](left, right)


def _common(one: pa.DataType, other: pa.DataType) -> pa.DataType:
    """Return a type that holds all values of both (integers beside floats: float64)."""
    if pa.types.is_integer(one) and pa.types.is_integer(other):
        return pa.decimal128(20, 0)
    return pa.float64() if pa.types.is_primitive(one) else pa.large_string()


def _plain(kind: pa.DataType) -> pa.DataType:
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def _integers(column: pa.Array, value: Value) -> tuple[pa.Array, Any]:
    """Return a column of days or times, and a value for it, as counts of its unit."""
    if family(column.type) != "time":
        return column, value
    width = pa.int32() if column.type == pa.date32() else pa.int64()
    return column.cast(width), scaled(str(value), column.type)


def _scalar(value: Any, kind: pa.DataType) -> pa.Scalar:
    return pa.scalar(float(value) if pa.types.is_floating(kind) else value, kind)


def _bound(sign: str, number: Any, kind: pa.DataType) -> bool | tuple[str, int]:
    """Return ``x sign number`` for integers of ``kind``: with a number of it, or what always is."""
    limits = np.iinfo(kind.to_pandas_dtype())
    floor = math.floor(number)
    if floor != number:
        if sign in ("=", "!="):
            return sign == "!="
        sign, floor = ("<=", floor) if sign in ("<", "<=") else (">=", floor + 1)
    if limits.min <= floor <= limits.max:
        return sign, floor
    if sign in ("=", "!="):
        return sign == "!="
    return (sign in ("<", "<=")) == bool(floor > limits.max)
