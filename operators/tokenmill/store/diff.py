"""What became of assets between two versions: added, removed, changed, or tokenized again.

Units are immutable, so only those that one of the two versions has and the other has not are looked
at, and what only one of them hides or rejects. Comparing neighbours costs what the commit between
them did, however large the store is.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import pyarrow as pa
import pyarrow.compute as pc

from tokenmill.shards.select import read_columns
from tokenmill.store.locate import locate
from tokenmill.store.plans import read_units
from tokenmill.store.segments import read_segments
from tokenmill.store.tables import read_tables
from tokenmill.store.version import Version
from tokenmill_schemas.plan import IDENTITY, Unit
from tokenmill_schemas.snapshot import REJECT_SCHEMA, TOMBSTONE_SCHEMA, FileRef

Change = Literal["added", "removed", "changed", "retokenized"]
CHANGES: tuple[Change, ...] = ("added", "removed", "changed", "retokenized")

#: Of an asset: its key, what became of it, and its version in both ("" where it is not).
DIFF_SCHEMA = pa.schema(
    [
        pa.field("asset_key", pa.string(), nullable=False),
        pa.field("change", pa.string(), nullable=False),
        pa.field("version_before", pa.string(), nullable=False),
        pa.field("version_after", pa.string(), nullable=False),
    ]
)
#: Why an asset is filtered of which no sample may be shown any more.
TAKEN_DOWN = "taken_down"
_UNIT = ["unit_id", "plan", "row_group", "path", "assets"]


@dataclass(frozen=True, slots=True)
class Difference:
    """The assets in which two versions differ, sorted by key (`DIFF_SCHEMA`)."""

    before: Version
    after: Version
    table: pa.Table

    @property
    def counts(self) -> dict[str, int]:
        """Number of assets for each kind of change."""
        found = Counter(self.table.column("change").to_pylist())
        return {change: found[change] for change in CHANGES}

    def keys(self, *changes: Change) -> list[str]:
        """Return the keys of the assets with these changes."""
        mask = pc.is_in(self.table.column("change"), value_set=pa.array(changes, pa.string()))
        keys: list[str] = self.table.filter(mask).column("asset_key").to_pylist()
        return keys

    def new_samples(self) -> pa.Table:
        """Return where the later version's samples of new assets lie (`locate.FOUND_SCHEMA`).

        New are those that were added, changed or tokenized again: what to train on that the
        earlier version did not have. Samples that the later version hides are left out.
        """
        new = self.keys("added", "changed", "retokenized")
        found = locate(self.after.store.storage, self.after.snapshot.segments, new)
        hidden = self.after.hidden()
        gone = {path: set(hidden.rows(path).tolist()) for path in hidden.paths}
        rows = zip(found.column("path").to_pylist(), found.column("row").to_pylist(), strict=True)
        shown = [row not in gone.get(path, ()) for path, row in rows]
        return found.filter(pa.array(shown, pa.bool_()))


def diff(before: Version, after: Version) -> Difference:
    """Compare two versions, of one store or of two.

    An asset is *in* a version if samples of it are shown there or it is in quarantine or filtered,
    unless that is because it was taken down.
    It is *added* or *removed* if it is in one of them only; *changed* if it is in both with another
    uri, locator or version; *retokenized* if it is the same asset with another outcome: samples
    instead of quarantine or the reverse, or tokens of another fingerprint.

    Raises:
        CorruptShardError: a file of the manifest or of a listing is missing or damaged.
    """
    hints = _hints(before, after)
    old, new = (_outcomes(v, o, hints) for v, o in ((before, after), (after, before)))
    again = before.snapshot.fingerprint != after.snapshot.fingerprint
    rows = []
    for key in sorted(old.keys() | new.keys()):
        change = _compare(old.get(key), new.get(key), again=again)
        if change:
            versions = (side[key].version if key in side else "" for side in (old, new))
            rows.append(dict(zip(DIFF_SCHEMA.names, (key, change, *versions), strict=True)))
    return Difference(before, after, pa.Table.from_pylist(rows, DIFF_SCHEMA))


@dataclass(frozen=True, slots=True)
class _Outcome:
    """What a version has of an asset: samples or a rejection, of which reading of its source."""

    shown: bool
    identity: tuple[str, ...]

    @property
    def version(self) -> str:
        return self.identity[IDENTITY.index("version")]


def _compare(old: _Outcome | None, new: _Outcome | None, *, again: bool) -> Change | None:
    if old is None or new is None:
        return "added" if old is None else "removed"
    if old.identity != new.identity:
        return "changed"
    return "retokenized" if old.shown != new.shown or again else None


@dataclass(frozen=True, slots=True)
class _Hints:
    """Assets that one version hides or rejects and the other does not, and where they are."""

    keys: frozenset[str]
    paths: frozenset[str]
    units: frozenset[str]


def _hints(one: Version, other: Version) -> _Hints:
    hidden = _rows(one, other, "tombstones") ^ _rows(other, one, "tombstones")
    rejected = _rows(one, other, "rejects") ^ _rows(other, one, "rejects")
    keys = frozenset(key for key, _ in hidden | rejected)
    paths, units = (frozenset(place for _, place in pairs) for pairs in (hidden, rejected))
    return _Hints(keys, paths, units)


def _rejects(version: Version) -> dict[tuple[str, str], str]:
    """Return why assets were rejected, by asset and unit."""
    columns = (version.rejects().column(n).to_pylist() for n in ("asset_key", "unit_id", "reason"))
    return {(key, unit): reason for key, unit, reason in zip(*columns, strict=True)}


def _rows(version: Version, other: Version, name: str) -> set[tuple[str, str]]:
    """Return (asset, place) of the rows of a table that are in files that ``other`` has not.

    The place is a shard's path for tombstones, a unit's id for rejects.
    """
    schema, place = {
        "tombstones": (TOMBSTONE_SCHEMA, "path"),
        "rejects": (REJECT_SCHEMA, "unit_id"),
    }[name]
    refs = _own_files(version, other, name)
    table = read_tables(version.store.storage, refs, schema, ["asset_key", place])
    return set(zip(*(column.to_pylist() for column in table.columns), strict=True))


def _own_files(version: Version, other: Version, name: str) -> list[FileRef]:
    theirs = set(getattr(other.snapshot, name))
    return [ref for ref in getattr(version.snapshot, name) if ref not in theirs]


def _outcomes(version: Version, other: Version, hints: _Hints) -> dict[str, _Outcome]:
    """Return what a version has of every asset that may differ.

    Of several listing rows of an asset the one in the last unit counts.
    """
    units, own = _units(version, other, hints)
    order = {name: place for place, name in enumerate(units.column("unit_id").to_pylist())}
    paths = units.column("path").to_pylist()
    rejected, dead = _rejects(version), _dead(version, set(paths))
    last: dict[str, tuple[int, _Outcome | None]] = {}
    for unit, rows in read_units(version.store.storage, _planned(units), list(IDENTITY)):
        place = order[unit.unit_id]
        for identity in _identities(rows):
            key = identity[0]
            if (own[place] or key in hints.keys) and place >= last.get(key, (-1, None))[0]:
                reason = rejected.get((key, unit.unit_id), "")
                gone = reason == TAKEN_DOWN or (key, paths[place]) in dead
                last[key] = place, None if gone else _Outcome(not reason, identity)
    return {key: outcome for key, (_, outcome) in last.items() if outcome is not None}


def _units(version: Version, other: Version, hints: _Hints) -> tuple[pa.Table, list[bool]]:
    """Return the manifest rows of the units to look at, in order, and which only ``version`` has.

    Those are all that the other version has not, and shared ones in which hinted assets are.
    """
    storage = version.store.storage
    mine = read_segments(storage, _own_files(version, other, "segments"), _UNIT)
    theirs = read_segments(other.store.storage, _own_files(other, version, "segments"), _UNIT)
    own = mine.filter(pc.invert(pc.is_in(_names(mine), value_set=_names(theirs))))
    if not hints.keys:
        return own, [True] * own.num_rows
    every = read_segments(storage, version.snapshot.segments, _UNIT)
    hinted = pc.or_(
        pc.is_in(every.column("path"), value_set=pa.array(sorted(hints.paths), pa.string())),
        pc.is_in(every.column("unit_id"), value_set=pa.array(sorted(hints.units), pa.string())),
    )
    is_own = pc.is_in(_names(every), value_set=_names(own))
    seen = pc.or_(hinted, is_own)
    flags: list[bool] = pc.array_filter(is_own, seen.combine_chunks()).to_pylist()
    return every.filter(seen), flags


def _names(units: pa.Table) -> pa.Array:
    names = pc.binary_join_element_wise(units.column("unit_id"), units.column("path"), "/")
    return pa.array(names.combine_chunks(), pa.string())


def _planned(units: pa.Table) -> list[Unit]:
    """Return the units whose listings are kept: all but those of stores made by hand."""
    rows = units.to_pylist()
    return [Unit(r["unit_id"], r["plan"], r["row_group"], r["assets"]) for r in rows if r["plan"]]


def _identities(rows: pa.Table) -> Iterator[tuple[str, ...]]:
    return zip(*(rows.column(name).to_pylist() for name in IDENTITY), strict=True)


def _dead(version: Version, paths: set[str]) -> set[tuple[str, str]]:
    """Return (asset, shard) of the assets all of whose samples in a shard are hidden."""
    hidden = version.hidden()
    dead: set[tuple[str, str]] = set()
    for path in paths.intersection(hidden.paths):
        keys = read_columns(version.store.storage, path, ["asset_key"]).column(0).to_pylist()
        shown = {keys[row] for row in hidden.visible(path, len(keys)).tolist()}
        dead.update(
            (keys[row], path) for row in hidden.rows(path).tolist() if keys[row] not in shown
        )
    return dead
