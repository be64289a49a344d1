"""What a feed opens: which rows of a snapshot it shows, and the readers of their files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tokenmill.feed.columns import Chunk, Projection, check_names
from tokenmill.feed.files import ShardCache, ShardFiles
from tokenmill.feed.grouped import GroupedShards
from tokenmill.feed.manifest import TableManifest
from tokenmill.feed.mapped import MappedShards
from tokenmill.feed.plan import Plan, Rows
from tokenmill.shards.select import stored_layout
from tokenmill.store import Store, Version
from tokenmill.store.diff import diff
from tokenmill.store.groups import absent_rows, group_table
from tokenmill.store.groups.names import find_group, stored_names
from tokenmill.store.hidden import Hidden
from tokenmill_schemas.arrow import ShardLayout, values_per_sample
from tokenmill_schemas.canonical import digest
from tokenmill_schemas.errors import StoreError
from tokenmill_schemas.snapshot import ColumnGroup, Snapshot
from tokenmill_schemas.tokens import Stream

#: What the feed reads of the manifest.
SHARD_FACTS = ["path", "samples", "format", "sha256", "bytes", "batch_rows"]
#: Bytes that a sample of varying shape is taken to have when a chunk is sized.
VARIABLE_BYTES = 4096


class Shards(Protocol):
    """Gathers rows of shards; threads may share it."""

    def gather(self, shards: Rows, rows: Rows, *, share: int) -> Chunk:
        """Return row ``rows[i]`` of shard ``shards[i]`` at place i, in batches of ``share``."""
        ...

    def reset(self) -> None:
        """Forget every open shard and lock, after a fork."""
        ...


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is read of a snapshot: streams (None: all of the store's own) and other columns.

    With ``since`` only the samples that are new since that version, see `tokenmill.store.diff`.
    """

    streams: tuple[str, ...] | None
    columns: tuple[str, ...]
    since: Snapshot | None = None
    where: str = ""


@dataclass(frozen=True, slots=True)
class Opened:
    """A snapshot, ready to be read.

    ``identity`` tells its content and what of it is hidden, ``groups`` which column groups are
    read, ``uncovered`` how many samples are not shown for want of values in one of those.
    """

    identity: str
    groups: tuple[str, ...]
    uncovered: int
    plan: Plan
    shards: Shards
    streams: tuple[Stream, ...]
    columns: tuple[str, ...]
    where: str = ""


@dataclass(frozen=True, slots=True)
class _Side:
    """A column group's files, in the order of the shards that they lie beside (none: null)."""

    projection: Projection
    files: pa.Table
    absent: dict[int, Rows]


def open_snapshot(store: Store, snapshot: Snapshot, wanted: Wanted, cache: ShardCache) -> Opened:
    """Open a snapshot; reads its manifest and what columns there are, but no sample.

    Raises:
        JobError: there is no such stream or column; names the nearest one.
        StoreError: the snapshot has no shard, or one is missing or damaged.
    """
    shards = store.segments(snapshot, SHARD_FACTS).combine_chunks()
    samples, hidden = shards.column("samples").to_numpy(), store.hidden(snapshot)
    own, chosen = _choose(snapshot, store.layout(snapshot), wanted)
    sides = [
        _side(store, find_group(snapshot, name), some, shards) for name, some in chosen.items()
    ]
    held, gone = samples, _hidden_rows(hidden, shards)
    if wanted.since is not None:
        held, gone = _new_rows(store, snapshot, wanted.since, shards)
    plan = _plan(held, gone, sides)
    parts = [(side.files, side.projection) for side in sides]
    if not sides or own.streams or own.columns:
        parts.insert(0, (shards, own))
    readers = [
        _open_shards(ShardFiles(store.storage, _manifest(files), cache), projection)
        for files, projection in parts
    ]
    streams, columns = _in_order([projection for _, projection in parts], wanted)
    return Opened(
        identity=_identity(snapshot, hidden, wanted.since),
        groups=tuple(chosen),
        uncovered=int(held.sum()) - sum(map(len, gone.values())) - plan.rows,
        plan=plan,
        shards=JoinedShards(readers, streams, columns) if sides else readers[0],
        streams=streams,
        columns=columns,
    )


class JoinedShards:
    """Shards and the files beside them as one: a sample has one place in all of them."""

    def __init__(
        self, readers: Sequence[Shards], streams: Sequence[Stream], columns: Sequence[str]
    ) -> None:
        self._readers = readers
        self._streams = [stream.name for stream in streams]
        self._columns = list(columns)

    def reset(self) -> None:
        """Forget every open file and lock, after a fork."""
        for reader in self._readers:
            reader.reset()

    def gather(self, shards: Rows, rows: Rows, *, share: int) -> Chunk:
        """Return row ``rows[i]`` of shard ``shards[i]`` at place i, in batches of ``share``.

        Raises:
            CorruptShardError: a file is missing or not what was committed.
        """
        parts = [reader.gather(shards, rows, share=share) for reader in self._readers]
        streams = {name: values for part in parts for name, values in part.streams.items()}
        columns = {name: array for part in parts for name, array in part.columns.items()}
        return Chunk(
            {name: streams[name] for name in self._streams},
            {name: columns[name] for name in self._columns},
            share,
        )


def row_bytes(opened: Opened) -> int:
    """Return about how many bytes are read of a sample."""
    size = 64 * len(opened.columns)
    for stream in opened.streams:
        count = values_per_sample(stream)
        item = np.dtype(stream.storage_dtype).itemsize
        size += VARIABLE_BYTES if count is None else count * item
    return max(1, size)


