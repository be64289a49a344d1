"""What a source is: an ordered listing of assets, and a way to open each."""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO, Protocol, runtime_checkable

import pyarrow as pa

from tokenmill_schemas.asset import AssetRef


@runtime_checkable
class Source(Protocol):
    """A frozen, picklable description of where assets come from.

    Listing the same things twice gives the same batches in the same order, in bounded memory.
    """

    def companions(self) -> pa.Schema:
        """Return the companion columns that every listed asset carries into the store."""
        ...

    def list(self) -> Iterator[pa.RecordBatch]:
        """Yield batches of at most some ten thousand rows of ``listing_schema(companions())``.

        Raises:
            JobError: a place to list does not exist or is not what the job says it is.
        """
        ...

    def open(self, ref: AssetRef) -> BinaryIO:
        """Open an asset's bytes, seekable, from the place that its listing named.

        Raises:
            AssetError: it is not there any more (``not_found``) or cannot be read (``unreadable``).
            TransientError: the storage failed for a passing reason, after its retries.
        """
        ...
