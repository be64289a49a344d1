"""Noise that a sampler's mistakes resemble: ids replaced by near ones of the codebook.

Latent perturbation of RobustTok (Qiu et al., "Robust Latent Matters", arXiv:2503.08354): a share
``alpha`` of a picture's ids becomes one of the ``delta`` nearest other codes each, in a share
``beta`` of pictures. Their pFID measures a tokenizer by it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tokenmill.feed.columns import Batch
from tokenmill.feed.sequence.draw import Draw
from tokenmill.feed.shaping.common import (
    Array,
    Mask,
    as_ids,
    check_probability,
    problem,
    rows_of,
    stacked,
)

Table = npt.NDArray[np.int32]
#: Distances held at once.
CHUNK_BYTES = 64 * 2**20


def nearest_codes(book: Array, count: int, *, chunk_bytes: int = CHUNK_BYTES) -> Table:
    """Return each code's ``count`` nearest other codes, nearest first: int32[V, count].

    By Euclidean distance in float64; of equal ones the lowest id comes first, so the table is the
    same on every machine but where two distances differ by rounding alone. Needs ``chunk_bytes`` of
    memory however many codes there are.

    Raises:
        JobError: there are not that many other codes.
    """
    if book.ndim != 2 or not 1 <= count < len(book):
        raise problem(f"a codebook {book.shape} has no {count} nearest other codes")
    codes = book.astype(np.float64)
    norms = np.einsum("vd,vd->v", codes, codes)
    rows = max(1, chunk_bytes // (32 * len(codes)))
    tables = []
    for first in range(0, len(codes), rows):
        at = np.arange(first, min(first + rows, len(codes)))
        squared = norms[at, None] + norms - 2 * codes[at] @ codes.T
        squared[np.arange(len(at)), at] = np.inf
        # The products' rounding may shuffle codes at the edge: a margin of them is measured again.
        edge = np.partition(squared, count - 1, axis=1)[:, count - 1]
        margin = 1e-9 * (norms[at] + norms.max())
        where, who = np.nonzero(squared <= (edge + margin)[:, None])
        exact = _distances(codes, at[where], who, chunk_bytes)
        tables.append(_first(where, who, exact, count))
    return np.concatenate(tables)


def _distances(codes: Array, one: Array, other: Array, chunk_bytes: int) -> Array:
    step = max(1, chunk_bytes // (16 * codes.shape[1]))
    out = np.empty(len(one))
    for first in range(0, len(one), step):
        cut = slice(first, first + step)
        difference = codes[one[cut]] - codes[other[cut]]
        out[cut] = (difference**2).sum(axis=1)
    return out


def _first(where: Array, who: Array, distances: Array, count: int) -> Table:
    order = np.lexsort((who, distances, where))
    starts = np.searchsorted(where[order], np.arange(where[-1] + 1))
    return np.asarray(who[order][starts[:, None] + np.arange(count)], np.int32)


@dataclass(frozen=True, slots=True, eq=False)
class Perturb:
    """Replaces a share of ids by near ones: ``name`` stays ``int64[B, ...]``.

    ``"<name>.perturbed"``, bool[B, ...], says where. RobustTok (arXiv:2503.08354).

    Attributes:
        name: a stream of ids.
        table: near codes int32[V, delta], of `nearest_codes`.
        alpha: share of a sample's ids that are replaced.
        beta: share of samples in which any are.
    """

    name: str
    table: Table
    alpha: float
    beta: float = 1.0

    def __post_init__(self) -> None:
        check_probability("alpha", self.alpha)
        check_probability("beta", self.beta)
        if self.table.ndim != 2 or not self.table.shape[1]:
            raise problem(f"near codes are int32[V, delta], got {self.table.shape}")

    @classmethod
    def of(cls, name: str, book: Array, *, delta: int, **settings: Any) -> Perturb:
        """Return the transform for a codebook ``float32[V, D]``, with its table computed."""
        return cls(name, nearest_codes(book, delta), **settings)

    def __call__(self, batch: Batch, draw: Draw) -> Batch:
        """Perturb the stream.

        Raises:
            JobError: an id is not one of the table.
        """
        ids = as_ids(stacked(batch, self.name))
        rows_of(ids, draw, self.name)
        if ids.size and int(ids.max()) >= len(self.table):
            raise problem(f"{self.name!r} has id {ids.max()}, the table {len(self.table)} codes")
        hit = self._hit(draw, ids)
        which = draw.integers(f"perturb/{self.name}", self.table.shape[1], ids[0].size)
        near = self.table[ids, which.reshape(ids.shape)]
        return {**batch, self.name: np.where(hit, near, ids), f"{self.name}.perturbed": hit}

    def _hit(self, draw: Draw, ids: Array) -> Mask:
        name = f"perturb/{self.name}"
        tokens = draw.uniform(f"{name}/tokens", ids[0].size) < self.alpha
        samples = draw.uniform(f"{name}/samples") < self.beta
        return np.asarray((tokens & samples).reshape(ids.shape))
