"""The Arrow shards of a snapshot on an object store: their footers, and pieces of them.

A shard of up to a megabyte is one piece, read whole and checked by its sha256. Of a larger one the
footer is read first, by one request of its end, and then the pieces that are asked for.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import TypeVar

import pyarrow as pa

from tokenmill.feed.shards.fetching import Fetch, FetchPool
from tokenmill.feed.shards.files import ShardFiles, told, whole_shard
from tokenmill.feed.shards.node_cache import Block, Kept
from tokenmill.feed.shards.pieces import ShardIndex, footer_bytes, read_index, tail_bytes
from tokenmill_infra.storage.direct import DirectRanges
from tokenmill_schemas.errors import CorruptShardError

T = TypeVar("T")

#: Shards up to so many bytes are read in one request.
WHOLE_BYTES = 2**20
#: The most bytes of one request; a piece that is larger is one record batch, read in several.
REQUEST_BYTES = 4 * 2**20
#: Footers that are held: about 40 bytes a record batch.
OPEN_SHARDS = 4096
#: Small shards whose bytes came with their footer and were not yet asked for.
FRESH_SHARDS = 256

Key = tuple[int, int]


@dataclass(frozen=True, slots=True)
class PieceRef:
    """A piece of an open shard."""

    shard: int
    number: int
    index: ShardIndex

    @property
    def key(self) -> Key:
        """The piece's name in this snapshot."""
        return self.shard, self.number

    @property
    def size_bytes(self) -> int:
        """Bytes of the piece."""
        start, stop = self.index.span(self.number)
        return stop - start


@dataclass(frozen=True, slots=True)
class Piece:
    """A piece's bytes, columns of its record batches, and where their fixed streams begin."""

    data: pa.Buffer
    mapped: bool
    batches: tuple[pa.RecordBatch, ...]
    addresses: dict[str, tuple[int, ...]]


