"""Cron expressions: are they of the form that a scheduler takes, told without a scheduler.

The five fields of crontab(5) with lists, ranges, steps and names, and Quartz' ``L`` and ``#``.
"""

from __future__ import annotations

import re
import zoneinfo
from collections.abc import Mapping
from types import MappingProxyType

_MONTHS = "jan feb mar apr may jun jul aug sep oct nov dec"
_DAYS = "sun mon tue wed thu fri sat"

_NO_NAMES: Mapping[str, int] = MappingProxyType({})
#: Field: its least and its greatest value, and names that stand for values.
_FIELDS: Mapping[str, tuple[int, int, Mapping[str, int]]] = MappingProxyType(
    {
        "minute": (0, 59, _NO_NAMES),
        "hour": (0, 23, _NO_NAMES),
        "day of month": (1, 31, _NO_NAMES),
        "month": (1, 12, {name: i for i, name in enumerate(_MONTHS.split(), 1)}),
        "day of week": (0, 7, {name: i for i, name in enumerate(_DAYS.split())}),
    }
)
_ITEM = re.compile(r"(?:\*|(?P<low>\w+)(?:-(?P<high>\w+))?)(?:/(?P<step>[1-9]\d*))?")
_LAST = {"day of month": re.compile("l"), "day of week": re.compile(r"l[0-7]|[0-7]#[1-5]")}


def check_cron(text: str) -> None:
    """Refuse what is not a cron expression of five fields.

    Raises:
        ValueError: names the field and what is wrong with it.
    """
    words = text.split()
    if len(words) != len(_FIELDS):
        raise ValueError(f"cron {text!r} has {len(words)} fields, not five ({', '.join(_FIELDS)})")
    for name, word in zip(_FIELDS, words, strict=True):
        for item in word.lower().split(","):
            if not _is_item(name, item):
                raise ValueError(
                    f"cron {text!r} has {item!r} as {name}, which is not a {_range(name)}"
                )


def check_timezone(name: str) -> None:
    """Refuse what is not the name of a time zone.

    Raises:
        ValueError: there is none of that name.
    """
    try:
        zoneinfo.ZoneInfo(name)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise ValueError(
            f"timezone {name!r} is not one of the IANA names, as Europe/Paris"
        ) from error


def _range(name: str) -> str:
    low, high, _ = _FIELDS[name]
    return f"value, range or step from {low} to {high}"


def _is_item(name: str, item: str) -> bool:
    if name in _LAST and _LAST[name].fullmatch(item):
        return True
    found = _ITEM.fullmatch(item)
    return found is not None and all(
        _is_value(name, word) for word in (found["low"], found["high"]) if word is not None
    )


def _is_value(name: str, word: str) -> bool:
    low, high, names = _FIELDS[name]
    return word in names or (word.isascii() and word.isdigit() and low <= int(word) <= high)
