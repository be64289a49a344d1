"""Orders in which the positions of a grid are shown, as permutations, and their inverses.

``order[i]`` is the raster position of the i-th token shown: ``shown = raster[order]``. A trainer
that gives the model positions reads them from ``"<stream>.order"``.

Raster, alternating rows, Z-curve and spirals were compared by Esser et al. (VQGAN,
arXiv:2012.09841, appendix); near-to-far is the order of Neighboring Autoregressive Modeling (NAR,
arXiv:2503.10696); random orders annealed into raster are RAR's (arXiv:2411.00776); reversed
diffusion-time order is Selftok's (arXiv:2505.07538); Hilbert's curve is Hilbert 1891.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np

from tokenmill.feed.columns import Batch
from tokenmill.feed.sequence.draw import Draw
from tokenmill.feed.shaping.common import (
    Array,
    Ids,
    problem,
    rows_of,
    stacked,
    values_of,
)

Kind = Literal[
    "raster", "reversed", "alternate", "z_curve", "hilbert", "spiral_out", "spiral_in",
    "near_to_far", "near_to_far_centre",
]  # fmt: skip
Grid = tuple[int, ...]


def raster(grid: Grid) -> Ids:
    """Return ``0 .. n-1``, the last axis fastest: int64[n]."""
    return np.arange(int(np.prod(grid)))


def reverse(grid: Grid) -> Ids:
    """Return ``n-1 .. 0``: int64[n]."""
    return raster(grid)[::-1].copy()


def alternate(grid: Grid) -> Ids:
    """Return rows read forth and back in turns (boustrophedon): int64[n]."""
    rows = raster(grid).reshape(-1, grid[-1])
    rows[1::2] = rows[1::2, ::-1].copy()
    return rows.reshape(-1)


def z_curve(grid: Grid) -> Ids:
    """Return Morton's order, of any grid (cells outside of it are left out): int64[n]."""
    coords = np.indices(grid).reshape(len(grid), -1)
    code = np.zeros(coords.shape[1], np.int64)
    for bit in range(max(1, (max(grid) - 1).bit_length())):
        for axis in range(len(grid)):
            place = bit * len(grid) + len(grid) - 1 - axis
            code |= ((coords[axis] >> bit) & 1) << place
    return np.argsort(code, kind="stable")


def hilbert(grid: Grid) -> Ids:
    """Return Hilbert's order of a 2D grid: int64[n].

    Neighbours in the order are neighbours in a square grid whose side is a power of two; of others
    the cells outside are left out.

    Raises:
        JobError: the grid is not of two axes.
    """
    if len(grid) != 2:
        raise problem(f"a Hilbert order needs a grid of two axes, got {grid}")
    y, x = (axis.reshape(-1).copy() for axis in np.indices(grid))
    side = 1 << max(1, (max(grid) - 1).bit_length())
    place = np.zeros(y.size, np.int64)
    half = side // 2
    while half:
        right, low = ((x & half) > 0).astype(np.int64), ((y & half) > 0).astype(np.int64)
        place += half * half * ((3 * right) ^ low)
        x, y = x & (half - 1), y & (half - 1)
        flip = (low == 0) & (right == 1)
        x, y = np.where(flip, half - 1 - x, x), np.where(flip, half - 1 - y, y)
        x, y = np.where(low == 0, y, x), np.where(low == 0, x, y)
        half //= 2
    return np.argsort(place, kind="stable")


def spiral_in(grid: Grid) -> Ids:
    """Return a 2D grid from its corner inwards, clockwise: int64[n].

    Raises:
        JobError: the grid is not of two axes.
    """
    if len(grid) != 2:
        raise problem(f"a spiral needs a grid of two axes, got {grid}")
    left, rings = raster(grid).reshape(grid), []
    while left.size:
        rings.append(left[0])
        left = np.rot90(left[1:])
    return np.concatenate(rings)


def spiral_out(grid: Grid) -> Ids:
    """Return a 2D grid from its middle outwards: the reverse of `spiral_in`, int64[n]."""
    return spiral_in(grid)[::-1].copy()


def near_to_far(grid: Grid, *, centre: bool = False) -> Ids:
    """Return positions by Manhattan distance from the first one, or the centre: int64[n].

    Of equal distances the first in raster order comes first; `distances` tells which are equal
    (NAR decodes them at once).
    """
    return np.argsort(distances(grid, centre=centre), kind="stable")


def distances(grid: Grid, *, centre: bool = False) -> Ids:
    """Return each position's distance from the start, int64[n]; twice it, from the centre."""
    coords = np.indices(grid).reshape(len(grid), -1)
    if not centre:
        return np.asarray(coords.sum(axis=0))
    middle = np.array(grid)[:, None] - 1
    return np.asarray(np.abs(2 * coords - middle).sum(axis=0))


def inverse(order: Array) -> Ids:
    """Return the inverse of permutations ``[..., n]``: where each raster position is shown."""
    return np.argsort(order, axis=-1, kind="stable")


def take(values: Array, order: Array) -> Array:
    """Return ``[B, n, *tail]`` in the order ``[n]`` or ``[B, n]``."""
    if order.ndim == 1:
        return values[:, order]
    index = order.reshape(*order.shape, *(1,) * (values.ndim - 2))
    return np.take_along_axis(values, index, axis=1)


