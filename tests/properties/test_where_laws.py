"""Filters against a plain evaluator of SQL's three-valued logic, one row at a time."""

import contextlib
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenmill_schemas.errors import JobError
from tokenmill_schemas.where import parse

Row = dict[str, Any]

SCHEMA = pa.schema(
    {
        "i": pa.int8(),
        "u": pa.uint64(),
        "f.x": pa.float64(),
        "s": pa.string(),
        "odd 's\"": pa.string(),
        "b": pa.bool_(),
    }
)
NUMBERS = ("i", "u", "f.x")
TEXTS = ("s", "odd 's\"")
COMPARED: dict[str, Callable[[Any, Any], bool]] = {
    "=": lambda a, b: bool(a == b),
    "!=": lambda a, b: bool(a != b),
    "<>": lambda a, b: bool(a != b),
    "<": lambda a, b: bool(a < b),
    "<=": lambda a, b: bool(a <= b),
    ">": lambda a, b: bool(a > b),
    ">=": lambda a, b: bool(a >= b),
}


@dataclass
class Said:
    """A text and what it means for a row: True, False, or None for unknown."""

    text: str
    value: Callable[[Row], bool | None]


def _get(row: Row, name: str) -> Any:
    value = row[name]
    return None if isinstance(value, float) and math.isnan(value) else value


def _quoted(name: str) -> str:
    bare = re.fullmatch(r"[a-z.]+", name)
    return name if bare else '"' + name.replace('"', '""') + '"'


def _spelled(value: Any) -> str:
    if isinstance(value, str):
        return "'" + value.replace("'", "''") + "'"
    return str(value).lower() if isinstance(value, bool) else repr(value)


def _and(*values: bool | None) -> bool | None:
    return False if False in values else None if None in values else True


def _not(value: bool | None) -> bool | None:
    return None if value is None else not value


def _order(sign: str, left: Any, right: Any) -> bool | None:
    return None if left is None or right is None else COMPARED[sign](left, right)


def _like(value: str | None, pattern: str) -> bool | None:
    if value is None:
        return None
    parts = (re.escape(c) if c not in "%_" else {"%": ".*", "_": "."}[c] for c in pattern)
    return re.fullmatch("".join(parts), value, re.DOTALL) is not None


numbers = st.one_of(
    st.integers(-130, 260),
    st.sampled_from([2**53, 2**53 + 1, 2**64 - 1, 2**64, -(2**70)]),
    st.floats(-300, 300).map(lambda x: round(x, 2)),
)
texts = st.text(alphabet="ab%_'\"\né€😀", max_size=4)
patterns = texts
columns = st.sampled_from([*NUMBERS, *TEXTS])


def _values(name: str) -> st.SearchStrategy[Any]:
    return numbers if name in NUMBERS else texts


def _exact(name: str, value: Any) -> Any:
    """Beside a column of floats, a number is a float."""
    return float(value) if name == "f.x" else value


@st.composite
def _comparisons(draw: st.DrawFn) -> Said:
    name, sign = draw(columns), draw(st.sampled_from(sorted(COMPARED)))
    value = draw(_values(name))
    exact = _exact(name, value)
    if draw(st.booleans()):
        return Said(
            f"{_spelled(value)}{sign}{_quoted(name)}", lambda r: _order(sign, exact, _get(r, name))
        )
    return Said(
        f"{_quoted(name)} {sign}{_spelled(value)}", lambda r: _order(sign, _get(r, name), exact)
    )


@st.composite
def _lists(draw: st.DrawFn) -> Said:
    name, no = draw(columns), draw(st.booleans())
    values = draw(st.lists(_values(name), min_size=1, max_size=4))
    exact = [_exact(name, value) for value in values]

    def value(row: Row) -> bool | None:
        got = _get(row, name)
        return None if got is None else (got in exact) != no

    word = "NOT in" if no else "In"
    return Said(f"{_quoted(name)} {word} ({','.join(map(_spelled, values))})", value)


@st.composite
def _ranges(draw: st.DrawFn) -> Said:
    name, no = draw(columns), draw(st.booleans())
    low, high = draw(_values(name)), draw(_values(name))

    def value(row: Row) -> bool | None:
        got = _get(row, name)
        inside = _and(_order(">=", got, _exact(name, low)), _order("<=", got, _exact(name, high)))
        return _not(inside) if no else inside

    words = f"{'not ' * no}between {_spelled(low)} and {_spelled(high)}"
    return Said(f"{_quoted(name)} {words}", value)


