"""Connections to fsspec filesystems, one per process and place, shared by its threads.

fsspec's own instance cache has one entry per thread, each with a connection pool of its own; the
clients are thread-safe, so one for all threads saves handshakes and sockets.
"""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from tokenmill_infra.storage.paths import without_credentials
from tokenmill_schemas.canonical import canonical_json
from tokenmill_schemas.errors import JobError

EXTRAS = {"s3": "tokenmill[s3]", "s3a": "tokenmill[s3]"}


def connect(uri: str, options: Mapping[str, Any]) -> Any:
    """Return the fsspec filesystem for ``uri``, without fsspec's cache of listings.

    Raises:
        JobError: the URL's scheme is unknown, its package is missing, or an option is wrong.
    """
    parts = urlsplit(uri)
    return _connect(os.getpid(), f"{parts.scheme}://{parts.netloc}", canonical_json(dict(options)))


@functools.lru_cache(maxsize=64)
def _connect(_pid: int, place: str, options: bytes) -> Any:
    from fsspec.core import url_to_fs

    shown = without_credentials(place)
    scheme = place.partition("://")[0]
    # A listing cached here would hide what other processes wrote meanwhile.
    settings = {"use_listings_cache": False, **json.loads(options), "skip_instance_cache": True}
    try:
        return url_to_fs(place, **settings)[0]
    except ImportError as error:
        extra = EXTRAS.get(scheme)
        # fsspec's own text names the package: its modules are not called as what one installs.
        hint = f"pip install '{extra}'" if extra else str(error)
        raise JobError(f"{shown} needs a package that is not installed: {hint}") from error
    except (ValueError, TypeError) as error:
        raise JobError(f"cannot open {shown}: {error}") from error


def path_of(uri: str) -> str:
    """Return the path by which the filesystem of ``uri`` knows it."""
    from fsspec.core import strip_protocol

    return str(strip_protocol(uri)).rstrip("/")
