"""What the benchmarks of the feed read: random tokens as stores and as one array.

The array has the row's own number in its first two values (14 bits each), so that a loader's order
can be told from its batches.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tokenmill.store import Store
from tokenmill.testing.feed import build_store
from tokenmill_schemas.arrow import Packing, ShardLayout
from tokenmill_schemas.tokens import Axis, Stream, TokenSpec

BATCH, VOCAB = 256, 16_384
SHARD_ROWS = 1_024  # the default of a job's shards.unit_assets
#: Ids of a row of a sample of varying shape: it has one to eight such rows.
WIDTH = 32


@dataclass(frozen=True, slots=True)
class Size:
    """Tokens of a sample, and how many samples there are."""

    tokens: int
    rows: int


def write_store(folder: Path, size: Size, *, packing: Packing = "raw") -> Store:
    """Write samples of fixed shape."""
    stream = Stream("image", "index", (Axis("n", size.tokens),), (VOCAB,))
    layout = ShardLayout(TokenSpec((stream,)), packing)
    return build_store(folder, shard_samples(size.rows), layout=layout)


def write_ragged(folder: Path, rows: int) -> Store:
    """Write samples of 32 to 256 ids in eight shapes."""
    stream = Stream("image", "index", (Axis("h"), Axis("w", WIDTH)), (VOCAB,))
    layout = ShardLayout(TokenSpec((stream,)))
    return build_store(folder, shard_samples(rows), layout=layout)


def shard_samples(rows: int) -> list[int]:
    """Return the samples of every shard."""
    return [min(SHARD_ROWS, rows - first) for first in range(0, rows, SHARD_ROWS)]


def write_array(path: Path, size: Size) -> None:
    """Write as many tokens as one .npy file, which is what peers are given."""
    shape = (size.rows, size.tokens)
    tokens = np.lib.format.open_memmap(path, "w+", dtype=np.uint16, shape=shape)
    rng = np.random.default_rng(0)
    for first in range(0, size.rows, SHARD_ROWS):
        part = tokens[first : first + SHARD_ROWS]
        part[:] = rng.integers(0, VOCAB, part.shape, np.uint16)
        numbers = np.arange(first, first + len(part))
        part[:, 0], part[:, 1] = numbers % VOCAB, numbers // VOCAB
    tokens.flush()
