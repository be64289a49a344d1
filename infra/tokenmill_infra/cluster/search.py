"""Finding the item that kills its actor: suspects first, then bisection; pure state machine."""

from __future__ import annotations

from dataclasses import dataclass, replace

#: Times that an item must be the only one at hand when its actor dies, the last time on an actor of
#: its own, before it is accused. Once is not enough: a node may fail, or the kernel end the process
#: for want of memory, just while an innocent item is tried.
PROOFS = 2

Window = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Search:
    """A killer is thought to lie in the items ``start`` to ``stop``; ``over`` ends the search.

    The ``suspects``, which the dead actor had at hand, are tried first, each by itself. If none of
    them kills, the window is halved by trials of its first half. A window of one item gets trials
    of its own, so that an item is only accused when it kills alone; ``deaths`` counts its proofs
    and ``found`` then names it. A search that ends without one met no killer, for instance because
    a node had failed.
    """

    start: int
    stop: int
    deaths: int = 0
    over: bool = False
    found: int | None = None
    suspects: tuple[Window, ...] = ()

    @property
    def window(self) -> Window:
        """The items to try next."""
        if self.suspects:
            return self.suspects[0]
        if self.stop - self.start <= 1:
            return self.start, self.stop
        return self.start, (self.start + self.stop) // 2

    def after(self, *, died: bool, at_hand: tuple[Window, ...] = ()) -> Search:
        """Return the search after the trial of `window` died or survived.

        ``at_hand`` is what an actor that died had in hand.
        """
        first, last = self.window
        if last - first <= 1:
            return self._after_one(first, died=died)
        if died:
            inside = tuple(
                w for w in at_hand if first <= w[0] and w[1] <= last and w != (first, last)
            )
            proof = at_hand == inside and len(inside) == 1 and inside[0][1] - inside[0][0] == 1
            return Search(first, last, deaths=int(proof), suspects=inside)
        if self.suspects:
            return self._next_suspect()
        return Search(last, self.stop)

    def _after_one(self, item: int, *, died: bool) -> Search:
        deaths = self.deaths + died
        if died:
            proven = deaths >= PROOFS
            return replace(self, deaths=deaths, over=proven, found=item if proven else None)
        if self.suspects:
            return self._next_suspect()
        if self.stop - self.start <= 1:
            return replace(self, deaths=deaths, over=True)
        # The first half of two items survived: the second is left.
        return Search((self.start + self.stop) // 2, self.stop)

    def _next_suspect(self) -> Search:
        rest = self.suspects[1:]
        over = not rest and self.start == self.stop
        return replace(self, suspects=rest, deaths=0, over=over)
