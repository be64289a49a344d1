"""Shard files: columns to bytes and back; one module a format."""

from __future__ import annotations

from pathlib import Path

from tokenmill.plugins import find, kinds
from tokenmill.shards.base import ShardFormat, ShardReader
from tokenmill_schemas.errors import StoreError


def read_format(name: str) -> ShardFormat:
    """Return the shard format of that kind: ``arrow``, ``webdataset``, or ``module:Class``.

    Raises:
        JobError: there is no such format.
    """
    found: ShardFormat = find(__name__, name, path="shards.format")()
    return found


def open_shard(path: Path) -> ShardReader:
    """Open a shard at a local path; its suffix says which format it has.

    Raises:
        StoreError: no format has this suffix.
        CorruptShardError: the file is not a whole shard of its format.
    """
    suffixes: list[str] = []
    for name in kinds(__name__):
        candidate = read_format(name)
        if path.suffix == f".{candidate.suffix}":
            return candidate.reader(path)
        suffixes.append(f".{candidate.suffix}")
    raise StoreError(f"no shard format ends in {path.suffix!r}, only {suffixes}", uri=str(path))
