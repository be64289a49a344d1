"""The round trip: some samples of each unit are decoded again and held against their views.

Which ones is a function of the unit's samples: those whose ids have the least keyed hashes. So the
figures depend on nothing else, for each is decoded alone, from its tokens as they are stored.
"""

from __future__ import annotations

import hashlib
import heapq
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from tokenmill.shards.columns import decode_stream
from tokenmill.tokenizers.base import Tokens
from tokenmill.views.base import Array
from tokenmill.worker.pieces import Piece
from tokenmill_schemas.arrow import ShardLayout
from tokenmill_schemas.errors import TokenmillError
from tokenmill_schemas.limits import MOST_PSNR_DB

#: What is measured of a view of which kind; of other kinds nothing is.
METRICS: Mapping[str, str] = {"image": "psnr_db", "clip": "psnr_db", "voxels": "iou"}
#: Views larger than this are passed over: decoders take many times their size.
VIEW_BYTES = 32 * 2**20
#: Makes the hash one of its own: who orders assets by a plain hash of their keys has no influence.
HASH_KEY = b"tokenmill round trip"


@dataclass(frozen=True, slots=True, order=True)
class Candidate:
    """A view that may be chosen: the least ``rank`` are."""

    rank: bytes
    sample_id: str
    row: int
    view: Array = field(compare=False)


def rank_of(sample_id: str) -> bytes:
    """Return what samples are chosen by: the least of their unit."""
    return hashlib.blake2b(sample_id.encode(), digest_size=8, key=HASH_KEY).digest()


@dataclass(slots=True)
class Choice:
    """Keeps the views of the ``count`` samples of least rank, of the assets that were read whole.

    What an asset that is being read may add is kept apart until `keep` or `drop`. ``passed_over``
    counts views that are too large.
    """

    count: int
    passed_over: int = 0
    _kept: list[Candidate] = field(default_factory=list)
    _asset: list[Candidate] = field(default_factory=list)
    _large: int = 0
    _parts: list[Array] = field(default_factory=list)
    _bytes: int = 0

    def see(self, row: int, sample_id: str, piece: Piece) -> None:
        """Take a piece of a view of the asset ``row``."""
        if not self.count:
            return
        rank = rank_of(sample_id)
        if piece.data is not None:
            self._bytes += piece.data.nbytes
            if self._bytes <= VIEW_BYTES and self._is_low(rank):
                self._parts.append(piece.data)
        if piece.coordinates is None:
            return
        parts, size = self._parts, self._bytes
        self._parts, self._bytes = [], 0
        if size > VIEW_BYTES:
            self._large += 1
        elif parts:
            # Its own memory: a view may be a part of something much larger.
            view = np.concatenate(parts) if len(parts) > 1 else parts[0].copy()
            one = Candidate(rank, sample_id, row, view)
            self._asset = heapq.nsmallest(self.count, (*self._asset, one))

    def _is_low(self, rank: bytes) -> bool:
        lower = sum(one.rank < rank for one in (*self._kept, *self._asset))
        return lower < self.count

    def keep(self) -> None:
        """Take what the asset adds: it was read to its end."""
        self._kept = heapq.nsmallest(self.count, (*self._kept, *self._asset))
        self.passed_over += self._large
        self.drop()

    def drop(self) -> None:
        """Leave what the asset would have added."""
        self._asset, self._parts = [], []
        self._large = self._bytes = 0

    def chosen(self, rows: pa.RecordBatch) -> Iterator[tuple[int, Candidate]]:
        """Yield the chosen samples that became rows, with their places among them, in order."""
        places = {name: i for i, name in enumerate(rows.column("sample_id").to_pylist())}
        there = ((places[one.sample_id], one) for one in self._kept if one.sample_id in places)
        yield from sorted(there)


def stored_tokens(rows: pa.RecordBatch, row: int, layout: ShardLayout) -> Tokens:
    """Return a row's tokens as a reader of its shard gets them, with a leading axis of one."""
    sample = rows.slice(row, 1)
    streams = {s.name: decode_stream(sample, s, layout.packing) for s in layout.spec.streams}
    return {
        name: values[0][None] if isinstance(values, list) else np.asarray(values)
        for name, values in streams.items()
    }


def as_view(decoded: Array, original: Array) -> Array:
    """Return what stands for the original where a tokenizer of clips gives back more.

    An image comes back as a clip of one frame, and a clip of one frame as a group of equal ones.
    """
    if decoded.ndim == original.ndim + 1 and len(decoded) == 1:
        frame: Array = decoded[0]
        return frame
    return decoded[:1] if original.ndim == 4 and len(original) == 1 else decoded


def figure(metric: str, original: Array, decoded: Array) -> float:
    """Return how near ``decoded`` comes to ``original``, rounded.

    Rounding makes it the same where kernels differ in a pixel's last bit. ``psnr_db``: over all
    frames and channels of uint8 values, to 0.01 dB and at most `MOST_PSNR_DB`; ``iou``: of two
    occupancies, to 0.0001, 1 when both are empty.

    Raises:
        TokenmillError: the two have different shapes.
    """
    if decoded.shape != original.shape:
        raise TokenmillError(f"decodes to {list(decoded.shape)}, not to {list(original.shape)}")
    if metric == "iou":
        union = int(np.logical_or(original, decoded).sum())
        return round(int(np.logical_and(original, decoded).sum()) / union if union else 1.0, 4)
    # In integers, plane by plane: exact, and without a copy of the whole clip in floats.
    error = sum(_squares(one, other) for one, other in zip(original, decoded, strict=True))
    if not error:
        return MOST_PSNR_DB
    return round(min(MOST_PSNR_DB, 10 * math.log10(255**2 * original.size / error)), 2)


def _squares(one: Array, other: Array) -> int:
    apart = one.astype(np.int32) - other.astype(np.int32)
    return int((apart * apart).sum(dtype=np.int64))
