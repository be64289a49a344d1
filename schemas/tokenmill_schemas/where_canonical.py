"""One term for what can be written in several ways."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from tokenmill_schemas.where_terms import (
    Column,
    Compare,
    Constant,
    Flag,
    Joined,
    Literal,
    Member,
    Operand,
    Term,
)

NEGATED = {"=": "!=", "!=": "=", "<": ">=", ">=": "<", ">": "<=", "<=": ">"}
FLIPPED = {"=": "=", "!=": "!=", "<": ">", ">": "<", "<=": ">=", ">=": "<="}


def compared(left: Column, sign: str, right: Operand) -> Term:
    """Return a comparison; of two columns the one that sorts first stands on the left."""
    if isinstance(right, Column):
        if right.name < left.name:
            left, right, sign = right, left, FLIPPED[sign]
    elif isinstance(right.value, bool) and sign in ("=", "!="):
        return Flag(left, right.value != (sign == "="))
    return Compare(left, sign, right)


def listed(column: Column, values: Sequence[Literal], *, negated: bool) -> Term:
    """Return that a column has one of ``values``, which are of one family, or none of them."""
    distinct = {literal.value: literal for literal in reversed(values)}
    if len(distinct) == 1:
        return compared(column, "!=" if negated else "=", values[0])
    return Member(column, tuple(distinct[value] for value in sorted(distinct)), negated)


def join(word: str, terms: Iterable[Term]) -> Term:
    """Return the conditions joined by ``and`` or ``or``.

    Nested ones of the same word are taken in, repeats and what is neutral left out, and values of
    one column listed: ``x = 1 or x = 2`` is ``x in (1, 2)``.
    """
    flat: list[Term] = []
    for term in terms:
        flat += term.terms if isinstance(term, Joined) and term.word == word else [term]
    neutral = Constant(word == "and")
    distinct = {str(term): term for term in reversed(_gathered(word, flat)) if term != neutral}
    kept = [distinct[text] for text in sorted(distinct)] or [neutral]
    return kept[0] if len(kept) == 1 else Joined(word, tuple(kept))


def _gathered(word: str, terms: Sequence[Term]) -> list[Term]:
    """Put together what lists of values say of one column."""
    lists: dict[tuple[str, str], tuple[Column, list[Literal]]] = {}
    others: list[Term] = []
    for term in terms:
        values = _values(word, term)
        if values and isinstance(term, Compare):
            lists.setdefault((term.left.name, values[0].family), (term.left, []))[1].extend(values)
        elif values and isinstance(term, Member):
            key = (term.column.name, values[0].family)
            lists.setdefault(key, (term.column, []))[1].extend(values)
        else:
            others.append(term)
    negated = word == "and"
    return others + [listed(column, found, negated=negated) for column, found in lists.values()]


def _values(word: str, term: Term) -> Sequence[Literal]:
    """The values that a term lists, if joining by ``word`` makes a longer list of them."""
    sign = "=" if word == "or" else "!="
    if isinstance(term, Compare) and term.sign == sign and isinstance(term.right, Literal):
        return [term.right]
    if isinstance(term, Member) and term.negated == (word == "and"):
        return term.values
    return []
