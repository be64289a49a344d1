"""Shards that a filter cannot match, told from the manifest alone.

The manifest has the least and the greatest asset key of each unit. What a filter says of other
columns is taken for possible.
"""

from __future__ import annotations

import re
from functools import reduce

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from tokenmill_schemas.where import Where
from tokenmill_schemas.where_terms import Column, Compare, Constant, Joined, Like, Literal, Member

Mask = npt.NDArray[np.bool_]

#: The column of which the manifest has bounds.
KEY = "asset_key"
#: Values of a list that are looked for one by one; of a longer one, only where it begins and ends.
FEW_VALUES = 64


def may_match(where: Where, lows: pa.Array, highs: pa.Array) -> Mask:
    """Return which shards may have rows for which a filter is true: bool[shards].

    Args:
        where: The filter.
        lows: The least asset key of each shard.
        highs: The greatest, "" where neither is known.
    """
    # Every string is at least "", so that only the greatest needs looking at.
    return _may(where.term, lows, highs) | _true(pc.equal(highs, ""))


def _may(term: object, lows: pa.Array, highs: pa.Array) -> Mask:
    match term:
        case Joined(word, terms):
            join = np.logical_and if word == "and" else np.logical_or
            masks: list[Mask] = [_may(inner, lows, highs) for inner in terms]
            return reduce(join, masks)
        case Constant(False):
            return np.zeros(len(lows), bool)
        case Compare(Column(name), sign, Literal(str() as value)) if name == KEY:
            return _compared(sign, value, lows, highs)
        case Member(Column(name), values, False) if name == KEY:
            keys = [str(literal.value) for literal in values]
            if len(keys) > FEW_VALUES:
                return _overlap(min(keys), max(keys), lows, highs)
            return reduce(np.logical_or, [_overlap(key, key, lows, highs) for key in keys])
        case Like(Column(name), Literal(str() as pattern), False) if name == KEY:
            # Compared with the bounds' own beginnings, which are in the order that they are in.
            prefix = re.split(r"[%_\\]", pattern, maxsplit=1)[0]
            least, most = (pc.utf8_slice_codeunits(keys, 0, len(prefix)) for keys in (lows, highs))
            return _overlap(prefix, prefix, least, most)
    return np.ones(len(lows), bool)


def _compared(sign: str, value: str, lows: pa.Array, highs: pa.Array) -> Mask:
    if sign == "=":
        return _overlap(value, value, lows, highs)
    if sign in ("<", "<="):
        return _true((pc.less if sign == "<" else pc.less_equal)(lows, value))
    if sign in (">", ">="):
        return _true((pc.greater if sign == ">" else pc.greater_equal)(highs, value))
    return np.ones(len(lows), bool)


def _overlap(first: str, last: str, lows: pa.Array, highs: pa.Array) -> Mask:
    """Return which of the ranges have room for something from ``first`` to ``last``."""
    return _true(pc.and_(pc.less_equal(lows, last), pc.greater_equal(highs, first)))


def _true(mask: pa.BooleanArray) -> Mask:
    return np.asarray(mask.to_numpy(zero_copy_only=False), bool)
