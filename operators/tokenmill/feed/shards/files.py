"""Shards as local files: where they lie, or in a cache of those on an object store."""

from __future__ import annotations

import hashlib
import os
import weakref
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa

from tokenmill.feed.rows.manifest import Manifest
from tokenmill.feed.shards.node_cache import Block, Kept, ShardCache
from tokenmill_infra.storage.storage import Storage
from tokenmill_schemas.errors import CorruptShardError

__all__ = ["ShardCache", "ShardFiles", "default_cache", "whole_shard"]

#: Fetched shards that are held, so that the cache does not evict them while they are opened.
HELD = 64


@dataclass(frozen=True, slots=True)
class ShardFiles:
    """The shards of one snapshot, and a cache for those of an object store."""

    storage: Storage
    manifest: Manifest
    cache: ShardCache
    held: deque[object] = field(default_factory=lambda: deque(maxlen=HELD), compare=False)

    @property
    def are_remote(self) -> bool:
        """Whether the shards lie where no file can be mapped."""
        return self.storage.local("data") is None

    def path(self, shard: int) -> str:
        """Return a shard's path in the store."""
        return self.manifest.path(shard)

    def uri(self, shard: int) -> str:
        """Return a shard's whole address, for errors."""
        return f"{self.storage.uri}/{self.path(shard)}"

    def local(self, shard: int) -> Path:
        """Return a local file with the shard's bytes, to be opened soon.

        Raises:
            CorruptShardError: the shard is missing, or was changed on the way here.
        """
        path = self.path(shard)
        local = self.storage.local(path)
        if local is None:
            return self._fetched(shard)
        if not local.is_file():
            raise CorruptShardError(f"{path} is missing", uri=self.storage.uri)
        return local

    def map(self, shard: int) -> pa.Buffer:
        """Return the shard's bytes, memory-mapped; the mapping lives as long as the buffer.

        Raises:
            CorruptShardError: the shard is missing, empty, or was changed on the way here.
        """
        local = self.local(shard)
        if not local.stat().st_size:
            raise CorruptShardError(f"{self.path(shard)} is empty", uri=self.storage.uri)
        # Closing gives the file descriptor back and leaves the mapping to its buffers, so
        # thousands of shards may be open under the usual limit of 1,024 descriptors.
        with pa.memory_map(str(local)) as file:
            return file.read_buffer()

    def _fetched(self, shard: int) -> Path:
        path = self.path(shard)
        read = lambda: self.storage.read(path)  # noqa: E731
        kept = self.cache.get(whole_shard(self, shard, read))
        if kept.file is None:
            file = _MemoryFile(kept)
            self.held.append(file)
            return file.path
        self.held.append(kept.data)
        return kept.file


class _MemoryFile:
    """A file without a disk, for a shard that the cache cannot keep; goes with this object."""

    def __init__(self, kept: Kept) -> None:
        descriptor = os.memfd_create("tokenmill-shard")
        weakref.finalize(self, os.close, descriptor).atexit = False
        with os.fdopen(descriptor, "wb", closefd=False) as file:
            file.write(kept.data)
        self.path = Path(f"/proc/self/fd/{descriptor}")


def whole_shard(files: ShardFiles, shard: int, read: Callable[[], bytes | bytearray]) -> Block:
    """Return a shard as one block, which ``read`` fetches."""
    path, sha256, uri = files.path(shard), files.manifest.sha256(shard), files.uri(shard)

    def check(data: pa.Buffer) -> None:
        found = hashlib.sha256(data).hexdigest()
        if found != sha256:
            raise CorruptShardError(f"has sha256 {found}, committed was {sha256}", uri=uri)

    fetch = lambda: pa.py_buffer(told(files, path, read))  # noqa: E731
    return Block(f"{sha256}.shard", files.manifest.bytes(shard), fetch, check, uri)


def told(files: ShardFiles, path: str, read: Callable[[], bytes | bytearray]) -> bytes | bytearray:
    """Return what ``read`` reads of a shard.

    Raises:
        CorruptShardError: it is missing.
    """
    try:
        return read()
    except FileNotFoundError as error:
        raise CorruptShardError(f"{path} is missing", uri=files.storage.uri) from error


def default_cache() -> Path:
    """Return the user's cache folder for shards of remote stores."""
    home = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(home, "tokenmill", "shards")