class RemoteShards:
    """Opens shards and fetches pieces of them; threads may share it."""

    def __init__(
        self, files: ShardFiles, streams: Sequence[str], columns: Sequence[str] = ()
    ) -> None:
        """Take the streams whose addresses, and the columns whose arrays pieces have."""
        self._files, self._streams, self._columns = files, streams, list(columns)
        self._ranges = DirectRanges(files.storage)
        self._lock = threading.Lock()
        self._open: OrderedDict[int, ShardIndex] = OrderedDict()
        self._opening: dict[int, Fetch[ShardIndex]] = {}
        self._fresh: OrderedDict[int, Kept] = OrderedDict()

    def open_all(self, shards: Sequence[int], pool: FetchPool) -> list[ShardIndex]:
        """Return the indices of shards; fetches what is missing, all at once.

        Raises:
            CorruptShardError: a shard is missing or not what was committed.
        """
        return [found.result() for found in [self.open(s, pool, urgent=True) for s in shards]]

    def open(self, shard: int, pool: FetchPool, *, urgent: bool) -> Future[ShardIndex]:
        """Return a shard's index, or who is going to fetch it."""
        with self._lock:
            if shard in self._open:
                self._open.move_to_end(shard)
                done: Future[ShardIndex] = Future()
                done.set_result(self._open[shard])
                return done
            fetch = self._opening.get(shard)
            if fetch is None:
                fetch = pool.submit(lambda: self._opened(shard), urgent=urgent)
                self._opening[shard] = fetch
            elif urgent:
                pool.hurry(fetch)
            return fetch.result

    def fetch(self, ref: PieceRef) -> Piece:
        """Return a piece, from the node's cache or the storage.

        Raises:
            CorruptShardError: the shard is missing or not what was committed.
        """
        with self._lock:
            kept = self._fresh.pop(ref.shard, None)
        if kept is not None or self._is_whole(ref.shard):
            kept = kept or self._whole(ref.shard)
            start, stop = ref.index.span(ref.number)
            data = kept.data.slice(start, stop - start)
        else:
            kept = self._piece(ref)
            data = kept.data
        read = self._naming(ref.shard, lambda data: tuple(ref.index.read(ref.number, data)))
        batches = read(data)
        addresses = {
            name: tuple(batch.column(name).buffers()[-1].address for batch in batches)
            for name in self._streams
        }
        chosen = tuple(batch.select(self._columns) for batch in batches)
        return Piece(kept.data, kept.file is not None, chosen, addresses)

    def _opened(self, shard: int) -> ShardIndex:
        try:
            index = self._open_whole(shard) if self._is_whole(shard) else self._open_end(shard)
            with self._lock:
                self._open[shard] = index
                while len(self._open) > OPEN_SHARDS:
                    self._open.popitem(last=False)
            return index
        finally:
            with self._lock:
                del self._opening[shard]

    def _open_whole(self, shard: int) -> ShardIndex:
        kept = self._whole(shard)
        index = self._index(shard, kept.data)
        with self._lock:
            self._fresh[shard] = kept
            while len(self._fresh) > FRESH_SHARDS:
                self._fresh.popitem(last=False)
        return replace(index, firsts=(0, len(index.starts)))

    def _open_end(self, shard: int) -> ShardIndex:
        manifest = self._files.manifest
        size, rows = manifest.bytes(shard), int(manifest.samples[shard])
        start = size - tail_bytes(size, rows, manifest.batch_rows(shard))
        end = self._range(shard, start, size, check=self._naming(shard, _check_end)).data
        start = size - self._naming(shard, footer_bytes)(end)
        if start < size - end.size:  # the columns have much to say
            check = self._naming(shard, _check_end)
            end = self._range(shard, max(0, start), size, check=check).data
        return self._index(shard, end)

    def _index(self, shard: int, end: pa.Buffer) -> ShardIndex:
        manifest = self._files.manifest
        facts = manifest.bytes(shard), int(manifest.samples[shard]), manifest.batch_rows(shard)
        return self._naming(shard, lambda data: read_index(data, *facts))(end)

    def _is_whole(self, shard: int) -> bool:
        return self._files.manifest.bytes(shard) <= WHOLE_BYTES

    def _whole(self, shard: int) -> Kept:
        path, size = self._files.path(shard), self._files.manifest.bytes(shard)
        read = lambda: self._ranges.read(path, 0, size)  # noqa: E731
        return self._files.cache.get(whole_shard(self._files, shard, read))

    def _piece(self, ref: PieceRef) -> Kept:
        check = self._naming(ref.shard, lambda data: ref.index.check(ref.number, data))
        return self._range(ref.shard, *ref.index.span(ref.number), check=check)

    def _range(
        self, shard: int, start: int, stop: int, *, check: Callable[[pa.Buffer], None]
    ) -> Kept:
        """Return the bytes ``[start, stop)`` of a shard, by requests of at most some megabytes."""
        path = self._files.path(shard)

        def read() -> bytes | bytearray:
            cuts = range(start, stop, REQUEST_BYTES)
            parts = [self._ranges.read(path, at, min(at + REQUEST_BYTES, stop)) for at in cuts]
            return parts[0] if len(parts) == 1 else b"".join(parts)

        fetch = lambda: pa.py_buffer(told(self._files, path, read))  # noqa: E731
        name = f"{self._files.manifest.sha256(shard)}.{start}-{stop}"
        return self._files.cache.get(
            Block(name, stop - start, fetch, check, self._files.uri(shard))
        )

    def _naming(self, shard: int, call: Callable[[pa.Buffer], T]) -> Callable[[pa.Buffer], T]:
        """Return ``call`` with the shard's name in what it raises."""

        def named(data: pa.Buffer) -> T:
            try:
                return call(data)
            except CorruptShardError as error:
                raise CorruptShardError(str(error), uri=self._files.uri(shard)) from error

        return named


def _check_end(data: pa.Buffer) -> None:
    footer_bytes(data)