def _near_to_far_centre(grid: Grid) -> Ids:
    return near_to_far(grid, centre=True)


_ORDERS: dict[str, Callable[[Grid], Ids]] = {
    "raster": raster,
    "reversed": reverse,
    "alternate": alternate,
    "z_curve": z_curve,
    "hilbert": hilbert,
    "spiral_in": spiral_in,
    "spiral_out": spiral_out,
    "near_to_far": near_to_far,
    "near_to_far_centre": _near_to_far_centre,
}


@lru_cache(maxsize=256)
def order_of(kind: Kind, grid: Grid) -> Ids:
    """Return the order of a kind for a grid, read-only: int64[n].

    Raises:
        JobError: there is no such order, or not of this grid.
    """
    if kind not in _ORDERS:
        raise problem(f"there is no order {kind!r}; there are {', '.join(_ORDERS)}")
    order = _ORDERS[kind](grid)
    order.flags.writeable = False
    return order


@dataclass(frozen=True, slots=True)
class Reorder:
    """Shows every sample's positions in one order.

    Papers: VQGAN (arXiv:2012.09841) compares most of them, NAR (arXiv:2503.10696) reads near to
    far, Selftok (arXiv:2505.07538) backwards.
    ``name`` becomes ``[B, n, *tail]`` (or a list), ``"<name>.order"`` the order: int64[B, n].

    Attributes:
        name: the stream, ``[*grid, *tail]`` a sample.
        kind: which order.
        tail: axes at the end that are not positions: depth, bits, channels.
    """

    name: str
    kind: Kind
    tail: int = 0

    def __post_init__(self) -> None:
        order_of(self.kind, (2, 2))

    def __call__(self, batch: Batch, draw: Draw) -> Batch:
        """Reorder the stream."""
        del draw
        values = values_of(batch, self.name)
        if isinstance(values, list):
            pairs = [self._shown(array[None]) for array in values]
            shown, orders = [one[0] for one, _ in pairs], [order for _, order in pairs]
            return {**batch, self.name: shown, f"{self.name}.order": orders}
        array, order = self._shown(values)
        every = np.tile(order, (len(values), 1))
        return {**batch, self.name: array, f"{self.name}.order": every}

    def _shown(self, values: Array) -> tuple[Array, Ids]:
        grid, flat = positions(values, self.tail, self.name)
        order = order_of(self.kind, grid)
        return flat[:, order], order


def positions(values: Array, tail: int, name: str) -> tuple[Grid, Array]:
    """Return the grid of stacked samples ``[B, *grid, *tail]``, and them as ``[B, n, *tail]``.

    Raises:
        JobError: there are too few axes.
    """
    shape = values.shape[1:]
    if len(shape) <= tail:
        raise problem(f"{name!r} has shape {shape}, of which {tail} axes are no positions")
    grid, rest = shape[: len(shape) - tail], shape[len(shape) - tail :]
    return grid, values.reshape(len(values), int(np.prod(grid)), *rest)


@dataclass(frozen=True, slots=True)
class RandomOrder:
    """Shows each sample's positions in a random order, and ever more often in raster order.

    RAR (arXiv:2411.00776): a sample is permuted with probability 1 up to step ``start``, with a
    probability that falls linearly to 0 at step ``end``, and never after it. With ``end`` 0 it
    always is (MAR, arXiv:2406.11838). ``name`` becomes ``[B, n, *tail]``, ``"<name>.order"``
    int64[B, n].
    """

    name: str
    start: int = 0
    end: int = 0
    tail: int = 0

    def __post_init__(self) -> None:
        if self.end and not 0 <= self.start <= self.end:
            raise problem(f"a random order anneals from step {self.start} to {self.end}")

    def probability(self, step: int) -> float:
        """Return the share of samples that are permuted at a step."""
        if not self.end or step < self.start:
            return 1.0
        if step >= self.end:
            return 0.0
        return 1.0 - (step - self.start) / (self.end - self.start)

    def __call__(self, batch: Batch, draw: Draw) -> Batch:
        """Reorder the stream."""
        values = stacked(batch, self.name)
        rows = rows_of(values, draw, self.name)
        _, flat = positions(values, self.tail, self.name)
        order = draw.permutations(f"order/{self.name}", flat.shape[1])
        permuted = draw.uniform(f"order/{self.name}/whether") < self.probability(draw.step)
        order = np.where(permuted, order, np.arange(flat.shape[1]))
        return {
            **batch,
            self.name: take(flat, order),
            f"{self.name}.order": order.reshape(rows, -1),
        }


@dataclass(frozen=True, slots=True)
class Restore:
    """Puts a stream that was reordered back into raster order, by its ``"<name>.order"``.

    What a generator in RAR's orders (arXiv:2411.00776) has made is decoded so.
    """

    name: str

    def __call__(self, batch: Batch, draw: Draw) -> Batch:
        """Restore the order; the grid stays flat."""
        del draw
        order = stacked(batch, f"{self.name}.order")
        return {**batch, self.name: take(stacked(batch, self.name), inverse(order))}