@st.composite
def _pairs(draw: st.DrawFn) -> Said:
    one, other = draw(st.sampled_from([("i", "u"), ("u", "i"), ("i", "f.x"), TEXTS, ("b", "b")]))
    sign = draw(st.sampled_from(["=", "!="] if one == "b" else sorted(COMPARED)))
    text = f"{_quoted(one)} {sign} {_quoted(other)}"
    return Said(text, lambda r: _order(sign, _get(r, one), _get(r, other)))


@st.composite
def _small(draw: st.DrawFn) -> Said:
    kind = draw(st.sampled_from(["like", "not like", "null", "not null", "flag", "is", "constant"]))
    if kind == "flag":
        return Said("b", lambda r: _get(r, "b"))
    if kind in ("is", "constant"):
        value = draw(st.booleans())
        if kind == "constant":
            return Said(_spelled(value).upper(), lambda _: value)
        return Said(f"b = {_spelled(value)}", lambda r: _order("=", _get(r, "b"), value))
    if kind.endswith("null"):
        name = draw(st.sampled_from(SCHEMA.names))
        no = kind.startswith("not")
        return Said(f"{_quoted(name)} is {kind}", lambda r: (_get(r, name) is None) != no)
    name, pattern = draw(st.sampled_from(TEXTS)), draw(patterns)
    negate = _not if kind.startswith("not") else lambda v: v
    text = f"{_quoted(name)} {kind} {_spelled(pattern)}"
    return Said(text, lambda r: negate(_like(_get(r, name), pattern)))


def _join(word: str, parts: list[Said]) -> Said:
    text = f" {word}\n".join(f"({part.text})" for part in parts)
    if word == "and":
        return Said(text, lambda r: _and(*(part.value(r) for part in parts)))
    return Said(text, lambda r: _not(_and(*(_not(part.value(r)) for part in parts))))


def _grow(inner: st.SearchStrategy[Said]) -> st.SearchStrategy[Said]:
    several = st.lists(inner, min_size=2, max_size=3)
    return st.one_of(
        several.map(lambda parts: _join("and", parts)),
        several.map(lambda parts: _join("or", parts)),
        inner.map(lambda part: Said(f"not ({part.text})", lambda r: _not(part.value(r)))),
    )


tests = st.one_of(_comparisons(), _lists(), _ranges(), _pairs(), _small())
expressions = st.recursive(tests, _grow, max_leaves=6)
rows = st.fixed_dictionaries(
    {
        "i": st.none() | st.integers(-128, 127),
        "u": st.none() | st.sampled_from([0, 1, 100, 2**53, 2**53 + 1, 2**64 - 1]),
        "f.x": st.none() | st.sampled_from([0.0, -0.0, 0.5, 1.0, math.nan, math.inf, -(2.0**70)]),
        "s": st.none() | texts,
        "odd 's\"": st.none() | texts,
        "b": st.none() | st.booleans(),
    }
)


@settings(max_examples=400, deadline=None)
@given(expressions, st.lists(rows, max_size=5))
def test_a_mask_is_what_row_by_row_evaluation_gives(said: Said, table: list[Row]) -> None:
    """Arrow's kernels and the rewriting to canonical form change no row's answer."""
    where = parse(said.text)
    batch = pa.RecordBatch.from_pylist(table, schema=SCHEMA)
    wanted = [said.value(row) is True for row in table]
    assert where.mask(batch).to_pylist() == wanted
    again = parse(where.text)
    assert again == where
    assert again.text == where.text
    assert again.columns == where.columns
    assert again.mask(batch).to_pylist() == wanted


WORDS = [
    "a", "f.x", '"', "'", "(", ")", "=", "<", "!=", ",", "and", "or", "not", "in", "like", "is",
    "null", "between", "true", "5", "-1e5", ".", "'x'", '"q q"', "\\", "\n", "é", "%", "1e400",
]  # fmt: skip


@settings(max_examples=400, deadline=None)
@given(st.one_of(st.text(max_size=40), st.lists(st.sampled_from(WORDS), max_size=12).map(" ".join)))
def test_garbage_is_a_job_error_or_a_filter(text: str) -> None:
    """Whatever is typed, nothing but JobError comes out; what parses has a text that parses."""
    try:
        where = parse(text)
    except JobError:
        return
    assert parse(where.text) == where
    with contextlib.suppress(JobError):
        where.mask(pa.RecordBatch.from_pylist([], schema=SCHEMA))
