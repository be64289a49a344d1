"""Bytes: one small interface over fsspec, with exclusive create and one retry policy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tokenmill_infra.storage.exclusive import writing
from tokenmill_infra.storage.local import LocalStorage
from tokenmill_infra.storage.options import carried, storage_options
from tokenmill_infra.storage.paths import local_root
from tokenmill_infra.storage.probe import probe, probe_folder
from tokenmill_infra.storage.ranges import open_ranges
from tokenmill_infra.storage.scratch import scratch
from tokenmill_infra.storage.storage import Entry, Storage
from tokenmill_schemas.errors import JobError

__all__ = [
    "Entry",
    "Storage",
    "carried",
    "open_ranges",
    "open_storage",
    "probe",
    "probe_folder",
    "scratch",
    "storage_options",
    "writing",
]


def open_storage(uri: str, options: Mapping[str, Any] | None = None) -> Storage:
    """Return the storage rooted at ``uri``: a local folder or any fsspec URL (``s3://...``).

    ``options`` are fsspec's for that filesystem, over those of the context (`storage_options`).
    Credentials belong into the environment.

    Raises:
        JobError: options were given for a local folder, or the URL's filesystem is not installed.
    """
    root = local_root(uri)
    if root is None:
        from tokenmill_infra.storage.objects import open_objects

        return open_objects(uri, dict(options or {}))
    if options:
        raise JobError(f"a local store takes no options, got {sorted(options)}", path="options")
    return LocalStorage(root)
