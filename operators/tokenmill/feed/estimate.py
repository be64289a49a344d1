"""What a feed will cost before it is launched: samples, bytes, requests, memory, and its shuffle.

All of it comes from manifests and from the schedule itself. Of the data only what says how large
columns are is read, and the values of one column if classes are asked for. Shuffle quality is
measured on steps that are spread over the first epoch, where their samples really lie.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from tokenmill.feed.costs.fetching import Fetched
from tokenmill.feed.costs.memory import Memory, batch_bytes, memory_of
from tokenmill.feed.costs.mixing import (
    REMOTE_STEPS,
    Distinct,
    Step,
    distinct_blocks,
    distinct_classes,
    distinct_shards,
    sample_steps,
)
from tokenmill.feed.costs.parts import PartCosts, PartEstimate, Windows, open_costs
from tokenmill.feed.feed import Feed
from tokenmill_schemas.errors import JobError

__all__ = ["Distinct", "Estimate", "Memory", "Mixing", "PartEstimate", "Remote", "estimate"]

#: Steps whose samples are looked at.
STEPS = 32


@dataclass(frozen=True, slots=True)
class Remote:
    """What parts on an object store cost a node, whatever the number of its ranks.

    Attributes:
        requests: Range requests of an epoch, if the node's cache holds ``cache_bytes``.
        fetched_bytes: What they bring.
        first_requests: Requests before this rank's first batch, behind the opening.
        first_bytes: What they bring.
        window_bytes: What the open shuffle windows need at a time.
        cache_bytes: What the cache must hold so that nothing is fetched twice in an epoch.
        again_bytes: What an epoch fetches if the cache holds ``window_bytes`` and no more.
    """

    requests: int
    fetched_bytes: int
    first_requests: int
    first_bytes: int
    window_bytes: int
    cache_bytes: int
    again_bytes: int


@dataclass(frozen=True, slots=True)
class Mixing:
    """Distinct kinds in a global batch, on ``steps`` sampled steps; see `Distinct`.

    ``classes`` is None where no column was named, and measured on ``class_steps`` of them.
    """

    steps: int
    shards: Distinct
    blocks: Distinct
    classes: Distinct | None
    class_steps: int


@dataclass(frozen=True, slots=True)
class Estimate:
    """What an epoch of a feed costs.

    Attributes:
        batch_size: Samples, or packed windows, of a step over all ranks.
        world_size: Number of ranks.
        samples: How many the versions show.
        epoch_steps: Steps of an epoch.
        epoch_samples: Samples of an epoch, repeated ones counted.
        left_out: Samples that the first epoch does not show: they fill no batch, no bucket, are
            too long to pack, or their store of a mixture is not through.
        repeated: Samples that it shows again.
        step_samples: Samples of a step, on average.
        tokens: Positions of each stream in an epoch.
        exact: Whether tokens and bytes know the lengths of all samples, and not only of some.
        padding_share: Share of the packed windows' positions that hold no id.
        stored_bytes: Size of the files that hold the samples.
        read_bytes: What of it an epoch reads: the chosen streams and columns.
        step_read_bytes: The same, of one rank and step.
        batch_bytes: Tokens of a rank's batch, as arrays.
        state_bytes: The feed's state, as JSON.
        memory: Of a rank.
        mixing: Shuffle quality.
        remote: Requests and caching, None where all parts lie on local disks.
        parts: The stores.
    """

    batch_size: int
    world_size: int
    samples: int
    epoch_steps: int
    epoch_samples: int
    left_out: int
    repeated: int
    step_samples: float
    tokens: dict[str, int]
    exact: bool
    padding_share: float
    stored_bytes: int
    read_bytes: int
    step_read_bytes: int
    batch_bytes: int
    state_bytes: int
    memory: Memory
    mixing: Mixing
    remote: Remote | None
    parts: tuple[PartEstimate, ...]

    def to_json(self) -> dict[str, Any]:
        """Return it as a JSON value."""
        return asdict(self)


def estimate(feed: Feed, *, classes: str | None = None, steps: int = STEPS) -> Estimate:
    """Return what an epoch of a feed costs, in about a second whatever its size.

    Args:
        feed: A feed; it is not moved.
        classes: A column whose distinct values per batch are counted; reads it for the sampled
            steps.
        steps: About how many steps are sampled.

    Raises:
        JobError: the feed follows a store, or goes on from another version's state; or there is no
            column ``classes``.
        CorruptShardError: a file is damaged.
    """
    if steps < 1:
        raise JobError(f"is {steps}: at least one is sampled", path="estimate.steps")
    costs, sampled = open_costs(feed), sample_steps(feed, steps)
    parts = _parts(feed, costs)
    remote, window_bytes = _remote(feed, costs)
    samples = sum(part.samples for part in parts)
    shown = sum(part.epoch_samples for part in parts)
    step_rows = shown / max(1, len(feed))
    world = feed.place.world_size
    lengths = {name: _mean(costs, name) for name in costs[0].lengths}
    batch = round(batch_bytes(feed, lengths, step_rows) / world)
    read = sum(part.read_bytes for part in parts)
    names = [stream.name for stream in feed.streams]
    tokens = {name: sum(part.tokens[name] for part in parts) for name in names}
    packing, padding = feed.settings.packing, sum(part.padding for part in parts)
    return Estimate(
        batch_size=feed.settings.batch_size,
        world_size=world,
        samples=samples,
        epoch_steps=len(feed),
        epoch_samples=shown,
        left_out=sum(max(0, part.samples - part.epoch_samples) for part in parts),
        repeated=sum(max(0, part.epoch_samples - part.samples) for part in parts),
        step_samples=step_rows,
        tokens=tokens,
        exact=all(part.exact for part in parts),
        padding_share=padding / (padding + tokens[packing.stream]) if packing else 0.0,
        stored_bytes=sum(part.stored_bytes for part in parts),
        read_bytes=read,
        step_read_bytes=round(read / max(1, len(feed)) / world),
        batch_bytes=batch,
        state_bytes=len(json.dumps(feed.state_dict())),
        memory=memory_of(feed, batch, window_bytes),
        mixing=_mixing(feed, sampled, classes),
        remote=remote,
        parts=parts,
    )


def _parts(feed: Feed, costs: tuple[PartCosts, ...]) -> tuple[PartEstimate, ...]:
    items = sum(cost.items for cost in costs)
    return tuple(cost.estimate(cost.items / max(1, items), feed.settings.packing) for cost in costs)


def _mean(costs: tuple[PartCosts, ...], name: str) -> float:
    """Return the positions of a stream of a sample, over all parts."""
    samples = sum(cost.epoch_samples for cost in costs)
    return sum(cost.lengths[name] * cost.epoch_samples for cost in costs) / max(1, samples)


def _mixing(feed: Feed, sampled: list[Step], classes: str | None) -> Mixing:
    read = sampled
    if _is_remote(feed):
        read = sampled[:: -(-len(sampled) // REMOTE_STEPS)]
    return Mixing(
        steps=len(sampled),
        shards=distinct_shards(sampled, feed.parts),
        blocks=distinct_blocks(sampled, feed.parts),
        classes=distinct_classes(read, feed.parts, classes) if classes else None,
        class_steps=len(read) if classes else 0,
    )


def _is_remote(feed: Feed) -> bool:
    return any(part.store.storage.local("data") is None for part in feed.parts)


def _remote(feed: Feed, costs: tuple[PartCosts, ...]) -> tuple[Remote | None, int]:
    """Return what remote parts cost, and the pieces that their open windows need."""
    mine = {i: c for i, c in enumerate(costs) if c.part.store.storage.local("data") is None}
    if not mine:
        return None, 0
    windows: list[Windows] = [cost.windows(feed) for cost in mine.values()]
    span = feed.source.schedule.span(range(1), feed.place)
    parts = np.zeros(len(span.rows), np.int64) if span.parts is None else span.parts
    first: list[Fetched] = [cost.first(span.rows[parts == i]) for i, cost in mine.items()]
    found = Remote(
        requests=sum(w.once.requests for w in windows),
        fetched_bytes=sum(w.once.bytes for w in windows),
        first_requests=sum(f.requests for f in first),
        first_bytes=sum(f.bytes for f in first),
        window_bytes=sum(w.window.bytes for w in windows),
        cache_bytes=sum(w.cache_bytes for w in windows),
        again_bytes=sum(w.again_bytes for w in windows),
    )
    return found, found.window_bytes
