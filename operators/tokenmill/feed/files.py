"""Shards as local files: where they lie, or a bounded cache of those on an object store."""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
import threading
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa

from tokenmill.feed.manifest import Manifest
from tokenmill_infra.storage.storage import Storage
from tokenmill_schemas.errors import CorruptShardError

#: Names of the files that the cache makes; it deletes no other.
_OWN = re.compile(r"[0-9a-f]{64}\.shard")


@dataclass(frozen=True, slots=True)
class ShardCache:
    """A folder of whole shards, named by content, of at most ``limit_bytes`` after each fill.

    Processes may share the folder: files appear complete and checked under their final name, and
    a file that another process deletes while it is mapped stays readable.
    """

    folder: Path
    limit_bytes: int = 32 * 2**30

    def fetch(self, storage: Storage, path: str, sha256: str) -> Path:
        """Return a local copy of a shard, fetched now unless it is there.

        Raises:
            CorruptShardError: the shard is missing or its bytes are not those committed.
        """
        final = self.folder / f"{sha256}.shard"
        try:
            os.utime(final)
        except FileNotFoundError:
            self._fill(final, storage, path, sha256)
        return final

    def _fill(self, final: Path, storage: Storage, path: str, sha256: str) -> None:
        data = _read(storage, path)
        found = hashlib.sha256(data).hexdigest()
        if found != sha256:
            raise CorruptShardError(
                f"{path} has sha256 {found}, committed was {sha256}", uri=storage.uri
            )
        self.folder.mkdir(parents=True, exist_ok=True)
        self._make_room(len(data))
        with tempfile.NamedTemporaryFile(dir=self.folder, delete=False) as file:
            file.write(data)
        Path(file.name).replace(final)

    def _make_room(self, size_bytes: int) -> None:
        """Delete our own files, least recently used first, until ``size_bytes`` fit."""
        own = [p for p in self.folder.iterdir() if _OWN.fullmatch(p.name)]
        stats = sorted((p.stat().st_mtime_ns, p.stat().st_size, p) for p in own if p.exists())
        total = sum(size for _, size, _ in stats)
        for _, size, path in stats:
            if total + size_bytes <= self.limit_bytes:
                return
            path.unlink(missing_ok=True)
            total -= size


@dataclass(frozen=True, slots=True)
class ShardFiles:
    """The shards of one snapshot, and a cache for those of an object store."""

    storage: Storage
    manifest: Manifest
    cache: ShardCache
    filling: threading.Lock = field(default_factory=threading.Lock, compare=False)

    def path(self, shard: int) -> str:
        """Return a shard's path in the store."""
        return self.manifest.path(shard)

    def local(self, shard: int) -> Path:
        """Return a local file with the shard's bytes.

        Raises:
            CorruptShardError: the shard is missing, or was changed on the way here.
        """
        path = self.path(shard)
        local = self.storage.local(path)
        if local is None:
            with self.filling:
                return self.cache.fetch(self.storage, path, self.manifest.sha256(shard))
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


def default_cache() -> Path:
    """Return the user's cache folder for shards of remote stores."""
    home = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(home, "tokenmill", "shards")


def _read(storage: Storage, path: str) -> bytes:
    try:
        return storage.read(path)
    except FileNotFoundError as error:
        raise CorruptShardError(f"{path} is missing", uri=storage.uri) from error
