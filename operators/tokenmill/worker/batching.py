"""Batches of one shape each, formed in listing order: the same unit gives the same batches."""

from __future__ import annotations

from dataclasses import dataclass, field

from tokenmill.views.base import Array

#: Bytes that a view costs on the device as the network's float32 input, per byte of its data.
FLOAT_BYTES = 4


@dataclass(frozen=True, slots=True)
class Batch:
    """Views of equal shape; ``places`` says for each which (asset row, view) of the unit it is."""

    places: tuple[tuple[int, int], ...]
    views: tuple[Array, ...]


@dataclass(slots=True)
class Batcher:
    """Collects views by shape until a batch is full.

    A batch holds at most ``size`` views and ``budget_bytes`` of network input, and at least one.
    All that is held together stays near that budget, however many shapes there are: beyond it the
    batch begun first goes as it is.
    """

    size: int
    budget_bytes: int
    _held: dict[tuple[int, ...], tuple[list[tuple[int, int]], list[Array]]] = field(
        default_factory=dict
    )
    _bytes: int = 0

    def add(self, place: tuple[int, int], view: Array) -> Batch | None:
        """Take one view; returns the batch that it completes, or that has to make room."""
        places, held = self._held.setdefault(view.shape, ([], []))
        places.append(place)
        held.append(view)
        self._bytes += view.nbytes
        if len(held) >= max(1, min(self.size, self.budget_bytes // (view.nbytes * FLOAT_BYTES))):
            return self._give(view.shape)
        return self._give(next(iter(self._held))) if self._bytes > self.budget_bytes else None

    def _give(self, shape: tuple[int, ...]) -> Batch:
        places, held = self._held.pop(shape)
        self._bytes -= sum(view.nbytes for view in held)
        return Batch(tuple(places), tuple(held))

    def rest(self) -> list[Batch]:
        """Return the batches that are not full, in the order in which they were begun."""
        return [self._give(shape) for shape in list(self._held)]
