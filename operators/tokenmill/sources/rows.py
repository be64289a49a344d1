"""Listing batches, built column by column: a million Python objects would not fit the bound."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Literal, TypeVar

import pyarrow as pa
import pyarrow.compute as pc

from tokenmill_infra.storage.paths import without_credentials
from tokenmill_schemas.asset import EXTENSIONS, Modality, listing_schema, modality_of
from tokenmill_schemas.errors import JobError
from tokenmill_schemas.secrets import CREDENTIALS_IN_URL, environment_of, scheme_of

T = TypeVar("T")
BATCH_ROWS = 8192
MEDIA_EXTENSIONS = tuple(extension for known in EXTENSIONS.values() for extension in known)
#: How a source tells the modality of its assets: by their names' extensions, or all alike.
ModalityRule = Literal["auto", "image", "video", "shape"]

#: key, uri, locator, size_bytes, version
Row = tuple[str, str, str, int, str]


def chunks(items: Iterable[T], size: int = BATCH_ROWS) -> Iterator[list[T]]:
    """Yield lists of ``size`` items, the last one shorter."""
    iterator = iter(items)
    while chunk := list(islice(iterator, size)):
        yield chunk


def modalities_of(names: Iterable[str], rule: ModalityRule) -> list[Modality]:
    """Return the modality of each asset by its file's name, or what the rule says."""
    return [modality_of(name) if rule == "auto" else rule for name in names]


def batch_of(
    rows: list[Row],
    companions: Iterable[pa.Array] = (),
    *,
    modalities: list[Modality],
    schema: pa.Schema,
) -> pa.RecordBatch:
    """Return the listing batch of ``rows``; ``companions`` are the columns of ``schema``.

    Raises:
        JobError: a uri has credentials in it, which every reader of the store would see.
    """
    keys, uris, locators, sizes, versions = zip(*rows, strict=True)
    places = pa.array(uris, pa.string())
    _check_uris(keys, places)
    core = [
        pa.array(keys, pa.string()),
        places,
        pa.array(locators, pa.string()),
        pa.array(modalities, pa.string()),
        pa.array(sizes, pa.int64()),
        pa.array(versions, pa.string()),
    ]
    return pa.RecordBatch.from_arrays([*core, *companions], schema=listing_schema(schema))


def _check_uris(keys: Sequence[str], uris: pa.Array) -> None:
    bad = pc.match_substring_regex(uris, CREDENTIALS_IN_URL)
    first = pc.index(bad, True).as_py()
    if first >= 0:
        scheme, key = scheme_of(uris[first].as_py()), without_credentials(str(keys[first]))
        raise JobError(
            f"the uri of {key!r} has a password in it or is signed, and listings are kept in "
            f"the store: list plain URLs, and set {environment_of(scheme)} in the environment",
            path="source.urls",
        )
