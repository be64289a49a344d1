"""What every source must hold to: run these checks over a source of your own."""

from __future__ import annotations

import pickle

import pyarrow as pa

from tokenmill.sources.base import Source
from tokenmill_schemas.asset import AssetRef, listing_schema, refs_of
from tokenmill_schemas.errors import AssetError

MAX_BATCH_ROWS = 20_000


def check_source(source: Source, *, bad: frozenset[str] = frozenset()) -> list[AssetRef]:
    """Check a source and return its refs; the keys in ``bad`` must fail to open, all others open.

    Raises:
        AssertionError: it breaks the contract of `tokenmill.sources.base.Source`; says how.
    """
    batches = list(source.list())
    _check_batches(source, batches)
    copy = pickle.loads(pickle.dumps(source))  # noqa: S301 - our own bytes
    _need(copy == source, "a pickled copy is not equal")
    _need(list(copy.list()) == batches, "a second listing differs from the first")
    refs = [ref for batch in batches for ref in refs_of(batch)]
    keys = [ref.key for ref in refs]
    _need(len(set(keys)) == len(keys), "two assets share a key")
    _need(bad <= set(keys), f"bad assets are not listed: {sorted(bad - set(keys))}")
    for ref in refs:
        _check_open(copy, pickle.loads(pickle.dumps(ref)), bad=ref.key in bad)  # noqa: S301
    return refs


def _check_batches(source: Source, batches: list[pa.RecordBatch]) -> None:
    schema = listing_schema(source.companions())
    for batch in batches:
        _need(batch.schema.equals(schema), f"a batch has {batch.schema}, promised was {schema}")
        _need(0 < batch.num_rows <= MAX_BATCH_ROWS, f"a batch has {batch.num_rows} rows")
        batch.validate(full=True)


def _check_open(source: Source, ref: AssetRef, *, bad: bool) -> None:
    try:
        with source.open(ref) as stream:
            data = stream.read()
            stream.seek(0)
            _need(stream.read(1) == data[:1], f"{ref.key}: the stream does not seek")
            _need(ref.size_bytes in {-1, len(data)}, f"{ref.key}: {len(data)} bytes are not listed")
    except AssetError as error:
        _need(bad, f"{ref.key} does not open: {error}")
        _need(error.stage == "fetch", f"{ref.key}: the error names stage {error.stage!r}")
        return
    _need(not bad, f"{ref.key} opens, and should not")


def _need(holds: bool, text: str) -> None:
    if not holds:
        raise AssertionError(text)