def _choose(
    snapshot: Snapshot, layout: ShardLayout, wanted: Wanted
) -> tuple[Projection, dict[str, Wanted]]:
    """Return what is read of the shards themselves, and of each group that anything is read of."""
    streams = {s.name: g.name for g in snapshot.groups for s in g.spec.streams}
    columns = {name: group.name for group in snapshot.groups for name in group.columns}
    check_names("feed.streams", wanted.streams or (), [*_streams_of(layout), *streams])
    check_names("feed.columns", wanted.columns, [*_columns_of(layout), *columns])
    asked = wanted.streams
    own = Projection.of(
        layout,
        None if asked is None else tuple(name for name in asked if name not in streams),
        tuple(name for name in wanted.columns if name not in columns),
    )
    chosen = {}
    for group in snapshot.groups:
        some = tuple(name for name in asked or () if streams.get(name) == group.name)
        others = tuple(name for name in wanted.columns if columns.get(name) == group.name)
        if some or others:
            chosen[group.name] = Wanted(some, others)
    return own, chosen


def _side(store: Store, group: ColumnGroup, wanted: Wanted, shards: pa.Table) -> _Side:
    table = group_table(store.storage, group).combine_chunks()
    if not table.num_rows:
        raise StoreError(f"the column group {group.name!r} has no values left", uri=store.uri)
    layout = stored_layout(store.storage, str(table.column("path")[0]))
    found = pc.index_in(shards.column("path"), value_set=table.column("shard").combine_chunks())
    beside = table.take(found.combine_chunks())
    files = {name: beside.column(name) for name in ("path", "sha256", "bytes", "batch_rows")}
    files |= {name: shards.column(name) for name in ("samples", "format")}
    bits = beside.column("absent")
    partly = np.flatnonzero(pc.fill_null(pc.not_equal(bits, b""), fill_value=False).to_numpy())
    absent = {
        int(i): absent_rows(bits[int(i)].as_py(), int(beside.column("samples")[int(i)].as_py()))
        for i in partly
    }
    projection = Projection.of(layout, wanted.streams, wanted.columns)
    return _Side(projection, pa.table(files), absent)


def _plan(samples: Rows, hidden: dict[int, Rows], sides: Sequence[_Side]) -> Plan:
    """Return where the rows lie that are not hidden and have values in every group."""
    if not sides:
        return Plan.of(samples, hidden)
    covered = np.ones(len(samples), bool)
    gone = dict(hidden)
    for side in sides:
        covered &= side.files.column("path").is_valid().to_numpy()
        for shard, rows in side.absent.items():
            gone[shard] = np.union1d(gone[shard], rows) if shard in gone else rows
    return Plan.of(
        np.where(covered, samples, 0),
        {shard: rows for shard, rows in gone.items() if covered[shard]},
    )


def _in_order(
    projections: Sequence[Projection], wanted: Wanted
) -> tuple[tuple[Stream, ...], tuple[str, ...]]:
    """Return the streams and columns that are read, in the order in which they were asked for."""
    found = {stream.name: stream for part in projections for stream in part.streams}
    names = found if wanted.streams is None else wanted.streams
    return tuple(found[name] for name in names), wanted.columns


def _manifest(files: pa.Table) -> TableManifest:
    kind = str(files.column("format")[0]) if files.num_rows else "arrow"
    return TableManifest(files, files.column("samples").to_numpy(), kind)


def _open_shards(files: ShardFiles, projection: Projection) -> MappedShards | GroupedShards:
    """Return the fast reader if the shards are Arrow files, else the one for any format."""
    if files.manifest.format == "arrow":
        return MappedShards(files, files.manifest.samples, projection)
    return GroupedShards(files, projection)


def _identity(snapshot: Snapshot, hidden: Hidden, since: Snapshot | None) -> str:
    """Return what tells the samples that are shown: the content id where all of them are."""
    if not hidden.later and since is None:
        return snapshot.content_id
    return digest([snapshot.content_id, hidden.later, since.content_id if since else ""])


def _new_rows(
    store: Store, snapshot: Snapshot, since: Snapshot, shards: pa.Table
) -> tuple[Rows, dict[int, Rows]]:
    """Return how many rows of each shard come into question, and which of those do not.

    Only shards with new samples come into question, and in them the other rows do not.
    """
    found = diff(Version(store, since), Version(store, snapshot)).new_samples()
    places = pc.index_in(found["path"], value_set=shards["path"].combine_chunks()).to_numpy()
    rows = found["row"].to_numpy()
    samples = np.zeros(len(shards), np.int64)
    touched = np.unique(places)
    samples[touched] = shards["samples"].to_numpy()[touched]
    old = {
        place: np.setdiff1d(np.arange(int(samples[place])), rows[places == place])
        for place in touched.tolist()
    }
    return samples, old


def _hidden_rows(hidden: Hidden, segments: pa.Table) -> dict[int, Rows]:
    """Return the hidden rows of each shard that has some, by its place among ``segments``."""
    if not hidden.by_path:
        return {}
    found = pc.index_in(segments.column("path"), value_set=pa.array(hidden.paths, pa.string()))
    places = np.flatnonzero(found.is_valid().to_numpy())
    return {int(i): hidden.rows(str(segments.column("path")[i])) for i in places}


def _streams_of(layout: ShardLayout) -> list[str]:
    return [stream.name for stream in layout.spec.streams]


def _columns_of(layout: ShardLayout) -> list[str]:
    stored = stored_names(layout.spec)
    return [name for name in layout.schema.names if name not in stored]
