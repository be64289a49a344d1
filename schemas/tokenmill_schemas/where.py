"""Filters over the columns of samples: a small, safe part of SQL's ``WHERE``.

    aesthetic > 5 and licence = 'cc0'
    asset.format in ('jpeg', 'png') and not view.flip
    caption like '%cat%' or "odd name" is not null
    asset.width between 256 and 1024

Comparisons are ``= != <> < <= > >=``, ``in``, ``between``, ``like`` (``%`` any text, ``_`` one
character, a backslash before either takes it literally) and ``is null``, each also with ``not``;
they are joined by ``not``, ``and``, ``or`` in that order of binding, and parentheses. A column of
booleans is a condition by itself. Values are numbers, ``'text'`` (a quote in it is doubled),
``true`` and ``false``; days and times are compared with ISO 8601 text, which is UTC where it names
no zone. Names of columns may hold dots; any other name stands in double quotes. Words are read in
any case, names are not.

What is not known is not true (SQL's three-valued logic): no comparison holds for null, nor does its
negation, and a NaN is a null. Integers are compared exactly, all other numbers as float64.

Expressions of equal meaning have one canonical text where rules of logic that hold for three values
show it: order and repetition of conditions, where ``not`` stands, how a value is spelled.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import pyarrow as pa

from tokenmill_schemas.errors import JobError
from tokenmill_schemas.where_parser import read
from tokenmill_schemas.where_terms import Misfit, Term
from tokenmill_schemas.where_tokens import pointed


@dataclass(frozen=True, slots=True)
class Where:
    """A filter; two are equal if their canonical texts are.

    ``columns`` are those that it reads, sorted; ``source`` is what was written.
    """

    text: str
    columns: tuple[str, ...] = field(compare=False)
    source: str = field(compare=False, repr=False)
    term: Term = field(compare=False, repr=False)

    def __str__(self) -> str:
        return self.text

    def check(self, schema: pa.Schema) -> None:
        """Compare with the columns that there are.

        Raises:
            JobError: a column is unknown, or of a type that its condition does not go with.
        """
        try:
            self.term.check(schema)
        except Misfit as misfit:
            raise self._error(misfit) from None

    def mask(self, batch: pa.RecordBatch | pa.Table) -> pa.BooleanArray:
        """Return ``bool[rows]`` without nulls: for which rows the filter is true.

        Raises:
            JobError: as `check`.
        """
        try:
            self.term.check(batch.schema)
            return self.term.mask(batch)
        except Misfit as misfit:
            raise self._error(misfit) from None

    def _error(self, misfit: Misfit) -> JobError:
        return JobError(pointed(misfit.message, self.source, misfit.at), path="where")


def parse(text: str) -> Where:
    """Return the filter that ``text`` says.

    Raises:
        JobError: it says none; names the place and what was expected there.
    """
    term = read(text)
    return Where(str(term), tuple(sorted(term.columns())), text, term)
