"""Where each token stands: grid coordinates for rotary embeddings, and where windows begin.

Coordinates on every axis are what M-RoPE (Qwen2-VL, arXiv:2409.12191) and 3D rotary embeddings
read. Cosmos encodes long clips in windows of their own, each with an image's frame first
(arXiv:2501.03575).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tokenmill.feed.columns import Batch
from tokenmill.feed.sequence.draw import Draw
from tokenmill.feed.shaping.common import Array, Ids, problem, values_of


@dataclass(frozen=True, slots=True)
class Positions:
    """Flattens a grid, and says where each token was: M-RoPE (Qwen2-VL, arXiv:2409.12191).

    ``name`` becomes ``[B, n, *tail]`` in raster order (or a list), ``"<name>.positions"``
    int64[B, n, axes]. With ``window`` there is ``"<name>.first"``, bool[B, n]: True in the first of
    every ``window`` entries of the first axis.

    Attributes:
        name: a stream ``[*grid, *tail]``.
        tail: axes at the end that are not positions.
        window: length of independent windows of the first axis; 0 for none.
    """

    name: str
    tail: int = 0
    window: int = 0

    def __call__(self, batch: Batch, draw: Draw) -> Batch:
        """Flatten the stream and add the positions."""
        del draw
        values = values_of(batch, self.name)
        if isinstance(values, list):
            placed = [self._placed(one) for one in values]
            new: Batch = {
                self.name: [flat for flat, _ in placed],
                f"{self.name}.positions": [where for _, where in placed],
            }
            if self.window:
                new[f"{self.name}.first"] = [self._first(where) for _, where in placed]
            return {**batch, **new}
        flat, where = self._placed(values[0]) if len(values) else (values, np.zeros((0, 1), int))
        rows = len(values)
        new = {
            self.name: values.reshape(rows, *flat.shape),
            f"{self.name}.positions": np.tile(where, (rows, 1, 1)),
        }
        if self.window:
            new[f"{self.name}.first"] = np.tile(self._first(where), (rows, 1))
        return {**batch, **new}

    def _placed(self, one: Array) -> tuple[Array, Ids]:
        axes = one.ndim - self.tail
        if axes < 1:
            raise problem(f"{self.name!r} is {one.shape}, of which {self.tail} are no positions")
        grid = one.shape[:axes]
        where = np.indices(grid).reshape(axes, -1).T
        return one.reshape(len(where), *one.shape[axes:]), where

    def _first(self, where: Ids) -> Array:
        return np.asarray(where[:, 0] % self.window == 0)
