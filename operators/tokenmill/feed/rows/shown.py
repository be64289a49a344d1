"""Which rows of a snapshot's shards are shown: what is left of what there is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tokenmill.feed.rows.plan import Plan
from tokenmill.feed.rows.sides import Side
from tokenmill.store import Store, Version
from tokenmill.store.diff import diff
from tokenmill.store.hidden import Hidden
from tokenmill.store.segments import shard_places
from tokenmill_schemas.snapshot import Snapshot

Rows = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Shown:
    """What comes into question: ``held[i]`` rows of shard i, but those in ``gone`` (ascending).

    A shard of which no row does has ``held`` 0 and no entry in ``gone``.
    """

    held: Rows
    gone: Mapping[int, Rows]

    @property
    def rows(self) -> int:
        """Number of rows."""
        return int(self.held.sum()) - sum(map(len, self.gone.values()))

    def covered_by(self, sides: Sequence[Side]) -> Shown:
        """Return those of the rows that have values in every one of some column groups."""
        if not sides:
            return self
        covered, gone = np.ones(len(self.held), bool), dict(self.gone)
        for side in sides:
            covered &= side.covered
            for shard, rows in side.absent.items():
                gone[shard] = np.union1d(gone[shard], rows) if shard in gone else rows
        return Shown(self.held, gone).only(covered)

    def only(self, shards: npt.NDArray[np.bool_]) -> Shown:
        """Return those of the rows that are in some shards (bool[shards])."""
        held = np.where(shards, self.held, 0)
        return Shown(held, {shard: rows for shard, rows in self.gone.items() if held[shard]})

    def plan(self) -> Plan:
        """Return where the rows lie."""
        return Plan.of(self.held, self.gone)


def all_shown(store: Store, snapshot: Snapshot, hidden: Hidden, samples: Rows) -> Shown:
    """Return the rows that a version shows; of its shards, which have so many ``samples``."""
    places = shard_places(store.storage, snapshot.segments, hidden.paths) if hidden.paths else ()
    pairs = zip(places, hidden.paths, strict=True)
    gone = {int(place): hidden.rows(path) for place, path in pairs if place >= 0}
    return Shown(samples, gone)


def new_shown(store: Store, snapshot: Snapshot, since: Snapshot, samples: Rows) -> Shown:
    """Return the rows that a version shows and that are new since another one."""
    found = diff(Version(store, since), Version(store, snapshot)).new_samples()
    names = found.column("path").combine_chunks().dictionary_encode()
    if not len(names):
        return Shown(np.zeros_like(samples), {})
    places = shard_places(store.storage, snapshot.segments, names.dictionary)
    shards, rows = places[names.indices.to_numpy()], found.column("row").to_numpy()
    held = np.zeros_like(samples)
    held[places] = samples[places]
    order = np.lexsort((rows, shards))
    shards, rows = shards[order], rows[order]
    ends = np.searchsorted(shards, places, side="right")
    new = {
        int(place): rows[start:end]
        for place, start, end in zip(places, np.searchsorted(shards, places), ends, strict=True)
    }
    old = {place: np.setdiff1d(np.arange(held[place]), rows) for place, rows in new.items()}
    return Shown(held, {place: rows for place, rows in old.items() if len(rows)})
