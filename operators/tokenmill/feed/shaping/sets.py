"""Unordered sets and sparse voxels: order, size, coordinates, and coordinates beside a payload.

Sets of latents (3DShape2VecSet, arXiv:2301.11445; TripoSG, arXiv:2502.06608) and bags of tokens
(TiTok, arXiv:2406.07550) have no order to learn; sparse voxels carry one (TRELLIS,
arXiv:2412.01506).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from tokenmill.feed.columns import Batch
from tokenmill.feed.sequence.draw import Draw
from tokenmill.feed.shaping.common import Array, Floats, Ids, each, problem, rows_of, values_of


def scale_coords(coords: Array, size: int, *, centres: bool = True) -> Floats:
    """Return cells ``0 .. size-1`` as float32: their centres in (-1, 1), or ends at -1 and 1."""
    if size < 2:
        raise problem(f"coordinates have at least two cells, got {size}")
    wide = coords.astype(np.float32)
    scaled = (wide + 0.5) * 2 / size if centres else wide * 2 / (size - 1)
    return np.asarray(scaled - 1, np.float32)


def coord_order(coords: Array, kind: Literal["raster", "z_curve"], *, bits: int = 21) -> Ids:
    """Return the order int64[n] of points ``[n, D]``: by first axis, then second ...; or Morton's.

    Equal points keep their order.
    """
    if kind == "raster":
        return np.lexsort(coords.T[::-1])
    wide, d = coords.astype(np.int64), coords.shape[-1]
    code = np.zeros(len(coords), np.int64)
    for bit in range(min(bits, 63 // d)):
        for axis in range(d):
            code |= ((wide[:, axis] >> bit) & 1) << (bit * d + d - 1 - axis)
    return np.argsort(code, kind="stable")


@dataclass(frozen=True, slots=True)
class ShuffleSet:
    """Gives aligned streams ``[n, ...]`` one random order, a new one every step.

    For bags (TiTok, arXiv:2406.07550) and sets (3DShape2VecSet, arXiv:2301.11445).
    ``"<first name>.order"`` is the order. With ``keep`` only that many elements are shown (VecSet
    models train on varying n): n is then ``keep``.

    Attributes:
        names: streams with one element for each position, in a list or stacked.
        keep: how many elements are kept; 0 keeps all.
    """

    names: tuple[str, ...]
    keep: int = 0

    def __post_init__(self) -> None:
        if not self.names or self.keep < 0:
            raise problem(f"cannot shuffle {self.names} and keep {self.keep}")

    def __call__(self, batch: Batch, draw: Draw) -> Batch:
        """Shuffle the streams.

        Raises:
            JobError: they have different numbers of elements, or too few to keep.
        """
        columns = {name: values_of(batch, name) for name in self.names}
        rows_of(next(iter(columns.values())), draw, self.names[0])
        sizes = [[len(one) for one in column] for column in columns.values()]
        if any(size != sizes[0] for size in sizes):
            raise problem(f"{list(self.names)} have different numbers of elements")
        if min(sizes[0], default=self.keep) < self.keep:
            raise problem(f"{self.names[0]!r} has {min(sizes[0])} elements, keep is {self.keep}")
        words = draw.words(f"set/{self.names[0]}", max(sizes[0], default=0))
        orders = [np.argsort(w[:n], kind="stable") for w, n in zip(words, sizes[0], strict=True)]
        orders = [order[: self.keep] if self.keep else order for order in orders]
        new = {name: _taken(column, orders) for name, column in columns.items()}
        return {**batch, **new, f"{self.names[0]}.order": _joined(orders)}


@dataclass(frozen=True, slots=True)
class SortSet:
    """Gives aligned streams the order of their coordinates: raster, or Morton's curve.

    Octree and voxel models (OctGPT, arXiv:2504.09975) read cells along such curves.
    """

    coords: str
    names: tuple[str, ...] = ()
    kind: Literal["raster", "z_curve"] = "raster"

    def __call__(self, batch: Batch, draw: Draw) -> Batch:
        """Sort the coordinates and what is aligned with them."""
        del draw
        orders = [coord_order(one, self.kind) for one in values_of(batch, self.coords)]
        names = (self.coords, *self.names)
        return {**batch, **{name: _taken(values_of(batch, name), orders) for name in names}}


@dataclass(frozen=True, slots=True)
class ScaleCoords:
    """Makes float32 coordinates in (-1, 1) of cells of a cube of ``size`` cells a side.

    TRELLIS (arXiv:2412.01506): 64 of them.
    """

    name: str
    size: int

    def __call__(self, batch: Batch, draw: Draw) -> Batch:
        """Replace the stream."""
        del draw
        values = values_of(batch, self.name)
        return {**batch, self.name: each(values, lambda v: scale_coords(v, self.size))}


@dataclass(frozen=True, slots=True)
class JoinPoints:
    """Puts coordinates before their payload: ``float32[n, D + C]`` of ``[n, D]`` and ``[n, C]``.

    TRELLIS' structured latents (arXiv:2412.01506) as one vector a voxel.
    """

    coords: str
    payload: str
    into: str

    def __call__(self, batch: Batch, draw: Draw) -> Batch:
        """Add the joined stream.

        Raises:
            JobError: a sample has other numbers of points and payloads.
        """
        del draw
        points, payloads = values_of(batch, self.coords), values_of(batch, self.payload)
        if [len(p) for p in points] != [len(p) for p in payloads]:
            raise problem(f"{self.coords!r} and {self.payload!r} have different numbers of points")
        joined = [
            np.concatenate([p.astype(np.float32), q.reshape(len(q), -1).astype(np.float32)], axis=1)
            for p, q in zip(points, payloads, strict=True)
        ]
        if isinstance(points, list) or isinstance(payloads, list):
            return {**batch, self.into: joined}
        return {**batch, self.into: np.stack(joined)}


def _taken(values: Array | list[Array], orders: list[Ids]) -> Array | list[Array]:
    taken = [one[order] for one, order in zip(values, orders, strict=True)]
    return taken if isinstance(values, list) else _joined(taken)


def _joined(arrays: list[Array]) -> Array | list[Array]:
    same = len({array.shape for array in arrays}) == 1
    return np.stack(arrays) if same else arrays
