"""Batches of one shape each, formed in listing order: the same unit gives the same batches."""

from __future__ import annotations

from dataclasses import dataclass, field

from tokenmill.views.base import Pixels

#: Bytes that a view costs on the device as the network's float32 input, per uint8 of its pixels.
FLOAT_BYTES = 4


@dataclass(frozen=True, slots=True)
class Batch:
    """Views of equal shape; ``places`` says for each which (asset row, view) of the unit it is."""

    places: tuple[tuple[int, int], ...]
    pixels: tuple[Pixels, ...]


@dataclass(slots=True)
class Batcher:
    """Collects views by shape until a batch is full.

    A batch holds at most ``size`` views and ``budget_bytes`` of network input, and at least one.
    """

    size: int
    budget_bytes: int
    _held: dict[tuple[int, ...], tuple[list[tuple[int, int]], list[Pixels]]] = field(
        default_factory=dict
    )

    def add(self, place: tuple[int, int], pixels: Pixels) -> Batch | None:
        """Take one view; returns the batch that it completes."""
        places, held = self._held.setdefault(pixels.shape, ([], []))
        places.append(place)
        held.append(pixels)
        if len(held) < max(1, min(self.size, self.budget_bytes // (pixels.nbytes * FLOAT_BYTES))):
            return None
        del self._held[pixels.shape]
        return Batch(tuple(places), tuple(held))

    def rest(self) -> list[Batch]:
        """Return the batches that are not full, in the order in which they were begun."""
        held = [Batch(tuple(places), tuple(pixels)) for places, pixels in self._held.values()]
        self._held.clear()
        return held
