"""The terms of a filter: their canonical text, their check against a schema, their mask.

A term tells for which rows it is *true*. There are no negations above a test (the parser moves them
inwards), so unknown and false need no telling apart: a row for which a test is unknown is left out.
"""

# ruff: noqa: D102 - what the methods of terms do is said once, by their protocol `Term`

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias

import pyarrow as pa
import pyarrow.compute as pc

from tokenmill_schemas.strict import nearest
from tokenmill_schemas.where_tokens import BARE_NAME, WORDS, Value
from tokenmill_schemas.where_values import family, load, member_mask, order_mask, pair_mask, scaled

#: What a family of values is called.
CALLED = {
    "number": "a number",
    "text": "text",
    "boolean": "a boolean",
    "time": "a day or a time",
    "null": "null",
}

Batch: TypeAlias = pa.RecordBatch | pa.Table


class Misfit(Exception):  # noqa: N818 - never leaves this package: `Where` makes a JobError of it
    """A condition does not go with the columns; ``at`` is its position in what was written."""

    def __init__(self, message: str, at: int) -> None:
        super().__init__(message)
        self.message = message
        self.at = at


class Term(Protocol):
    """A condition; ``str`` gives its canonical text."""

    def columns(self) -> set[str]:
        """Return the names of the columns that it reads."""
        ...

    def check(self, schema: pa.Schema) -> None:
        """Raise Misfit if it does not go with ``schema``."""
        ...

    def mask(self, batch: Batch) -> pa.BooleanArray:
        """Return ``bool[rows]``, without nulls; the batch's schema was checked."""
        ...


@dataclass(frozen=True, slots=True)
class Column:
    """A column's name, as an operand."""

    name: str
    at: int = field(compare=False)

    def __str__(self) -> str:
        if BARE_NAME.fullmatch(self.name) and self.name.lower() not in WORDS:
            return self.name
        return '"' + self.name.replace('"', '""') + '"'

    def family(self, schema: pa.Schema) -> str:
        """Return the family of its values: number, text, boolean, time or null.

        Raises:
            Misfit: there is no such column, or it cannot be compared.
        """
        found = family(self.field(schema).type)
        if not found:
            kind = self.field(schema).type
            raise Misfit(f"column {self} is of type {kind}, which cannot be compared", self.at)
        return found

    def field(self, schema: pa.Schema) -> pa.Field:
        """Return its field in ``schema``.

        Raises:
            Misfit: there is not exactly one of its name.
        """
        if schema.names.count(self.name) != 1:
            raise Misfit(f"unknown column {self}; {nearest(self.name, schema.names)}", self.at)
        return schema.field(self.name)


@dataclass(frozen=True, slots=True)
class Literal:
    """A value that was written out."""

    value: Value
    at: int = field(compare=False)

    def __str__(self) -> str:
        if isinstance(self.value, bool):
            return "true" if self.value else "false"
        if isinstance(self.value, str):
            return "'" + self.value.replace("'", "''") + "'"
        return repr(self.value)

    @property
    def kind(self) -> str:
        """What it is called."""
        return CALLED[self.family]

    @property
    def family(self) -> str:
        """The family of values that it belongs to."""
        if isinstance(self.value, bool):
            return "boolean"
        return "text" if isinstance(self.value, str) else "number"

    def fits(self, column: Column, schema: pa.Schema) -> None:
        """Check that a column can be compared with it.

        Raises:
            Misfit: it is of another family, or no time where one is needed.
        """
        wanted = column.family(schema)
        if wanted == "time" and self.family == "text":
            try:
                scaled(str(self.value), column.field(schema).type)
            except ValueError as error:
                raise Misfit(f"column {column}: {error}", self.at) from None
        elif wanted not in (self.family, "null"):
            called = f"column {column} is {CALLED[wanted]} ({column.field(schema).type})"
            raise Misfit(f"{called}, this is {self.kind}", self.at)


Operand = Column | Literal


@dataclass(frozen=True, slots=True)
class Constant:
    """Always or never."""

    value: bool

    def __str__(self) -> str:
        return "true" if self.value else "false"

    def columns(self) -> set[str]:
        return set()

    def check(self, schema: pa.Schema) -> None:
        pass

    def mask(self, batch: Batch) -> pa.BooleanArray:
        return _constant(batch, self.value)


@dataclass(frozen=True, slots=True)
class Flag:
    """A boolean column, or that it is false."""

    column: Column
    negated: bool

    def __str__(self) -> str:
        return f"not {self.column}" if self.negated else str(self.column)

    def columns(self) -> set[str]:
        return {self.column.name}

    def check(self, schema: pa.Schema) -> None:
        found = self.column.family(schema)
        if found not in ("boolean", "null"):
            text = f"column {self.column} is {CALLED[found]}, not a boolean; compare it"
            raise Misfit(text, self.column.at)

    def mask(self, batch: Batch) -> pa.BooleanArray:
        values = load(batch, self.column.name).cast(pa.bool_())
        return _known(pc.invert(values) if self.negated else values)


