"""What verification asks of one file: its hash, and whether its tokens are of their streams."""

from __future__ import annotations

import hashlib

import numpy as np
import pyarrow as pa

from tokenmill.shards.columns import decode_stream
from tokenmill_infra.storage.storage import Storage
from tokenmill_schemas.arrow import Packing
from tokenmill_schemas.errors import StoreError
from tokenmill_schemas.tokens import Stream, TokenSpec


def file_digest(storage: Storage, path: str) -> tuple[str, int]:
    """Return a file's sha256 and its size in bytes."""
    local = storage.local(path)
    if local is None:
        data = storage.read(path)
        return hashlib.sha256(data).hexdigest(), len(data)
    with local.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest(), local.stat().st_size


def words(storage: Storage, error: StoreError) -> str:
    """Return an error's message with the file first, as all problems have it."""
    uri = storage.uri
    return str(error).removeprefix(f"{uri}: ").removeprefix(f"{uri.rstrip('/')}/")


def value_problems(batch: pa.RecordBatch, spec: TokenSpec, packing: Packing) -> str:
    """Return which stream holds values that it cannot, in words; "" if none does."""
    for stream in spec.streams:
        problem = _range_problem(batch, stream, packing)
        if problem:
            return problem
    return ""


def _range_problem(batch: pa.RecordBatch, stream: Stream, packing: Packing) -> str:
    values = decode_stream(batch, stream, packing)
    arrays = values if isinstance(values, list) else [values]
    for array in arrays:
        if stream.kind == "index" and array.size:
            tops = np.asarray(stream.vocab_sizes, dtype=np.uint64)
            if np.any(array.astype(np.uint64) >= tops):
                return f"stream {stream.name!r} holds ids outside its vocabulary"
        if stream.kind == "float" and stream.dtype != "bfloat16" and not np.isfinite(array).all():
            return f"stream {stream.name!r} holds values that are not finite"
    return ""
