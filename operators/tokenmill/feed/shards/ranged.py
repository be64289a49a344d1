"""Arrow shards on an object store, read in pieces: any rows of any shards, in any order.

A gather fetches the pieces that it lacks, all at once, and keeps what later gathers will want: the
rows of a window of the block shuffle come from the same few hundred pieces. Pieces lie in the
node's cache, mapped, or in memory where that cannot keep them. They are whole record batches with
all their columns: what of a batch is checked is its sum, and a sum is of all of it.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tokenmill.feed.columns import Chunk, Projection, Values
from tokenmill.feed.shards.fetching import Fetch, this_pool
from tokenmill.feed.shards.files import ShardFiles
from tokenmill.feed.shards.gather import AddressSpan
from tokenmill.feed.shards.held import HeldPieces, Located
from tokenmill.feed.shards.pieces import ShardIndex
from tokenmill.feed.shards.remote import Key, Piece, PieceRef, RemoteShards
from tokenmill.shards.columns import decode_stream, stored_row, unpack_rows

Rows = npt.NDArray[np.int64]

#: Pieces that cannot be kept on disk: more than a window of the block shuffle of 1,024 tokens.
MEMORY_BYTES = 2**30
#: Pieces that are held, each a map of its own; the kernel's limit for a process is 65,530.
HELD_PIECES = 8192
#: Bytes of pieces that were asked for ahead and are not there yet.
AHEAD_BYTES = 256 * 2**20
#: Part of the memory that one gather may fill, for several run at once.
ROUNDS = 4

_SHIFT = 32


@dataclass(frozen=True, slots=True)
class _Wanted:
    """The record batches that a gather needs, and which of them each row is in.

    ``batches`` are the place of a piece in ``pieces`` and the place of the batch in that piece.
    """

    pieces: list[PieceRef]
    batches: list[tuple[int, int]]
    entry: Rows
    within: Rows


class RangedShards:
    """Gathers rows of Arrow shards by range reads; threads may share it."""

    def __init__(
        self, files: ShardFiles, projection: Projection, *, memory_bytes: int = MEMORY_BYTES
    ) -> None:
        self._files = files
        self._projection = projection
        self._memory_bytes = memory_bytes
        packing = projection.layout.packing
        fixed = [s for s in projection.streams if s.is_fixed]
        self._row_bytes = {s.name: stored_row(s, packing)[0] for s in fixed}
        self._names = list(projection.columns)
        for stream in projection.streams:
            if stream.name not in self._row_bytes:
                self._names += projection.stored(stream)
        self.reset()

    def reset(self) -> None:
        """Forget every piece, lock and connection: after a fork, whose child has none of them."""
        self._lock = threading.Lock()
        self._shards = RemoteShards(self._files, tuple(self._row_bytes), tuple(self._names))
        count = len(self._files.manifest.samples)
        self._held = HeldPieces(count, self._row_bytes, columns=bool(self._names))
        self._flying: dict[Key, Fetch[Piece]] = {}
        self._flying_bytes = 0

    @property
    def held_bytes(self) -> int:
        """Bytes of the pieces that are held in memory, for no disk has them."""
        return self._held.bytes[False]

    def gather(self, shards: Rows, rows: Rows, *, share: int) -> Chunk:
        """Return row ``rows[i]`` of shard ``shards[i]`` at place i, in batches of ``share``.

        Raises:
            CorruptShardError: a shard is missing or not what was committed.
            TransientError: the storage failed after its retries.
        """
        with self._lock:
            located = self._held.locate(shards, rows)
        if located is not None:
            return self._chunk(located, share)
        wanted = self._wanted(shards, rows)
        rounds = self._rounds(wanted)
        if len(rounds) == 1:
            return self._chunk(self._fetched(wanted), share)
        parts = []
        for some in rounds:
            found = self._fetched(self._wanted(shards[some], rows[some]))
            parts.append(self._chunk(found, len(some)))
        return _joined(parts, np.concatenate(rounds), share)

    def ahead(self, shards: Rows, rows: Rows) -> None:
        """Have what a later `gather` of these rows will need fetched meanwhile, in the background.

        Costs no wait. It is a hint: past `AHEAD_BYTES` it is forgotten, and what fails is tried
        again when it is needed.
        """
        pool = this_pool()
        for shard, some in _by_shard(shards, rows):
            opening = self._shards.open(shard, pool, urgent=False)
            opening.add_done_callback(partial(self._fetch_ahead, shard, some))

    def _fetch_ahead(self, shard: int, rows: Rows, opening: Future[ShardIndex]) -> None:
        if opening.cancelled() or opening.exception() is not None:
            return
        index = opening.result()
        pieces = {index.piece_of(b) for b in np.unique(rows // index.batch_rows).tolist()}
        with self._lock:
            for piece in sorted(pieces):
                if self._flying_bytes < AHEAD_BYTES and self._held.get((shard, piece)) is None:
                    self._fly(PieceRef(shard, piece, index), urgent=False)

    def _wanted(self, shards: Rows, rows: Rows) -> _Wanted:
        """Find which record batches are needed; opens shards that were not open."""
        numbers, owner = np.unique(shards, return_inverse=True)
        indices = self._shards.open_all(numbers.tolist(), this_pool())
        batch_rows = np.array([index.batch_rows for index in indices], np.int64)[owner]
        batch = rows // batch_rows
        codes, entry = np.unique((owner << _SHIFT) | batch, return_inverse=True)
        places: dict[Key, int] = {}
        refs: list[PieceRef] = []
        batches = []
        for code in codes.tolist():
            number, which = code >> _SHIFT, code & ((1 << _SHIFT) - 1)
            index = indices[number]
            piece = index.piece_of(which)
            place = places.setdefault((number, piece), len(places))
            if place == len(refs):
                refs.append(PieceRef(int(numbers[number]), piece, index))
            batches.append((place, which - index.firsts[piece]))
        return _Wanted(refs, batches, entry, rows - batch * batch_rows)

    def _rounds(self, wanted: _Wanted) -> list[Rows]:
        """Return which rows are gathered at a time, so that their pieces fit into memory."""
        sizes = np.array([ref.size_bytes for ref in wanted.pieces], np.int64)
        limit = max(1, self._memory_bytes // ROUNDS)
        if sizes.sum() <= limit:
            return [np.arange(len(wanted.entry))]
        turn = np.cumsum(sizes) // limit
        piece = np.array([place for place, _ in wanted.batches], np.int64)[wanted.entry]
        return [np.flatnonzero(turn[piece] == t) for t in np.unique(turn[piece]).tolist()]

    def _fetched(self, wanted: _Wanted) -> Located:
        """Return where the rows lie, after fetching what is not held."""
        pieces = self._hold(wanted.pieces)
        addresses = {}
        for name, row_bytes in self._row_bytes.items():
            starts = [pieces[p].addresses[name][b] for p, b in wanted.batches]
            addresses[name] = np.array(starts, np.int64)[wanted.entry] + wanted.within * row_bytes
        batches = [pieces[p].batches[b] for p, b in wanted.batches] if self._names else []
        firsts = np.cumsum([0, *(len(batch) for batch in batches[:-1])])
        index = firsts[wanted.entry] + wanted.within if self._names else wanted.within
        return Located(AddressSpan([piece.data for piece in pieces]), addresses, batches, index)

    def _chunk(self, located: Located, share: int) -> Chunk:
        """Copy the located rows."""
        table = self._take(located)
        packing = self._projection.layout.packing
        streams: dict[str, list[Values]] = {}
        for stream in self._projection.streams:
            if stream.is_fixed:
                size, dtype = stored_row(stream, packing)
                places = located.addresses[stream.name] - located.span.low
                stored = located.span.copy(places, size).view(dtype)
                stored = stored.reshape(-1, size // dtype.itemsize)
                found: Values = unpack_rows(stored, stream, packing)
            else:
                found = decode_stream(table, stream, packing)
            streams[stream.name] = [found[i : i + share] for i in range(0, len(found), share)]
        columns = {name: table.column(name) for name in self._projection.columns}
        return Chunk(streams, columns, share)

    def _take(self, located: Located) -> pa.RecordBatch:
        """Return the columns that are not gathered as bytes, at the located rows."""
        if not self._names:
            return pa.RecordBatch.from_arrays([], names=[])
        table = pa.Table.from_batches(located.batches).take(pa.array(located.index))
        return table.combine_chunks().to_batches()[0]

    def _hold(self, refs: Sequence[PieceRef]) -> list[Piece]:
        """Return pieces, after fetching those that are not there, all at once."""
        found: list[Piece | Fetch[Piece]] = []
        with self._lock:
            for ref in refs:
                held = self._held.get(ref.key)
                found.append(self._fly(ref, urgent=True) if held is None else held)
        return [part if isinstance(part, Piece) else part.result.result() for part in found]

    def _fly(self, ref: PieceRef, *, urgent: bool) -> Fetch[Piece]:
        """Have a piece fetched, unless that is under way; the lock is held."""
        fetch = self._flying.get(ref.key)
        if fetch is None:
            self._flying_bytes += ref.size_bytes
            fetch = self._flying[ref.key] = this_pool().submit(
                partial(self._land, ref), urgent=urgent
            )
        elif urgent:
            this_pool().hurry(fetch)
        return fetch

    def _land(self, ref: PieceRef) -> Piece:
        piece = None
        try:
            piece = self._shards.fetch(ref)
            return piece
        finally:
            with self._lock:
                del self._flying[ref.key]
                self._flying_bytes -= ref.size_bytes
                if piece is not None:
                    self._keep(ref, piece)

    def _keep(self, ref: PieceRef, piece: Piece) -> None:
        """Hold a piece, and let go of some that were not used for longest; the lock is held."""
        self._held.add(ref, piece)
        while len(self._held) > 1 and self._is_too_much():
            self._held.drop_oldest(max(1, len(self._held) // 16))

    def _is_too_much(self) -> bool:
        return (
            len(self._held) > HELD_PIECES
            or self._held.bytes[False] > self._memory_bytes
            # What is mapped cannot be evicted, and other feeds need room too.
            or self._held.bytes[True] > self._files.cache.limit_bytes // 2
        )


def _by_shard(shards: Rows, rows: Rows) -> Iterator[tuple[int, Rows]]:
    """Yield each shard and the rows of it, in the order in which the shards come first."""
    firsts = np.unique(shards, return_index=True)[1]
    for first in np.sort(firsts).tolist():
        yield int(shards[first]), rows[shards == shards[first]]


def _joined(parts: Sequence[Chunk], places: Rows, share: int) -> Chunk:
    """Return chunks of one batch each as one chunk; row i of them all goes to ``places[i]``."""
    back = np.empty_like(places)
    back[places] = np.arange(len(places))
    streams: dict[str, list[Values]] = {}
    for name in parts[0].streams:
        values = [part.streams[name][0] for part in parts]
        if isinstance(values[0], np.ndarray):
            found: Values = np.concatenate(values)[back]
        else:
            flat = [array for some in values for array in some]
            found = [flat[i] for i in back.tolist()]
        streams[name] = [found[i : i + share] for i in range(0, len(found), share)]
    columns = {}
    for name in parts[0].columns:
        whole = pa.chunked_array([part.columns[name] for part in parts])
        columns[name] = whole.take(pa.array(back)).combine_chunks()
    return Chunk(streams, columns, share)
