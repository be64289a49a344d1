"""The hops of the data's way, in order: one name each for a module, a metric and a log event."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Hop:
    """One hop; ``metric`` is a Prometheus counter of ``unit``."""

    name: str
    help: str
    unit: str = "seconds"

    @property
    def metric(self) -> str:
        """The metric's name, by Prometheus' rules: prefix, what, unit, ``_total``."""
        return f"tokenmill_{self.name}_{self.unit}_total"


#: Every hop from a listing to a committed snapshot. The unit is thread-seconds: time that a thread
#: spent working in the hop, not waiting for its neighbours.
HOPS = (
    Hop("list", "asking sources what assets there are"),
    Hop("plan", "making content-addressed units of the listing"),
    Hop("diff", "leaving out the units that have a receipt"),
    Hop("dispatch", "handing units to actors and leases"),
    Hop("fetch", "reading the bytes of assets"),
    Hop("decode", "turning bytes into pixels"),
    Hop("view", "reading crops, flips and windows from pixels"),
    Hop("batch", "stacking views and preparing the network's input"),
    Hop("encode", "running the tokenizer's network"),
    Hop("check", "decoding a sample of each shard again and measuring it"),
    Hop("write", "writing, checking and publishing shards"),
    Hop("commit", "making all receipts one snapshot"),
)
HOP_NAMES = tuple(hop.name for hop in HOPS)


def bottleneck(seconds: Mapping[str, float], threads: Mapping[str, int]) -> str:
    """Return the hop that limits the rate: most thread-seconds for each of its threads.

    ``threads`` says how many threads a hop has in the whole run (1 where it says nothing). Of equal
    hops the earliest wins, since a late hop cannot outrun an early one. Returns "" when no hop has
    spent any time.
    """
    order = {name: place for place, name in enumerate(HOP_NAMES)}
    loads = {hop: spent / max(1, threads.get(hop, 1)) for hop, spent in seconds.items()}
    busy = [hop for hop, load in loads.items() if load > 0]
    return min(busy, key=lambda hop: (-loads[hop], order.get(hop, len(order)), hop), default="")
