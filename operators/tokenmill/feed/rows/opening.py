"""What a feed opens: which rows of a snapshot it shows, and the readers of their files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tokenmill.feed.columns import Chunk, Projection, check_names
from tokenmill.feed.rows.filters import open_filter
from tokenmill.feed.rows.manifest import Manifest, open_manifest
from tokenmill.feed.rows.plan import Plan
from tokenmill.feed.rows.shown import all_shown, new_shown
from tokenmill.feed.rows.sides import Sides
from tokenmill.feed.shards.files import ShardCache, ShardFiles
from tokenmill.feed.shards.grouped import GroupedShards
from tokenmill.feed.shards.mapped import MappedShards
from tokenmill.feed.shards.ranged import RangedShards
from tokenmill.shards.select import stored_layout
from tokenmill.store import Store
from tokenmill.store.groups.names import stored_names
from tokenmill.store.hidden import Hidden
from tokenmill_schemas.arrow import ShardLayout, values_per_sample
from tokenmill_schemas.canonical import digest
from tokenmill_schemas.errors import StoreError
from tokenmill_schemas.snapshot import Snapshot
from tokenmill_schemas.tokens import Stream

Rows = npt.NDArray[np.int64]

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

    With ``since`` only the samples that are new since that version, see `tokenmill.store.diff`;
    with ``where`` only those for which that filter is true, see `tokenmill_schemas.where`. With
    ``taken`` as it was when there were so many takedowns, for bookkeeping and not for reading.
    """

    streams: tuple[str, ...] | None
    columns: tuple[str, ...]
    since: Snapshot | None = None
    where: str = ""
    taken: int | None = None


@dataclass(frozen=True, slots=True)
class Opened:
    """A snapshot, ready to be read.

    ``identity`` tells its content and what of it is hidden, ``where`` the canonical text of the
    filter over it ("" none), ``groups`` which column groups are read, ``uncovered`` how many
    samples are not shown, whatever the filter, for want of values in one of those. ``manifest``
    knows the shards' files, and how many rows they have, hidden ones included. ``kinds`` are the
    types of ``columns``. ``taken`` is the number of the takedown up to which anything is hidden
    beyond the version's own tombstones.
    """

    snapshot: Snapshot
    identity: str
    where: str
    groups: tuple[str, ...]
    uncovered: int
    plan: Plan
    shards: Shards
    streams: tuple[Stream, ...]
    columns: tuple[str, ...]
    kinds: tuple[pa.DataType, ...]
    manifest: Manifest
    taken: int

    @property
    def samples(self) -> Rows:
        """Stored rows of each shard, hidden ones included: int64[shards]."""
        return self.manifest.samples


def open_snapshot(store: Store, snapshot: Snapshot, wanted: Wanted, cache: ShardCache) -> Opened:
    """Open a snapshot; reads how many rows its shards have and what columns, but no sample.

    With a filter, the columns that it names are read.

    Raises:
        JobError: there is no such stream or column, or the filter is none; names the nearest one.
        StoreError: the snapshot has no shard, or one is missing or damaged.
    """
    manifest = open_manifest(store.storage, snapshot.segments)
    layout, hidden = _layout(store, snapshot, manifest), store.hidden(snapshot, wanted.taken)
    own, chosen = _choose(snapshot, layout, wanted)
    sides = Sides(store, snapshot, manifest.samples)
    chooser = open_filter(wanted.where, layout, manifest, sides)
    if wanted.since is None:
        shown = all_shown(store, snapshot, hidden, manifest.samples)
    else:
        shown = new_shown(store, snapshot, wanted.since, manifest.samples)
    covered = shown.covered_by([sides.open(name) for name in chosen])
    parts: list[tuple[Manifest, Projection]] = [
        (side.manifest, Projection.of(side.layout, some.streams, some.columns))
        for side, some in ((sides.open(name), some) for name, some in chosen.items())
    ]
    if not chosen or own.streams or own.columns:
        parts.insert(0, (manifest, own))
    readers = [_reader(ShardFiles(store.storage, files, cache), some) for files, some in parts]
    streams, columns = _in_order([projection for _, projection in parts], wanted)
    kinds = {n: some.layout.schema.field(n).type for _, some in parts for n in some.columns}
    return Opened(
        snapshot=snapshot,
        identity=_identity(snapshot, hidden, wanted.since),
        where=str(chooser.where) if chooser else "",
        groups=tuple(chosen),
        uncovered=shown.rows - covered.rows,
        plan=covered.plan() if chooser is None else chooser.plan(store.storage, covered),
        shards=JoinedShards(readers, streams, columns) if chosen else readers[0],
        streams=streams,
        columns=columns,
        kinds=tuple(kinds[name] for name in columns),
        manifest=manifest,
        taken=hidden.taken,
    )


def _layout(store: Store, snapshot: Snapshot, manifest: Manifest) -> ShardLayout:
    if not manifest.samples.any():
        raise StoreError(f"snapshot {snapshot.number} has no samples", uri=store.uri)
    return stored_layout(store.storage, manifest.path(int(np.argmax(manifest.samples > 0))))


@runtime_checkable
class RemoteShards(Shards, Protocol):
    """Shards that take time to be fetched, and want to know early which rows will be gathered."""

    def ahead(self, shards: Rows, rows: Rows) -> None:
        """Begin to fetch what a later `gather` of these rows needs; does not wait."""
        ...


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

    def ahead(self, shards: Rows, rows: Rows) -> None:
        """Begin to fetch what a later `gather` of these rows needs; does not wait."""
        for reader in self._readers:
            if isinstance(reader, RemoteShards):
                reader.ahead(shards, rows)

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


def _in_order(
    projections: Sequence[Projection], wanted: Wanted
) -> tuple[tuple[Stream, ...], tuple[str, ...]]:
    """Return the streams and columns that are read, in the order in which they were asked for."""
    found = {stream.name: stream for part in projections for stream in part.streams}
    names = found if wanted.streams is None else wanted.streams
    return tuple(found[name] for name in names), wanted.columns


def _reader(
    files: ShardFiles, projection: Projection
) -> MappedShards | RangedShards | GroupedShards:
    """Return a fast reader if the shards are Arrow files, else the one for any format."""
    if files.manifest.format == "arrow":
        if files.are_remote:
            return RangedShards(files, projection)
        return MappedShards(files, files.manifest.samples, projection)
    return GroupedShards(files, projection)


def _identity(snapshot: Snapshot, hidden: Hidden, since: Snapshot | None) -> str:
    """Return what tells the samples that are shown: the content id where all of them are."""
    if not hidden.later and since is None:
        return snapshot.content_id
    return digest([snapshot.content_id, hidden.later, since.content_id if since else ""])


def _streams_of(layout: ShardLayout) -> list[str]:
    return [stream.name for stream in layout.spec.streams]


def _columns_of(layout: ShardLayout) -> list[str]:
    stored = stored_names(layout.spec)
    return [name for name in layout.schema.names if name not in stored]
