"""The grammar of a filter: tokens to terms, by recursive descent.

    or      = and {"or" and}
    and     = not {"and" not}
    not     = "not" not | "(" or ")" | test
    test    = operand [["not"] ("in" list | "like" text | "between" operand "and" operand)
              | "is" ["not"] "null" | sign operand]
    operand = name | value

Terms have no negations but those of single tests: ``not`` is moved inwards while reading, by De
Morgan's laws, which also hold where conditions may be unknown.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from tokenmill_schemas.errors import JobError
from tokenmill_schemas.where_canonical import FLIPPED, NEGATED, compared, join, listed
from tokenmill_schemas.where_terms import (
    Column,
    Constant,
    Flag,
    Like,
    Literal,
    Null,
    Operand,
    Term,
)
from tokenmill_schemas.where_tokens import Token, error, tokens

#: Parentheses and ``not`` that may enclose each other; far below Python's own limit.
DEPTH = 100

T = TypeVar("T")


def read(text: str) -> Term:
    """Return the term that ``text`` says.

    Raises:
        JobError: it is no expression.
    """
    parser = _Parser(text, list(tokens(text)))
    term = parser.any(negated=False)
    if parser.now.kind != "end":
        raise parser.error("expected 'and', 'or' or the end")
    return term


@dataclass(slots=True)
class _Parser:
    text: str
    rest: list[Token]
    position: int = 0
    depth: int = 0

    @property
    def now(self) -> Token:
        return self.rest[self.position]

    def error(self, message: str, token: Token | None = None) -> JobError:
        return error(message, self.text, (token or self.now).at)

    def take(self, *words: str) -> str:
        """Step over one of these words or signs and return it, else return ""."""
        now = self.now
        if now.kind in ("word", "sign") and now.value in words:
            self.position += 1
            return str(now.value)
        return ""

    def expect(self, word: str) -> None:
        if not self.take(word):
            raise self.error(f"expected {word!r}")

    def any(self, *, negated: bool) -> Term:
        terms = [self.all(negated=negated)]
        while self.take("or"):
            terms.append(self.all(negated=negated))
        return join("and" if negated else "or", terms)

    def all(self, *, negated: bool) -> Term:
        terms = [self.negation(negated=negated)]
        while self.take("and"):
            terms.append(self.negation(negated=negated))
        return join("or" if negated else "and", terms)

    def negation(self, *, negated: bool) -> Term:
        if self.take("not"):
            return self.nested(self.negation, negated=not negated)
        if self.take("("):
            term = self.nested(self.any, negated=negated)
            self.expect(")")
            return term
        return self.test(negated=negated)

    def nested(self, part: Callable[..., T], *, negated: bool) -> T:
        self.depth += 1
        if self.depth > DEPTH:
            raise self.error(f"more than {DEPTH} nested parentheses and negations")
        found = part(negated=negated)
        self.depth -= 1
        return found

    def test(self, *, negated: bool) -> Term:
        start = self.now
        left = self.operand()
        if sign := self.take("=", "!=", "<", "<=", ">", ">="):
            return self.compare(left, NEGATED[sign] if negated else sign)
        if self.take("is"):
            negated ^= bool(self.take("not"))
            self.expect("null")
            return Null(self.column(left, start), negated)
        negated ^= (inner := bool(self.take("not")))
        word = self.take("in", "like", "between")
        if word:
            column = self.column(left, start)
            tests = {"in": self.member, "like": self.like, "between": self.between}
            return tests[word](column, negated)
        if inner:
            raise self.error("expected 'in', 'like' or 'between' after 'not'")
        return self.alone(left, negated)

    def alone(self, left: Operand, negated: bool) -> Term:
        if isinstance(left, Column):
            return Flag(left, negated)
        if isinstance(left.value, bool):
            return Constant(left.value != negated)
        raise self.error("expected a comparison after this value")

    def compare(self, left: Operand, sign: str) -> Term:
        start, right = self.now, self.operand()
        if isinstance(left, Literal):
            left, right, sign = right, left, FLIPPED[sign]
        if isinstance(left, Literal):
            raise self.error("a comparison needs a column on one side", start)
        return compared(left, sign, right)

    def member(self, column: Column, negated: bool) -> Term:
        self.expect("(")
        values = [self.literal()]
        while self.take(","):
            values.append(self.literal())
            if values[-1].kind != values[0].kind:
                message = f"this is {values[-1].kind}, the list began with {values[0].kind}"
                raise error(message, self.text, values[-1].at)
        self.expect(")")
        return listed(column, values, negated=negated)

    def like(self, column: Column, negated: bool) -> Term:
        pattern = self.literal()
        if not isinstance(pattern.value, str):
            raise error("'like' takes a 'text'", self.text, pattern.at)
        bare = pattern.value.replace("\\\\", "")
        if bare.endswith("\\"):
            raise error("this pattern ends in an open backslash", self.text, pattern.at)
        return Like(column, pattern, negated)

    def between(self, column: Column, negated: bool) -> Term:
        low = self.operand()
        self.expect("and")
        high = self.operand()
        if negated:
            return join("or", [compared(column, "<", low), compared(column, ">", high)])
        return join("and", [compared(column, ">=", low), compared(column, "<=", high)])

    def column(self, operand: Operand, token: Token) -> Column:
        if isinstance(operand, Column):
            return operand
        raise self.error("expected a column's name", token)

    def literal(self) -> Literal:
        if self.now.kind != "value":
            raise self.error("expected a value" + self._hint())
        return Literal(self._step().value, self.rest[self.position - 1].at)

    def operand(self) -> Operand:
        if self.now.kind == "name":
            token = self._step()
            return Column(str(token.value), token.at)
        if self.now.kind == "value":
            return self.literal()
        raise self.error("expected a column or a value" + self._hint())

    def _hint(self) -> str:
        if self.now.value == "null" and self.now.kind == "word":
            return "; nothing equals null, write 'is null'"
        return ""

    def _step(self) -> Token:
        self.position += 1
        return self.rest[self.position - 1]
