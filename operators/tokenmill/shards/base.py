"""What a shard format is: a writer that leaves a whole file or nothing, and a reader."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tokenmill_schemas.arrow import ShardLayout


class ShardWriter(Protocol):
    """Writes one shard to a local path; equal batches give equal bytes."""

    def write(self, batch: pa.RecordBatch) -> None:
        """Append rows of the layout's schema (see `tokenmill.shards.columns`)."""
        ...

    def close(self) -> None:
        """Finish the file and flush it to disk."""
        ...

    def discard(self) -> None:
        """Give up and leave no file; nothing happens after `close`."""
        ...


class ShardReader(Protocol):
    """Reads one shard."""

    @property
    def layout(self) -> ShardLayout:
        """The layout that the shard was written with."""
        ...

    @property
    def rows(self) -> int:
        """Number of samples."""
        ...

    def batches(self) -> Iterator[pa.RecordBatch]:
        """Yield all rows in order, as the batches they were written in."""
        ...

    def take(self, stream: str, rows: npt.NDArray[np.int64]) -> npt.NDArray[Any]:
        """Return the tokens of a fixed-shape stream at ``rows``: ``[len(rows), *stream shape]``.

        The order of ``rows`` is kept and repeats are allowed; the result owns its memory.
        """
        ...

    def columns(self, names: list[str], rows: npt.NDArray[np.int64]) -> pa.RecordBatch:
        """Return other columns at ``rows``, in that order."""
        ...

    def close(self) -> None:
        """Release the file."""
        ...


class ShardFormat(Protocol):
    """A shard format; a module of this package whose ``PLUGIN`` names the class."""

    suffix: str

    def writer(self, path: Path, layout: ShardLayout, *, batch_rows: int) -> ShardWriter:
        """Start a shard at a local path."""
        ...

    def reader(self, path: Path) -> ShardReader:
        """Open a shard at a local path.

        Raises:
            CorruptShardError: the file is not a whole shard of this format.
        """
        ...
