"""The words of a filter: text to tokens that know where they stand."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from typing import Literal

from tokenmill_schemas.errors import JobError

Value = bool | int | float | str
Kind = Literal["word", "name", "value", "sign", "end"]

#: Words of the language; a column of such a name stands in quotes.
WORDS = frozenset(["and", "or", "not", "in", "like", "is", "null", "between", "true", "false"])
BARE_NAME = re.compile(r"[A-Za-z_]\w*(?:\.\w+)*", re.ASCII)
_TOKEN = re.compile(
    r"""(?P<space>\s+)
    | (?P<number>[+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?)(?![\w.])
    | (?P<text>'(?:[^']|'')*')
    | (?P<quoted>"(?:[^"]|"")*")
    | (?P<bare>[A-Za-z_]\w*(?:\.\w+)*)
    | (?P<sign><=|>=|<>|!=|[=<>(),])""",
    re.VERBOSE | re.ASCII,
)
#: Powers of ten that a number may be written with; float64 reaches to 308.
_EXPONENT = 400
#: Characters shown before and behind a place, and of what stands there.
_EXCERPT = 60
_FOUND = 20


@dataclass(frozen=True, slots=True)
class Token:
    """``value`` of a word or sign is its lower-case spelling, else what it stands for."""

    kind: Kind
    value: Value
    at: int


def tokens(text: str) -> Iterator[Token]:
    """Yield the tokens of ``text`` and one of kind ``end``.

    Raises:
        JobError: a part of it is none.
    """
    at = 0
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None:
            raise error(_unreadable(text, at), text, at)
        if match.lastgroup != "space":
            yield _token(match, text)
        at = match.end()
    yield Token("end", "", len(text))


def error(message: str, text: str, at: int) -> JobError:
    """Return the error that points at position ``at`` of ``text``."""
    return JobError(pointed(message, text, at), path="where")


def pointed(message: str, text: str, at: int) -> str:
    """Return ``message`` and its place in ``text``: what stands there, then its line and a caret.

    The first line says enough by itself, for where only one is shown.
    """
    start = text.rfind("\n", 0, at) + 1
    stop = text.find("\n", at)
    left = max(start, at - _EXCERPT)
    # What cannot be printed must not break the message, nor move the caret.
    line = _printable(text[left : min(len(text) if stop < 0 else stop, at + _EXCERPT)])
    found = f"at {line[at - left :][:_FOUND]}" if line[at - left :] else "at the end"
    if stop >= 0 and stop == at:
        found = "at the end of its line"
    return f"{message} (character {at + 1}, {found})\n  {line}\n  {' ' * (at - left)}^"


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else "?" for c in text)


def _token(match: re.Match[str], text: str) -> Token:
    raw, at = match.group(), match.start()
    if match.lastgroup == "number":
        return Token("value", _number(raw, text, at), at)
    if match.lastgroup == "text":
        return Token("value", _encodable(raw[1:-1].replace("''", "'"), text, at), at)
    if match.lastgroup == "quoted":
        return Token("name", _encodable(raw[1:-1].replace('""', '"'), text, at), at)
    if match.lastgroup == "sign":
        return Token("sign", "!=" if raw == "<>" else raw, at)
    word = raw.lower()
    if word in ("true", "false"):
        return Token("value", word == "true", at)
    return Token("word", word, at) if word in WORDS else Token("name", raw, at)


def _number(raw: str, text: str, at: int) -> int | float:
    """Return an int for every whole number, so that 5, 5.0 and 0.5e1 are one value."""
    value = Decimal(raw)
    if (
        len(raw) > _EXPONENT
        or abs(value.adjusted()) > _EXPONENT
        or abs(float(value)) == float("inf")
    ):
        raise error("this number is out of the range of float64", text, at)
    whole = int(value)
    return whole if whole == value else float(raw)


def _encodable(value: str, text: str, at: int) -> str:
    try:
        value.encode()
    except UnicodeEncodeError:
        raise error("this text is not Unicode: it has a lone surrogate", text, at) from None
    return value


def _unreadable(text: str, at: int) -> str:
    if text[at] in "'\"":
        return f"this {text[at]} is never closed"
    if text[at] in "+-*/%":
        return f"cannot read {text[at]!r}; there is no arithmetic here"
    if text[at].isdigit():
        return "cannot read this number"
    if text[at].isalpha():
        return 'cannot read this; names beyond A-Z, 0-9, "_" and "." stand in double quotes'
    return f"cannot read {text[at]!r}"
