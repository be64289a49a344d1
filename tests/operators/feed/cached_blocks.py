"""What tests of remote shards share; imported by their children too, so it needs little."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa

from tokenmill.feed.columns import Batch
from tokenmill.feed.shards.node_cache import Block
from tokenmill.testing.feed import same_batch
from tokenmill_infra.storage import Storage
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


def copied(folder: Path, storage: Storage) -> None:
    """Copy all files below a folder into a storage."""
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            storage.create(str(path.relative_to(folder)), path.read_bytes())


def same(got: list[Batch], want: list[Batch]) -> None:
    """Check that batches are the same."""
    assert len(got) == len(want) > 0
    for one, other in zip(got, want, strict=True):
        assert same_batch(one, other)
