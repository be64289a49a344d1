"""Statistics of one stream, by its kind: counts of ids, of bits, moments of latents.

Index streams count every id up to `HISTOGRAM_IDS`; larger vocabularies are counted in that many
hashed buckets, whose entropy is a lower bound of the ids' (`IndexStatistics.is_exact` says so),
beside a bitmap that keeps the number of distinct ids exact up to `BITMAP_IDS` and estimated by
linear counting (Whang, Vander-Zanden and Taylor, 1990) above.
"""

from __future__ import annotations

import base64
import math
import zlib
from collections.abc import Mapping
from typing import Any, ClassVar, Protocol

import numpy as np
import numpy.typing as npt

HISTOGRAM_IDS = 2**16
BITMAP_IDS = 2**20


class StreamStatistics(Protocol):
    """What the statistics of one stream can do, whatever its kind."""

    kind: ClassVar[str]

    def add(self, values: npt.NDArray[Any]) -> None:
        """Count a batch ``[B, *stream shape]``."""
        ...

    def merge(self, other: Any) -> None:
        """Add the counts of another part of the same stream."""
        ...

    def to_json(self) -> dict[str, Any]:
        """Return a JSON value that `from_json` of the same class takes."""
        ...


class IndexStatistics:
    """Counts of the ids of an index stream.

    ``books`` are the vocabulary sizes of the entries of the last axis; with more than one, ids are
    counted apart, each book's after the one before.
    """

    kind: ClassVar[str] = "index"

    def __init__(self, books: tuple[int, ...]) -> None:
        self.books = books
        self.counts = np.zeros(min(self.vocab, HISTOGRAM_IDS), np.int64)
        bitmap_ids = self.vocab if HISTOGRAM_IDS < self.vocab <= BITMAP_IDS else 0
        self.used = np.zeros(bitmap_ids, np.bool_)

    @property
    def vocab(self) -> int:
        """Number of ids that could occur, of all books together."""
        return sum(self.books)

    @property
    def tokens(self) -> int:
        """Number of ids counted."""
        return int(self.counts.sum())

    @property
    def is_exact(self) -> bool:
        """Whether ``counts[id]`` counts that id alone, so that the entropy is no lower bound."""
        return self.vocab <= HISTOGRAM_IDS

    @property
    def distinct_is_exact(self) -> bool:
        """Whether `distinct` is a count and not an estimate."""
        return self.vocab <= BITMAP_IDS

    @property
    def distinct(self) -> int:
        """Number of different ids seen."""
        if self.used.size:
            return int(self.used.sum())
        filled = int(np.count_nonzero(self.counts))
        if self.is_exact:
            return filled
        buckets = self.counts.size
        return round(buckets * math.log(buckets / max(1, buckets - filled)))

    @property
    def entropy_bits(self) -> float:
        """Shannon entropy of an id at one position, in bits; a lower bound unless `is_exact`.

        Every book has the same share of the ids, so the share's own entropy is taken off.
        """
        total = self.tokens
        if total == 0:
            return 0.0
        shares = self.counts[self.counts > 0] / total
        joint = float(-(shares * np.log2(shares)).sum())
        return max(0.0, joint - math.log2(len(self.books)))

    def top(self, count: int) -> list[tuple[int, int]]:
        """Return the most frequent ids with their counts; empty unless `is_exact`."""
        if not self.is_exact:
            return []
        order = np.argsort(-self.counts, kind="stable")[:count]
        return [(int(i), int(self.counts[i])) for i in order if self.counts[i]]

    def add(self, values: npt.NDArray[Any]) -> None:
        """Count a batch of ids.

        Raises:
            ValueError: an id is outside the vocabulary: the encoder is not what its spec says.
        """
        if not values.size:
            return
        if int(values.min()) < 0 or (values >= np.asarray(self._limits)).any():
            raise ValueError(
                f"ids {values.min()} to {values.max()} do not fit vocabulary sizes {self.books}"
            )
        ids = values.astype(np.int64)
        if len(self.books) > 1:
            ids += np.concatenate([[0], np.cumsum(self.books[:-1])])
        flat = ids.ravel()
        if self.used.size:
            self.used[flat] = True
        self.counts += np.bincount(self._buckets(flat), minlength=self.counts.size)

    @property
    def _limits(self) -> int | tuple[int, ...]:
        return self.books if len(self.books) > 1 else max(self.books)

    def _buckets(self, ids: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        if self.is_exact:
            return ids
        return (_mix(ids.astype(np.uint64)) % np.uint64(HISTOGRAM_IDS)).astype(np.int64)

    def merge(self, other: IndexStatistics) -> None:
        """Add another part's counts.

        Raises:
            ValueError: the parts have different vocabularies.
        """
        if other.books != self.books:
            raise ValueError(f"cannot merge vocabularies {self.books} and {other.books}")
        self.counts += other.counts
        self.used |= other.used

    def to_json(self) -> dict[str, Any]:
        """Return the counts, compressed; a bitmap only where the counts are hashed."""
        value = {"kind": self.kind, "books": list(self.books), "counts": _pack_counts(self.counts)}
        if self.used.size:
            value["used"] = _pack(np.packbits(self.used).tobytes())
        return value

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> IndexStatistics:
        """Return what `to_json` wrote."""
        found = cls(tuple(value["books"]))
        found.counts += _unpack_counts(value["counts"])
        if found.used.size:
            bits = np.frombuffer(_unpack(value["used"]), np.uint8)
            found.used |= np.unpackbits(bits, count=found.used.size).astype(np.bool_)
        return found


class BitStatistics:
    """How often each bit of a binary code is one."""

    kind: ClassVar[str] = "bits"

    def __init__(self, width_bits: int) -> None:
        self.ones = np.zeros(width_bits, np.int64)
        self.tokens = 0

    @property
    def mean(self) -> npt.NDArray[np.float64]:
        """Share of ones of each bit, ``float64[width_bits]``."""
        return self.ones / max(1, self.tokens)

    @property
    def entropy_bits(self) -> float:
        """Sum of the bits' own entropies: an upper bound of a code's entropy."""
        p = self.mean[(self.ones > 0) & (self.ones < self.tokens)]
        return float(-(p * np.log2(p) + (1 - p) * np.log2(1 - p)).sum())

    def add(self, values: npt.NDArray[Any]) -> None:
        """Count a batch ``uint8[B, ..., width_bits]`` of zeros and ones.

        Raises:
            ValueError: a value is neither.
        """
        if values.size and not 0 <= int(values.min()) <= int(values.max()) <= 1:
            raise ValueError(f"bits must be 0 or 1, got {values.min()} to {values.max()}")
        codes = values.reshape(-1, self.ones.size)
        self.ones += codes.sum(axis=0, dtype=np.int64)
        self.tokens += len(codes)

    def merge(self, other: BitStatistics) -> None:
        """Add another part's counts."""
        if other.ones.size != self.ones.size:
            raise ValueError(f"cannot merge codes of {self.ones.size} and {other.ones.size} bits")
        self.ones += other.ones
        self.tokens += other.tokens

    def to_json(self) -> dict[str, Any]:
        """Return the counts."""
        return {"kind": self.kind, "tokens": self.tokens, "ones": self.ones.tolist()}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> BitStatistics:
        """Return what `to_json` wrote."""
        found = cls(len(value["ones"]))
        found.ones += np.asarray(value["ones"], np.int64)
        found.tokens = int(value["tokens"])
        return found


class FloatStatistics:
    """Mean and standard deviation of each channel of a latent; non-finite values are counted apart.

    Parts are joined as by Chan, Golub and LeVeque (1979), so that no large sums cancel.
    """

    kind: ClassVar[str] = "float"

    def __init__(self, channels: int) -> None:
        self.counts = np.zeros(channels, np.int64)
        self.mean = np.zeros(channels)
        self.squares = np.zeros(channels)  # sum of squared differences from the mean
        self.nonfinite = 0
        self.tokens = 0

    @property
    def std(self) -> npt.NDArray[np.float64]:
        """Standard deviation of each channel (of the population), ``float64[channels]``."""
        return np.sqrt(self.squares / np.maximum(1, self.counts))

    def add(self, values: npt.NDArray[Any]) -> None:
        """Count a batch ``[B, ..., channels]``; ``uint16`` values are the bits of bfloat16."""
        if values.dtype == np.uint16:
            values = (values.astype(np.uint32) << 16).view(np.float32)
        rows = values.reshape(-1, self.mean.size).astype(np.float64)
        finite = np.isfinite(rows)
        rows = np.where(finite, rows, 0.0)
        counts = finite.sum(axis=0)
        mean = rows.sum(axis=0) / np.maximum(1, counts)
        squares = (np.where(finite, rows - mean, 0.0) ** 2).sum(axis=0)
        self._join(counts, mean, squares)
        self.nonfinite += int(rows.size - counts.sum())
        self.tokens += len(rows)

    def _join(
        self,
        counts: npt.NDArray[np.int64],
        mean: npt.NDArray[np.float64],
        squares: npt.NDArray[np.float64],
    ) -> None:
        total = self.counts + counts
        share = counts / np.maximum(1, total)
        apart = mean - self.mean
        self.squares += squares + apart**2 * self.counts * share
        self.mean += apart * share
        self.counts = total

    def merge(self, other: FloatStatistics) -> None:
        """Join another part's moments."""
        if other.mean.size != self.mean.size:
            raise ValueError(f"cannot merge {self.mean.size} and {other.mean.size} channels")
        self._join(other.counts, other.mean, other.squares)
        self.nonfinite += other.nonfinite
        self.tokens += other.tokens

    def to_json(self) -> dict[str, Any]:
        """Return the moments."""
        arrays = {"counts": self.counts, "mean": self.mean, "squares": self.squares}
        value = {name: array.tolist() for name, array in arrays.items()}
        return {"kind": self.kind, "tokens": self.tokens, "nonfinite": self.nonfinite} | value

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> FloatStatistics:
        """Return what `to_json` wrote."""
        found = cls(len(value["mean"]))
        found.counts = np.asarray(value["counts"], np.int64)
        found.mean = np.asarray(value["mean"], np.float64)
        found.squares = np.asarray(value["squares"], np.float64)
        found.nonfinite, found.tokens = int(value["nonfinite"]), int(value["tokens"])
        return found


def _pack(data: bytes) -> str:
    return base64.b64encode(zlib.compress(data, 6)).decode()


def _unpack(text: str) -> bytes:
    return zlib.decompress(base64.b64decode(text))


def _pack_counts(counts: npt.NDArray[np.int64]) -> str:
    dtype = "<u4" if int(counts.max(initial=0)) < 2**32 else "<u8"
    return f"{dtype}:{_pack(counts.astype(dtype).tobytes())}"


def _unpack_counts(text: str) -> npt.NDArray[np.int64]:
    dtype, _, packed = text.partition(":")
    return np.frombuffer(_unpack(packed), dtype).astype(np.int64)


def _mix(ids: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Hash 64-bit integers with the finalizer of SplitMix64 (Steele, Lea and Flood, 2014)."""
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        ids = (ids ^ (ids >> np.uint64(shift))) * np.uint64(factor)
    return ids ^ (ids >> np.uint64(31))
