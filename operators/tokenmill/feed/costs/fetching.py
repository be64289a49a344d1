"""What an object store is asked for: requests and bytes, from the sizes of shards alone.

Shards are cut as `feed.shards.pieces` cuts them, with record batches taken to be of one size.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from tokenmill.feed.costs.files import Files
from tokenmill.feed.shards.pieces import BLOCK_BYTES, PIECE_BYTES, SCHEMA_BYTES
from tokenmill.feed.shards.remote import REQUEST_BYTES, WHOLE_BYTES

Rows = npt.NDArray[np.int64]


class Fetched(NamedTuple):
    """Range requests, and the bytes that they bring."""

    requests: int
    bytes: int


@dataclass(frozen=True, slots=True, eq=False)
class Cut:
    """How the files of a part are read in pieces; int64[shards] each.

    ``pieces`` of ``piece_bytes`` and ``piece_requests`` each, which have ``piece_batches`` record
    batches of ``batch_rows``; before them ``end_requests`` bring ``end_bytes`` of a file's end.
    """

    batch_rows: Rows
    pieces: Rows
    piece_batches: Rows
    piece_bytes: Rows
    piece_requests: Rows
    end_requests: Rows
    end_bytes: Rows

    @classmethod
    def of(cls, files: Files) -> Cut:
        """Return how files are cut; those that are not Arrow are read whole."""
        there = files.rows > 0
        batch_rows = np.maximum(files.batch_rows, 1)
        batches = -(-files.rows // batch_rows)
        end = SCHEMA_BYTES + BLOCK_BYTES * batches
        whole = files.bytes <= WHOLE_BYTES
        if files.format != "arrow":
            whole = np.ones_like(there)
        batch_bytes = files.bytes * batch_rows // np.maximum(files.rows, 1)
        each = np.where(whole, batches, -(-PIECE_BYTES // np.maximum(batch_bytes, 1)))
        each = np.maximum(each, 1)
        # A piece that is not full is read with the one before it.
        last = files.rows - batch_rows * (batches - each)
        full = (batches % each > 0) | (last * files.bytes >= PIECE_BYTES * files.rows)
        pieces = np.where(there, np.maximum(batches // each - ~full, 1), 0)
        piece_bytes = files.bytes // np.maximum(pieces, 1)
        requests = -(-piece_bytes // REQUEST_BYTES)
        return cls(
            batch_rows,
            pieces,
            each,
            piece_bytes,
            np.where(whole, 1, requests),
            np.where(whole | ~there, 0, 1),
            np.where(whole | ~there, 0, np.minimum(end, files.bytes)),
        )

    def all_of(self, shards: npt.NDArray[np.bool_]) -> Fetched:
        """Return what reading all of some shards (bool[shards]) costs."""
        requests = self.end_requests + self.pieces * self.piece_requests
        size = self.end_bytes + self.pieces * self.piece_bytes
        return Fetched(int(requests[shards].sum()), int(size[shards].sum()))

    def of_rows(self, shards: Rows, rows: Rows) -> Fetched:
        """Return what reading row ``rows[i]`` of shard ``shards[i]``, for all i, costs."""
        owners = self._touched(shards, rows)[0]
        opened = np.unique(owners)
        requests = self.piece_requests[owners].sum() + self.end_requests[opened].sum()
        size = self.piece_bytes[owners].sum() + self.end_bytes[opened].sum()
        return Fetched(int(requests), int(size))

    def stored_rows(self, shards: Rows, rows: Rows) -> int:
        """Return how many rows lie in the pieces that hold some rows."""
        owners, counts = self._touched(shards, rows)
        return int(counts.sum()) if len(owners) else 0

    def _touched(self, shards: Rows, rows: Rows) -> tuple[Rows, Rows]:
        """Return the shard of each piece that holds some rows, and the rows of the piece."""
        there = self.pieces[shards] > 0
        shards, rows = shards[there], rows[there]
        number = rows // self.batch_rows[shards] // self.piece_batches[shards]
        number = np.minimum(number, self.pieces[shards] - 1)
        starts = np.cumsum(self.pieces) - self.pieces
        keys = np.unique(starts[shards] + number)
        owners = np.searchsorted(starts, keys, side="right") - 1
        return owners, self.batch_rows[owners] * self.piece_batches[owners]
