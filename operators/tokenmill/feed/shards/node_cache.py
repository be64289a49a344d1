"""What a node has fetched of remote stores: each block once, for all its processes.

A block is checked when it was fetched, and again when a process maps it for the first time. Trouble
with the disk never stops the training: a block that cannot be kept is given from memory.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from tokenmill.feed.shards.cache_folder import CacheFolder, cache_folder
from tokenmill_schemas.errors import CorruptShardError


@dataclass(frozen=True, slots=True)
class Block:
    """Some bytes that a cache may keep, and how they are got.

    Attributes:
        name: of its content: the shard's sha256 and which part of it; see `CacheFolder`.
        size_bytes: how long it must be.
        fetch: returns the bytes from the storage; called again if they are not right.
        check: raises CorruptShardError if the bytes are not right.
        uri: where they come from, for errors.
    """

    name: str
    size_bytes: int
    fetch: Callable[[], pa.Buffer]
    check: Callable[[pa.Buffer], None]
    uri: str = ""


@dataclass(frozen=True, slots=True)
class Kept:
    """The bytes of a block, and its file if they are mapped, which stays as long as they do."""

    data: pa.Buffer
    file: Path | None = None


@dataclass(frozen=True, slots=True)
class ShardCache:
    """A folder of at most ``limit_bytes`` of blocks, shared by the processes of a node.

    The limit holds at every moment, while blocks are written too. Least recently used blocks make
    room, those that a process has mapped do not. Nothing is deleted that the cache did not make.
    Files of any process are named by content and appear complete, so killing one harms no other.

    A block that another process is fetching is waited for, for at most ``patience_s``.
    """

    folder: Path
    limit_bytes: int = 32 * 2**30
    patience_s: float = 60.0

    def get(self, block: Block) -> Kept:
        """Return a block: mapped from the folder, or in memory where that cannot keep it.

        Raises:
            CorruptShardError: the bytes were not right, twice.
        """
        folder = cache_folder(os.getpid(), self.folder, self.limit_bytes)
        if (found := self._opened(folder, block)) is not None:
            return found
        if block.size_bytes > self.limit_bytes:
            return Kept(_fetched(block))
        with folder.filling(block.name, patience_s=self.patience_s) as mine:
            if (found := self._opened(folder, block)) is not None:
                return found
            data = _fetched(block)
            kept = mine and folder.store(block.name, data)
        if kept:
            folder.verified.add(hash(block.name))
            found = self._opened(folder, block)
        return found or Kept(data)

    def _opened(self, folder: CacheFolder, block: Block) -> Kept | None:
        """Return the block if it is in the folder and right; a damaged one is thrown away."""
        data = folder.open(block.name, block.size_bytes)
        if data is None:
            return None
        if hash(block.name) not in folder.verified:
            try:
                block.check(data)
            except CorruptShardError:
                folder.discard(block.name)
                return None
            folder.verified.add(hash(block.name))
        return Kept(data, self.folder / block.name)


def _fetched(block: Block) -> pa.Buffer:
    """Return the block's bytes from the storage; damaged on their way, they are fetched again."""
    try:
        return _checked(block, block.fetch())
    except CorruptShardError:
        return _checked(block, block.fetch())


def _checked(block: Block, data: pa.Buffer) -> pa.Buffer:
    if data.size != block.size_bytes:
        raise CorruptShardError(
            f"expected {block.size_bytes} bytes of {block.name}, found {data.size}", uri=block.uri
        )
    block.check(data)
    return data
