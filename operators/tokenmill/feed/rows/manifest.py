"""What a feed knows of a snapshot's shards before it opens one of them."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tokenmill.store.segments import read_segments
from tokenmill.store.tables import WHOLE_BYTES, read_head
from tokenmill_infra.storage.storage import Storage
from tokenmill_schemas.snapshot import FileRef

Rows = npt.NDArray[np.int64]

#: What is known of a file beside its number of rows.
FACTS = ["path", "format", "sha256", "bytes", "batch_rows"]
#: Manifest segments whose facts stay in memory: those of a million shards, in some 150 MB.
OPEN_SEGMENTS = 16


class Manifest(Protocol):
    """The files of a snapshot, by their place in it; threads may share it.

    ``samples`` (int64[shards]) are rows of each file. All files of a snapshot have one format.
    Nothing but the number of rows need be in memory: the rest may be read when it is asked for.
    """

    @property
    def samples(self) -> Rows:
        """Rows of each file: int64[shards]."""
        ...

    @property
    def format(self) -> str:
        """Kind of the files' format, see `tokenmill.shards.read_format`."""
        ...

    def path(self, shard: int) -> str:
        """Return a file's path in the store."""
        ...

    def sha256(self, shard: int) -> str:
        """Return the hash of a file's bytes, in hex."""
        ...

    def bytes(self, shard: int) -> int:
        """Return a file's size in bytes."""
        ...

    def batch_rows(self, shard: int) -> int:
        """Return the rows of a file's record batches, but the last; what its writer was told."""
        ...


@dataclass(frozen=True, slots=True)
class TableManifest:
    """A manifest in memory.

    ``table`` has one row per file with columns of `tokenmill_schemas.snapshot.SEGMENT_SCHEMA`:
    ``path``, ``sha256``, ``bytes`` and ``batch_rows``, of which those that are never asked for may
    lack. A file that a shard has not, for a column group covers only some, is null.
    """

    table: pa.Table
    samples: Rows
    format: str = "arrow"

    def path(self, shard: int) -> str:
        """Return a file's path in the store."""
        return str(self.table.column("path")[shard])

    def sha256(self, shard: int) -> str:
        """Return the hash of a file's bytes, in hex."""
        return str(self.table.column("sha256")[shard])

    def bytes(self, shard: int) -> int:
        """Return a file's size in bytes."""
        return int(self.table.column("bytes")[shard].as_py())

    def batch_rows(self, shard: int) -> int:
        """Return the rows of a file's record batches, but the last; what its writer was told."""
        return int(self.table.column("batch_rows")[shard].as_py())


class SegmentManifest:
    """A manifest on disk: what is known of a file is read with its segment when it is asked for.

    There are no locks, so a fork cannot inherit one that is held: two threads may read the same
    segment, and either's will do.
    """

    def __init__(
        self, storage: Storage, refs: Sequence[FileRef], *, limit: int = OPEN_SEGMENTS
    ) -> None:
        """Read the rows of every shard of some manifest segments.

        Raises:
            CorruptShardError: a segment is missing or changed.
        """
        self._storage, self._refs, self._limit = storage, tuple(refs), limit
        table = read_segments(storage, refs, ["samples"])
        self._samples: Rows = table.column("samples").to_numpy()
        self._ends = list(accumulate(ref.rows for ref in refs))
        self._tables: dict[int, pa.Table] = {}
        # The first shard tells the columns of all: of it alone is asked when a feed is opened.
        self._first = int(np.argmax(self._samples > 0)) if len(self._samples) else 0
        self._head: pa.Table | None = None

    @property
    def samples(self) -> Rows:
        """Rows of each file: int64[shards]."""
        return self._samples

    @property
    def format(self) -> str:
        """Kind of the files' format: that of the first which there is."""
        return str(self._fact("format", self._first))

    def path(self, shard: int) -> str:
        """Return a file's path in the store."""
        return str(self._fact("path", shard))

    def sha256(self, shard: int) -> str:
        """Return the hash of a file's bytes, in hex."""
        return str(self._fact("sha256", shard))

    def bytes(self, shard: int) -> int:
        """Return a file's size in bytes."""
        return int(self._fact("bytes", shard).as_py())

    def batch_rows(self, shard: int) -> int:
        """Return the rows of a file's record batches, but the last; what its writer was told."""
        return int(self._fact("batch_rows", shard).as_py())

    def _fact(self, name: str, shard: int) -> pa.Scalar:
        segment = bisect_right(self._ends, shard)
        row = shard - self._ends[segment] + self._refs[segment].rows
        table = self._tables.get(segment)
        if table is None and shard == self._first:
            table = self._head or read_head(self._storage, self._refs[segment], FACTS, row + 1)
            self._head = table
        elif table is None:
            table = read_segments(self._storage, [self._refs[segment]], FACTS).combine_chunks()
            # Replaced as a whole: others may be looking at it.
            kept = list(self._tables.items())[max(0, len(self._tables) + 1 - self._limit) :]
            self._tables = dict([*kept, (segment, table)])
        return table.column(name)[row]


def open_manifest(storage: Storage, refs: Sequence[FileRef]) -> Manifest:
    """Return the manifest of some segments; small ones, which are read whole, are kept whole.

    Raises:
        CorruptShardError: a segment is missing or changed.
    """
    if any(ref.bytes > WHOLE_BYTES for ref in refs):
        return SegmentManifest(storage, refs)
    table = read_segments(storage, refs, ["samples", *FACTS]).combine_chunks()
    samples: Rows = table.column("samples").to_numpy()
    there = int(np.argmax(samples > 0)) if len(samples) else 0
    kind = str(table.column("format")[there]) if len(samples) else ""
    return TableManifest(table, samples, kind)