@dataclass(frozen=True, slots=True)
class Compare:
    """A column beside a value or another column."""

    left: Column
    sign: str
    right: Operand

    def __str__(self) -> str:
        return f"{self.left} {self.sign} {self.right}"

    def columns(self) -> set[str]:
        return {self.left.name} | ({self.right.name} if isinstance(self.right, Column) else set())

    def check(self, schema: pa.Schema) -> None:
        if isinstance(self.right, Literal):
            self.right.fits(self.left, schema)
        else:
            self._check_pair(self.left, self.right, schema)
        if self.sign not in ("=", "!=") and self.left.family(schema) == "boolean":
            raise Misfit(f"column {self.left} is a boolean, which has no order", self.left.at)

    def _check_pair(self, left: Column, right: Column, schema: pa.Schema) -> None:
        one, other = left.family(schema), right.family(schema)
        kinds = left.field(schema).type, right.field(schema).type
        if "null" not in (one, other) and (one != other or (one == "time" and len({*kinds}) > 1)):
            raise Misfit(f"column {left} is {kinds[0]}, column {right} is {kinds[1]}", right.at)

    def mask(self, batch: Batch) -> pa.BooleanArray:
        left = load(batch, self.left.name)
        if isinstance(self.right, Column):
            return _known(pair_mask(self.sign, left, load(batch, self.right.name)))
        return _known(order_mask(self.sign, left, self.right.value))


@dataclass(frozen=True, slots=True)
class Member:
    """A column and a list of values of one family, sorted."""

    column: Column
    values: tuple[Literal, ...]
    negated: bool

    def __str__(self) -> str:
        values = ", ".join(map(str, self.values))
        return f"{self.column} {'not ' * self.negated}in ({values})"

    def columns(self) -> set[str]:
        return {self.column.name}

    def check(self, schema: pa.Schema) -> None:
        for value in self.values:
            value.fits(self.column, schema)

    def mask(self, batch: Batch) -> pa.BooleanArray:
        column = load(batch, self.column.name)
        found = member_mask(column, [literal.value for literal in self.values])
        return pc.and_(pc.is_valid(column), pc.invert(found)) if self.negated else found


@dataclass(frozen=True, slots=True)
class Like:
    """A column of text and a pattern."""

    column: Column
    pattern: Literal
    negated: bool

    def __str__(self) -> str:
        return f"{self.column} {'not ' * self.negated}like {self.pattern}"

    def columns(self) -> set[str]:
        return {self.column.name}

    def check(self, schema: pa.Schema) -> None:
        found = self.column.family(schema)
        if found not in ("text", "null"):
            raise Misfit(f"column {self.column} is {CALLED[found]}, not text", self.column.at)

    def mask(self, batch: Batch) -> pa.BooleanArray:
        values = load(batch, self.column.name).cast(pa.string())
        found = pc.match_like(values, str(self.pattern.value))
        return _known(pc.invert(found) if self.negated else found)


@dataclass(frozen=True, slots=True)
class Null:
    """A column without a value, or with one (``negated``)."""

    column: Column
    negated: bool

    def __str__(self) -> str:
        return f"{self.column} is {'not ' * self.negated}null"

    def columns(self) -> set[str]:
        return {self.column.name}

    def check(self, schema: pa.Schema) -> None:
        self.column.field(schema)

    def mask(self, batch: Batch) -> pa.BooleanArray:
        column = load(batch, self.column.name)
        return pc.is_valid(column) if self.negated else pc.is_null(column)


@dataclass(frozen=True, slots=True)
class Joined:
    """Two or more distinct conditions, all (``and``) or one of them (``or``), in order of text."""

    word: str
    terms: tuple[Term, ...]

    def __str__(self) -> str:
        return f" {self.word} ".join(
            f"({term})" if isinstance(term, Joined) and self.word == "and" else str(term)
            for term in self.terms
        )

    def columns(self) -> set[str]:
        return set().union(*(term.columns() for term in self.terms))

    def check(self, schema: pa.Schema) -> None:
        for term in self.terms:
            term.check(schema)

    def mask(self, batch: Batch) -> pa.BooleanArray:
        combine = pc.and_ if self.word == "and" else pc.or_
        mask = self.terms[0].mask(batch)
        for term in self.terms[1:]:
            mask = combine(mask, term.mask(batch))
        return mask


def _constant(batch: Batch, value: bool) -> pa.BooleanArray:
    return pa.array([value], pa.bool_()).take(pa.array([0] * batch.num_rows, pa.int64()))


def _known(mask: Any) -> pa.BooleanArray:
    return pc.fill_null(mask, fill_value=False)
