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

from tokenmill_infra.storage.options import environment_key, options_for, settings
from tokenmill_infra.storage.paths import without_credentials
from tokenmill_schemas.canonical import canonical_json
from tokenmill_schemas.errors import JobError
from tokenmill_schemas.secrets import environment_of, has_credentials, scheme_of

EXTRAS = {"s3": "tokenmill[s3]"}


def connect(uri: str, options: Mapping[str, Any]) -> Any:
    """Return the fsspec filesystem for ``uri``, without fsspec's cache of listings.

    ``options`` win over those of the context (`storage_options`).

    Raises:
        JobError: the URL's scheme is unknown, its package is missing, or an option is wrong.
    """
    parts, scheme = urlsplit(uri), scheme_of(uri)
    if scheme == "s3" and has_credentials(uri):
        raise JobError(
            f"{without_credentials(uri)} was given with credentials in the URL, where they would "
            f"be written to logs and stores; set {environment_of(scheme)} in the environment"
        )
    return _connect(
        (os.getpid(), environment_key(scheme)),
        f"{parts.scheme}://{parts.netloc}",
        canonical_json(options_for(uri, options)),
    )


@functools.lru_cache(maxsize=64)
def _connect(_process: tuple[int, str], place: str, options: bytes) -> Any:
    from fsspec.core import url_to_fs

    shown, scheme = without_credentials(place), scheme_of(place)
    try:
        filesystem = url_to_fs(place, **settings(scheme, json.loads(options)))[0]
    except ImportError as error:
        extra = EXTRAS.get(scheme)
        # fsspec's own text names the package: its modules are not called as what one installs.
        hint = f"pip install '{extra}'" if extra else str(error)
        raise JobError(f"{shown} needs a package that is not installed: {hint}") from error
    except (ValueError, TypeError) as error:
        raise JobError(f"cannot open {shown}: {error}") from error
    if scheme == "s3":
        # s3fs tries each request five times of its own accord; one try a request of ours.
        filesystem.retries = 1
    return filesystem


def path_of(uri: str) -> str:
    """Return the path by which the filesystem of ``uri`` knows it."""
    from fsspec.core import strip_protocol

    return str(strip_protocol(uri)).rstrip("/")
