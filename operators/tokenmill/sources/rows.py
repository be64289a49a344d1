"""Listing batches, built column by column: a million Python objects would not fit the bound."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TypeVar

import pyarrow as pa

from tokenmill_schemas.asset import listing_schema

T = TypeVar("T")
BATCH_ROWS = 8192
IMAGE_EXTENSIONS = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".avif", ".gif"),
    *(".tif", ".tiff", ".bmp", ".jp2", ".j2k", ".jpx"),
)

#: key, uri, locator, size_bytes, version
Row = tuple[str, str, str, int, str]


def chunks(items: Iterable[T], size: int = BATCH_ROWS) -> Iterator[list[T]]:
    """Yield lists of ``size`` items, the last one shorter."""
    iterator = iter(items)
    while chunk := list(islice(iterator, size)):
        yield chunk


def batch_of(
    rows: list[Row], companions: Iterable[pa.Array] = (), *, schema: pa.Schema
) -> pa.RecordBatch:
    """Return the listing batch of ``rows``; ``companions`` are the columns of ``schema``."""
    keys, uris, locators, sizes, versions = zip(*rows, strict=True)
    core = [
        pa.array(keys, pa.string()),
        pa.array(uris, pa.string()),
        pa.array(locators, pa.string()),
        pa.repeat(pa.scalar("image", pa.string()), len(rows)),
        pa.array(sizes, pa.int64()),
        pa.array(versions, pa.string()),
    ]
    return pa.RecordBatch.from_arrays([*core, *companions], schema=listing_schema(schema))
