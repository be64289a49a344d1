"""What a feed knows of a snapshot's shards before it opens one of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

Rows = npt.NDArray[np.int64]


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
