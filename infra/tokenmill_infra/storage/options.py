"""Options of remote storages: what a caller gives, what a job says for all, what is always set.

The options of a job reach everything that it opens through a context variable, because checkpoints
are named in many places and carry no options of their own. Who hands work to threads that open
something hands it over `carried`.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar, copy_context
from types import MappingProxyType
from typing import Any, ParamSpec, TypeVar

from tokenmill_schemas.errors import JobError
from tokenmill_schemas.secrets import scheme_of
from tokenmill_schemas.strict import nearest

P = ParamSpec("P")
T = TypeVar("T")

#: Requests of one process to one object store that may be under way at once, over all its threads;
#: more wait for a connection of the pool.
CONNECTIONS = 32

_NONE: Mapping[str, Mapping[str, Any]] = MappingProxyType({})
_TABLES: ContextVar[Mapping[str, Mapping[str, Any]]] = ContextVar("storage", default=_NONE)


@contextmanager
def storage_options(tables: Mapping[str, Mapping[str, Any]]) -> Iterator[None]:
    """Have everything opened in this context use the options of ``tables``, by kind of storage.

    Raises:
        JobError: there is no such kind of storage.
    """
    from fsspec import available_protocols

    for scheme in tables:
        if scheme not in available_protocols():
            text = f"is no kind of storage; {nearest(scheme, available_protocols())}"
            raise JobError(text, path=f"storage.{scheme}")
    token = _TABLES.set(tables)
    try:
        yield
    finally:
        _TABLES.reset(token)


def carried(function: Callable[P, T]) -> Callable[P, T]:
    """Return ``function`` as to be called in other threads: with the options of this context."""
    context = copy_context()

    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        # A copy for each call, for a context can be entered by one thread at a time.
        return context.copy().run(function, *args, **kwargs)

    return call


def options_for(uri: str, options: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return the options for a URL: those of the context, with ``options`` over them."""
    return {**_TABLES.get().get(scheme_of(uri), {}), **(options or {})}


def settings(scheme: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a filesystem is made with: ``options`` and what holds whatever they say."""
    # A listing cached in a client would hide what other processes wrote meanwhile.
    given = {"use_listings_cache": False, **options, "skip_instance_cache": True}
    return _s3(given) if scheme == "s3" else given


def _s3(options: dict[str, Any]) -> dict[str, Any]:
    """Bound the connections, and leave every retry to `tokenmill_infra.storage.retry`."""
    config = {"max_pool_connections": CONNECTIONS, **options.get("config_kwargs", {})}
    config.setdefault("retries", {"total_max_attempts": 1})
    client = dict(options.get("client_kwargs", {}))
    # Of the two names of this variable botocore reads only the other one.
    if "AWS_REGION" in os.environ and "AWS_DEFAULT_REGION" not in os.environ:
        client.setdefault("region_name", os.environ["AWS_REGION"])
    return {**options, "config_kwargs": config, "client_kwargs": client}


def environment_key(scheme: str) -> str:
    """Return a digest of the variables that a client reads when it is made."""
    prefixes = ("AWS_", "FSSPEC_") if scheme == "s3" else ("FSSPEC_",)
    read = sorted(f"{k}={v}" for k, v in os.environ.items() if k.startswith(prefixes))
    return hashlib.sha256("\n".join(read).encode()).hexdigest() if read else ""
