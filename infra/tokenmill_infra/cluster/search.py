"""Finding the item that kills its actor: bisection by trials, as a pure state machine."""

from __future__ import annotations

from dataclasses import dataclass, replace

#: Times that an item must kill its actor, alone, before it is accused. Once is not enough: a node
#: may fail, or the kernel end the process for want of memory, just while an innocent item is tried.
PROOFS = 2


@dataclass(frozen=True, slots=True)
class Search:
    """A killer is thought to lie in the items ``start`` to ``stop``; ``over`` ends the search.

    The window is halved by trials of its first half. A window of one item gets a trial of its own,
    so that an item is only accused when it kills alone, `PROOFS` times: ``found`` then names it. A
    search that ends without one met no killer, for instance because a node had failed.
    """

    start: int
    stop: int
    deaths: int = 0
    over: bool = False
    found: int | None = None

    @property
    def window(self) -> tuple[int, int]:
        """The items to try next."""
        if self.stop - self.start <= 1:
            return self.start, self.stop
        return self.start, (self.start + self.stop) // 2

    def after(self, *, died: bool) -> Search:
        """Return the search after the trial of `window` died or survived."""
        first, middle = self.window
        if self.stop - self.start <= 1:
            deaths = self.deaths + died
            if died and deaths < PROOFS:
                return replace(self, deaths=deaths)
            return replace(self, deaths=deaths, over=True, found=first if died else None)
        if died:
            return Search(first, middle, deaths=int(middle - first == 1))
        return Search(middle, self.stop)
