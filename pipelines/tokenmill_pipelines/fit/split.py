"""Which assets are learned from and which are held out: by their keys, so that both stay so."""

from __future__ import annotations

import hashlib

from tokenmill_pipelines.fit.gather import Gathered
from tokenmill_schemas.errors import JobError


def is_held_out(key: str, share: float, seed: int) -> bool:
    """Return whether the asset of a key is among the ``share`` that nothing is learned from."""
    digest = hashlib.sha256(f"{seed}/{key}".encode()).digest()
    return int.from_bytes(digest[:8], "little") < share * 2**64


def split(part: Gathered, share: float, seed: int) -> tuple[Gathered, Gathered]:
    """Return the views to learn from and those that are held out, all of an asset on one side.

    Raises:
        JobError: nothing is left to learn from.
    """
    keys = dict.fromkeys(part.keys)
    out = frozenset(key for key in keys if is_held_out(key, share, seed))
    learned = part.only(frozenset(keys) - out)
    if not learned.keys:
        raise JobError(f"part {part.name!r} has too few assets to hold some out", path="held_out")
    return learned, part.only(out)
