"""What the listings in tables (Parquet, JSONL) share: from a row's values to an asset."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tokenmill.sources.places import local_path, stat_version
from tokenmill.sources.rows import Row


@dataclass(frozen=True, slots=True)
class Names:
    """The names of a listing's columns that are not companions; "" where there is none."""

    uri: str = "uri"
    key: str = ""
    size: str = ""
    version: str = ""

    def all(self) -> list[str]:
        """The columns that there are."""
        return [name for name in (self.uri, self.key, self.size, self.version) if name]


def folder_of(url: str) -> str:
    """Return the folder that a listing lies in, to which its relative uris are relative."""
    return url.rpartition("/")[0]


def resolved(uri: str, base: str) -> str:
    """Return ``uri``, if relative then below ``base``; "" stays."""
    if not uri or "://" in uri or uri.startswith("/"):
        return uri
    return f"{base.rstrip('/')}/{uri}"


def row_of(values: dict[str, Any], names: Names, *, base: str, default_key: str) -> Row:
    """Return the asset of one row.

    Without a size column local files are looked at; one that is missing gets size -1, for it is its
    own fault and not the listing's.
    """
    given = values.get(names.uri)
    uri = resolved("" if given is None else str(given), base)
    key = values.get(names.key) if names.key else given
    size, version = _measured(uri) if not names.size else (-1, "")
    if names.size and values.get(names.size) is not None:
        size = int(values[names.size])
    if names.version:
        version = str(values.get(names.version) or "")
    return default_key if key is None else str(key), uri, "", size, version


def _measured(uri: str) -> tuple[int, str]:
    path = local_path(uri)
    if not path:
        return -1, ""
    try:
        status = os.stat(path)  # noqa: PTH116 - no Path object for each of a million rows
    except (OSError, ValueError):
        return -1, ""
    return status.st_size, stat_version(status)


def rows_of(
    values: Sequence[dict[str, Any]], names: Names, *, base: str, default_keys: Sequence[str]
) -> list[Row]:
    """Return the assets of many rows, in order."""
    return [
        row_of(row, names, base=base, default_key=key)
        for row, key in zip(values, default_keys, strict=True)
    ]
