"""Which units become one: neighbours, up to a size, and only where that helps. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from tokenmill_schemas.snapshot import FileRef

Ints = npt.NDArray[np.int64]

TARGET_BYTES = 128 * 2**20
#: A shard of this share of the target is left as it is: rewriting it for what little would fit in
#: beside it costs more than that saves, again with every increment.
FULL = 0.75
#: Assets of one unit, at the most: their listing is one row group, which is read whole.
MAX_ASSETS = 262_144


@dataclass(frozen=True, slots=True)
class Target:
    """How large a shard may become, in bytes and, if that is given, in rows."""

    bytes: int = TARGET_BYTES
    rows: int | None = None

    def is_full(self, size: int, rows: int) -> bool:
        """Whether a shard of that size is left as it is."""
        by_rows = self.rows is not None and rows >= FULL * self.rows
        return size >= FULL * self.bytes or by_rows

    def holds(self, size: int, rows: int) -> bool:
        """Whether a shard of that size is not too large."""
        return size <= self.bytes and (self.rows is None or rows <= self.rows)


@dataclass(frozen=True, slots=True)
class Units:
    """The units of a version in manifest order, a number each.

    ``bytes`` and ``rows`` are what stays of their shards (0: no shard), ``dropped`` the rows that
    go, ``assets`` those that they list. ``parts`` say in which plan part (-1: none), ``runs`` in
    which run of parts of one scope, ``covers`` by which set of column groups they are covered.
    """

    bytes: Ints
    rows: Ints
    dropped: Ints
    assets: Ints
    parts: Ints
    runs: Ints
    covers: Ints


@dataclass(slots=True)
class _Open:
    """The merge that is being filled."""

    units: list[int]
    bytes: int = 0
    rows: int = 0
    assets: int = 0
    part: int = -1
    run: int = -1
    cover: int = -1


def merges(units: Units, target: Target) -> list[tuple[int, ...]]:
    """Return which units are to be written anew as one, by their places, in order.

    Neighbours are taken together until the next one would make the shard larger than ``target``.
    Never together are listings of two jobs, and shards that other column groups cover; a shard that
    is full stays alone. A unit alone is written anew only if rows of it go.
    """
    found: list[tuple[int, ...]] = []
    current = _Open([])

    def close() -> None:
        if len(current.units) > 1 or any(units.dropped[i] for i in current.units):
            found.append(tuple(current.units))

    columns = (getattr(units, name).tolist() for name in Units.__slots__)
    for i, (size, rows, dropped, *facts) in enumerate(zip(*columns, strict=True)):
        if (rows or dropped) and target.is_full(size, rows):
            close()
            current = _Open([])
            found += [(i,)] if dropped else []
        elif not _join(current, i, (size, rows, *facts), target):
            close()
            current = _Open([])
            _join(current, i, (size, rows, *facts), target)
    close()
    return found


def _join(current: _Open, unit: int, facts: Sequence[int], target: Target) -> bool:
    """Add a unit to a merge if it may be there."""
    size, rows, assets, part, run, cover = facts
    held = bool(current.units)
    if held:
        fits = target.holds(current.bytes + size, current.rows + rows)
        fits = fits and current.assets + assets <= MAX_ASSETS
        follows = run == current.run and part >= current.part
        alike = not (rows and current.rows) or cover == current.cover
        if not (fits and follows and alike):
            return False
    if rows and not current.rows:
        current.cover = cover
    current.units.append(unit)
    current.part, current.run = part, run
    current.bytes += size
    current.rows += rows
    current.assets += assets
    return True


def scope_runs(plans: Sequence[FileRef]) -> list[int]:
    """Return for each plan part the number of the run of neighbours of one scope that it is in."""
    changes = [one.scope != other.scope for one, other in pairwise(plans)]
    return np.cumsum([0, *changes]).tolist() if plans else []


def blocks(spans: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return the first and last parts of the fewest stretches that hold all ``spans`` whole."""
    found: list[tuple[int, int]] = []
    for first, last in sorted(spans):
        if found and first <= found[-1][1]:
            found[-1] = found[-1][0], max(found[-1][1], last)
        else:
            found.append((first, last))
    return found


def merged_id(members: Iterable[tuple[str, Ints]]) -> str:
    """Return the id of the unit that is made of others, without some rows of each one's shard."""
    sha = hashlib.sha256(b"compact-v1\n")
    for unit_id, dropped in members:
        sha.update(f"{unit_id}\n{len(dropped)}\n".encode() + dropped.astype("<i8").tobytes())
    return sha.hexdigest()[:32]
