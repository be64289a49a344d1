"""How much memory a rank of a feed takes: arrays that it holds, and batches that it reads ahead."""

from __future__ import annotations

from dataclasses import dataclass, fields, is_dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from tokenmill.feed.feed import Feed
from tokenmill.feed.shards.ranged import MEMORY_BYTES
from tokenmill.feed.stepping import CHUNK_BYTES
from tokenmill_schemas.arrow import values_per_sample

#: Objects inside objects that are looked into.
_DEPTH = 6


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes of one rank, beside the interpreter and what the kernel keeps of files.

    ``index``: where the shown rows lie, what is known of the shards, and the plan of windows or
    buckets with those that are open. ``ahead``: batches that threads have read and that wait, at
    the most. ``pieces``: of stores on an object store, where the node's cache can keep nothing; in
    it they are mapped and count nothing.
    """

    index: int
    ahead: int
    pieces: int

    @property
    def total(self) -> int:
        """All of it, if the node's cache works."""
        return self.index + self.ahead


def memory_of(feed: Feed, batch_bytes: int, window_bytes: int) -> Memory:
    """Return a rank's memory.

    Args:
        feed: The feed, after some of its steps were planned.
        batch_bytes: This rank's part of a step, in memory.
        window_bytes: The pieces that open shuffle windows need; 0 on local disks.
    """
    seen: set[int] = set()
    index = sum(
        held_bytes(part.opened.plan, seen) + held_bytes(part.opened.manifest, seen)
        for part in feed.parts
    )
    index += held_bytes(feed.source.schedule, seen)
    chunks = feed.threads + 1
    ahead = chunks * max(CHUNK_BYTES, batch_bytes)
    return Memory(index, ahead, min(MEMORY_BYTES, window_bytes))


def batch_bytes(feed: Feed, lengths: dict[str, float], step_rows: float) -> float:
    """Return the bytes of the tokens in a global batch as arrays, of so many rows on average."""
    packing, total = feed.settings.packing, 0.0
    for stream in feed.streams:
        item = np.dtype(stream.storage_dtype).itemsize
        if packing is not None and stream.name == packing.stream:
            # Beside the ids: position and segment ids of four bytes each.
            total += feed.settings.batch_size * packing.length * (item + 8)
            continue
        values = values_per_sample(stream)
        if values is None:
            tail = stream.shape[len(stream.axes) :]
            values = round(lengths[stream.name] * int(np.prod([size or 1 for size in tail])))
        total += step_rows * values * item
    return total


def held_bytes(value: Any, seen: set[int], depth: int = _DEPTH) -> int:
    """Return the bytes of the arrays that an object holds, each once; mapped ones are free."""
    if id(value) in seen or not depth or isinstance(value, np.memmap):
        return 0
    seen.add(id(value))
    if isinstance(value, np.ndarray | pa.Table):
        return int(value.nbytes)
    if isinstance(value, tuple | list):
        return sum(held_bytes(each, seen, depth - 1) for each in value)
    if isinstance(value, dict):
        return sum(held_bytes(each, seen, depth - 1) for each in value.values())
    if not type(value).__module__.startswith("tokenmill."):
        return 0
    inner = list(vars(value).values()) if hasattr(value, "__dict__") else []
    if is_dataclass(value):
        inner += [getattr(value, field.name) for field in fields(value)]
    return sum(held_bytes(each, seen, depth - 1) for each in inner)
