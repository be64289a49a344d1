"""Hashing assets while they are listed, for jobs that tell them by their content."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pyarrow as pa

from tokenmill.sources.base import Source
from tokenmill.sources.opening import as_asset_errors
from tokenmill.sources.rows import chunks
from tokenmill_infra.storage import carried
from tokenmill_schemas.asset import ASSET_NAMES, DUPLICATE, AssetRef, refs_of
from tokenmill_schemas.errors import AssetError
from tokenmill_schemas.increment import ContentOf

#: Bytes that are read at a time.
READ_BYTES = 2**20
#: Assets that a thread takes at a time: neighbours, as a table's rows are read in their order.
PIECE_ASSETS = 64


def content_hash(source: Source, ref: AssetRef) -> str:
    """Return the sha256 (hex) of an asset's bytes, "" if it is not there or cannot be read.

    Raises:
        TransientError: the storage failed for a passing reason, after its retries.
    """
    sha = hashlib.sha256()
    try:
        with as_asset_errors(ref), source.open(ref) as stream:
            while data := stream.read(READ_BYTES):
                sha.update(data)
    except AssetError:
        return ""
    return sha.hexdigest()


@contextmanager
def content_hasher(
    source: Source, *, modalities: Collection[str], threads: int, tell: Callable[[int], None]
) -> Iterator[ContentOf]:
    """Hash on ``threads`` threads for as long as the block runs.

    Assets of other ``modalities`` than those that are read, and repeated ones, get no hash. A
    remote object of up to 64 MB is in memory while it is hashed. ``tell`` is called, in the
    caller's thread, with the number of assets that were looked at since.
    """

    def hashes(refs: list[AssetRef]) -> list[str]:
        wanted = (r.modality in modalities and r.locator != DUPLICATE for r in refs)
        return [content_hash(source, r) if w else "" for r, w in zip(refs, wanted, strict=True)]

    with ThreadPoolExecutor(threads, "tokenmill-hash") as pool:

        def content(batch: pa.RecordBatch) -> list[str]:
            found: list[str] = []
            refs = refs_of(batch.select(list(ASSET_NAMES)))
            for part in pool.map(carried(hashes), chunks(refs, PIECE_ASSETS)):
                found += part
                tell(len(part))
            return found

        yield content
