"""Lanes: the endless sequence of items that one store gives, as a function of an item's number.

An item is what a step counts: a row, a window of packed rows (`sequence.packing`), or a whole
batch of rows of one shape (`feed.sequence.buckets`). Items of epoch e have the numbers from
``e * items`` on. Nothing here is state: any item costs the same, so a restore is free.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from tokenmill.feed.sequence.order import Order

Rows = npt.NDArray[np.int64]
Items = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Drawn:
    """The logical rows of some items, one item after the other.

    ``counts`` says how many rows each item has; None means one.
    """

    rows: Rows
    counts: Rows | None = None


class Lane(Protocol):
    """One store's sequence of items."""

    @property
    def items(self) -> int:
        """Items of one epoch."""
        ...

    def draw(self, numbers: Items) -> Drawn:
        """Return the rows of the items of those numbers, which count over all epochs."""
        ...

    def numbers_of(self, row: int, epoch: int) -> list[int]:
        """Return the numbers of an epoch's items that hold a row; mostly one, maybe none."""
        ...


@dataclass(frozen=True, slots=True)
class RowLane:
    """Every row of an order is an item.

    ``items`` may be less than the order's rows, for an epoch of whole batches, whose last samples
    in order are then not shown; or more, to complete the last batch with the epoch's first samples.
    """

    order: Order
    items: int

    def draw(self, numbers: Items) -> Drawn:
        """Return the rows of the items of those numbers, which count over all epochs."""
        if not numbers.size:
            return Drawn(np.empty(0, np.int64))
        ends = int(numbers.min()) // self.items, int(numbers.max()) // self.items
        if ends[0] == ends[1]:
            return Drawn(self._at(ends[0], numbers - ends[0] * self.items))
        epochs = numbers // self.items
        out = np.empty(numbers.shape, np.int64)
        for epoch in np.unique(epochs).tolist():
            where = epochs == epoch
            out[where] = self._at(epoch, numbers[where] - epoch * self.items)
        return Drawn(out)

    def numbers_of(self, row: int, epoch: int) -> list[int]:
        """Return the numbers of an epoch's items that hold a row; mostly one, maybe none."""
        position = int(self.order.positions_of(epoch, np.array([row]))[0])
        places = range(position, self.items, self.order.rows)
        return [epoch * self.items + place for place in places]

    def _at(self, epoch: int, places: Items) -> Rows:
        if self.items > self.order.rows:
            places = places % self.order.rows
        return self.order.at(epoch, places)
