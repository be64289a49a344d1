"""Blocks for tests of the node's cache; imported by their children too, so it needs little."""

import hashlib
from collections.abc import Callable

import numpy as np
import pyarrow as pa

from tokenmill.feed.node_cache import Block
from tokenmill_schemas.errors import CorruptShardError

SIZE = 1000


def block_of(number: int, *, size: int = SIZE, fetched: Callable[[], None] | None = None) -> Block:
    """Return a block of random bytes, by number; ``fetched`` is called with each fetch."""
    data = np.random.default_rng(number).bytes(size)

    def fetch() -> pa.Buffer:
        if fetched:
            fetched()
        return pa.py_buffer(data)

    def check(found: pa.Buffer) -> None:
        if found.to_pybytes() != data:
            raise CorruptShardError(f"block {number} is damaged")

    return Block(f"{hashlib.sha256(data).hexdigest()}.0-{size}", size, fetch, check)
