"""Pieces of shards that are held, laid out flat: rows are located in them without a loop.

Every record batch of a shard of which some piece is held has a place in flat arrays, which say
where its streams begin in memory. It is what `tokenmill.feed.shards.mapped` does with whole shards.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tokenmill.feed.shards.gather import AddressSpan
from tokenmill.feed.shards.remote import Key, Piece, PieceRef

Rows = npt.NDArray[np.int64]

#: Record batches without a held piece that are kept in the arrays before these are made anew.
SPARE_BATCHES = 2**20


@dataclass(frozen=True, slots=True)
class Located:
    """Where some rows lie; stays valid when their pieces are let go.

    ``addresses`` (int64[rows]) are where each row's tokens begin, by stream. ``batches`` are the
    record batches that the rows are in, ``index`` their places in those, laid end to end.
    """

    span: AddressSpan
    addresses: dict[str, Rows]
    batches: list[pa.RecordBatch]
    index: Rows


class HeldPieces:
    """The pieces that are held, by shard and number; whoever uses it holds a lock."""

    def __init__(self, shards: int, row_bytes: dict[str, int], *, columns: bool) -> None:
        self._row_bytes, self._columns = row_bytes, columns
        self._shards = shards
        self._pieces: dict[Key, tuple[PieceRef, Piece, int]] = {}
        self.bytes = {True: 0, False: 0}
        self._tick = 0
        self._used = np.zeros(0, np.int64)
        self._span: AddressSpan | None = None
        self._clear()

    def __len__(self) -> int:
        return len(self._pieces)

    def get(self, key: Key) -> Piece | None:
        """Return a piece, which is used now."""
        found = self._pieces.get(key)
        if found is None:
            return None
        self._used[found[2]] = self._tick
        return found[1]

    def add(self, ref: PieceRef, piece: Piece) -> None:
        """Hold a piece."""
        first = int(self._first[ref.shard])
        if first < 0:
            first = self._open(ref)
        slot = self._free.pop() if self._free else len(self._pieces)
        if slot == len(self._used):
            self._used = np.concatenate([self._used, np.zeros(max(64, slot), np.int64)])
        self._used[slot] = self._tick
        batches = ref.index.batches(ref.number)
        part = slice(first + batches.start, first + batches.stop)
        self._slots[part] = slot
        for name, addresses in piece.addresses.items():
            self._starts[name][part] = addresses
        self._batches[part] = piece.batches
        self._pieces[ref.key] = ref, piece, slot
        self.bytes[piece.mapped] += piece.data.size
        self._span = None

    def drop_oldest(self, count: int) -> None:
        """Let go of the pieces that were not used for longest."""
        oldest = sorted(self._pieces.values(), key=lambda held: int(self._used[held[2]]))
        for ref, piece, slot in oldest[:count]:
            del self._pieces[ref.key]
            first, batches = int(self._first[ref.shard]), ref.index.batches(ref.number)
            part = slice(first + batches.start, first + batches.stop)
            self._slots[part] = -1
            self._batches[part] = [None] * len(batches)
            self._free.append(slot)
            self.bytes[piece.mapped] -= piece.data.size
        self._span = None
        held = sum(len(ref.index.starts) for ref, _, _ in self._pieces.values())
        if self._entries > held + SPARE_BATCHES:
            self._remake()

    def locate(self, shards: Rows, rows: Rows) -> Located | None:
        """Return where row ``rows[i]`` of shard ``shards[i]`` lies; None if one is not held."""
        self._tick += 1
        if not len(rows):
            return None
        entry = self._first[shards]
        if entry.min() < 0:
            return None
        size = self._batch_rows[shards]
        batch = rows // size
        within = rows - batch * size
        entry += batch
        slots = self._slots[entry]
        if slots.min() < 0:
            return None
        self._used[slots] = self._tick
        if self._span is None:
            self._span = AddressSpan([piece.data for _, piece, _ in self._pieces.values()])
        addresses = {
            name: self._starts[name][entry] + within * row_bytes
            for name, row_bytes in self._row_bytes.items()
        }
        batches, index = self._batches_of(entry, within) if self._columns else ([], within)
        return Located(self._span, addresses, batches, index)

    def _batches_of(self, entry: Rows, within: Rows) -> tuple[list[pa.RecordBatch], Rows]:
        entries, place = np.unique(entry, return_inverse=True)
        batches = [self._batches[e] for e in entries.tolist()]
        starts = np.cumsum([0, *(len(batch) for batch in batches[:-1])])
        return batches, starts[place] + within

    def _clear(self) -> None:
        self._first = np.full(self._shards, -1, np.int64)
        self._batch_rows = np.ones(self._shards, np.int64)
        self._entries = 0
        self._slots = np.empty(0, np.int32)
        self._starts = {name: np.empty(0, np.int64) for name in self._row_bytes}
        self._batches: list[pa.RecordBatch | None] = []
        self._used = np.zeros(0, np.int64)
        self._free: list[int] = []
        self._span = None

    def _open(self, ref: PieceRef) -> int:
        """Give a shard's record batches their places; returns the first."""
        first, count = self._entries, len(ref.index.starts)
        self._first[ref.shard], self._batch_rows[ref.shard] = first, ref.index.batch_rows
        self._entries += count
        if self._entries > len(self._slots):
            more = max(count, len(self._slots))
            self._slots = np.concatenate([self._slots, np.full(more, -1, np.int32)])
            for name, starts in self._starts.items():
                self._starts[name] = np.concatenate([starts, np.zeros(more, np.int64)])
            self._batches += [None] * more
        return first

    def _remake(self) -> None:
        held: Sequence[tuple[PieceRef, Piece, int]] = list(self._pieces.values())
        used = self._used
        self._pieces = {}
        self.bytes = {True: 0, False: 0}
        self._clear()
        for ref, piece, slot in held:
            self.add(ref, piece)
            self._used[self._pieces[ref.key][2]] = used[slot]
