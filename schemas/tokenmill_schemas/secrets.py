"""What no job and no listing may hold: a store keeps both, for everyone who reads it to see.

Secrets come from the environment: `ENVIRONMENT` says by which variables.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from tokenmill_schemas.errors import JobError

#: The variables by which each kind of storage is told who asks.
ENVIRONMENT = {
    "s3": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE",
    "gs": "GOOGLE_APPLICATION_CREDENTIALS",
    "abfs": "AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY",
    "hf": "HF_TOKEN",
}
#: Other names of the same storage.
ALIASES = {"s3a": "s3", "gcs": "gs", "az": "abfs", "adl": "abfs", "abfss": "abfs"}

_SECRET_OPTION = re.compile(
    r"(?i)key|authorization|connection_string|pass(word|wd|phrase)"
    r"|(.*[_-])?(secret|token|password|sas|signature|credentials?)"
    r"|.*(secret|access|api|account|private|shared)[_-]?key([_-]?id)?"
)
#: A URL with a password, or one that is signed: S3's, Google's and Azure's names of signatures.
CREDENTIALS_IN_URL = (
    r"(?i)://[^/\s?#]*:[^/\s?#]*@"
    r"|[?&](X-Amz-Signature|X-Amz-Security-Token|X-Goog-Signature|AWSAccessKeyId|Signature|sig)="
)
_IN_URL = re.compile(CREDENTIALS_IN_URL)


def scheme_of(uri: str) -> str:
    """Return the kind of storage of a URL (``s3`` for ``s3a://`` too), "" for a local path."""
    scheme, separator, _ = uri.partition("://")
    return ALIASES.get(scheme, scheme) if separator else ""


def environment_of(scheme: str) -> str:
    """Say which variables hold the secrets of a kind of storage; fsspec reads the last form."""
    scheme = ALIASES.get(scheme, scheme)
    return ENVIRONMENT.get(scheme) or f"FSSPEC_{(scheme or 'SCHEME').upper()}_OPTION"


def has_credentials(uri: str) -> bool:
    """Whether a URL has a password in it or is signed."""
    return _IN_URL.search(uri) is not None


def check_options(options: Mapping[str, Any], *, path: str, scheme: str = "") -> None:
    """Refuse secrets among the options of a storage; ``path`` is where in the job they stand.

    Raises:
        JobError: an option is a secret; says which variables to use, and not its value.
    """
    for name, value in options.items():
        where = f"{path}.{name}"
        if _SECRET_OPTION.fullmatch(str(name)) and not isinstance(value, Mapping):
            raise JobError(_advice("is a secret", scheme), path=where)
        if isinstance(value, Mapping):
            check_options(value, path=where, scheme=scheme)


def check_urls(value: Any, *, path: str) -> None:
    """Refuse URLs with credentials anywhere in a section of a job.

    Raises:
        JobError: there is one; says which variables to use, and does not show it.
    """
    for where, text in _texts(value, path):
        if has_credentials(text):
            raise JobError(_advice("is a URL with credentials", scheme_of(text)), path=where)


def _advice(what: str, scheme: str) -> str:
    return (
        f"{what}, and a job is kept in every store that it makes: "
        f"take it out and set {environment_of(scheme)} in the environment"
    )


def _texts(value: Any, path: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, str):
        yield path, value
    elif isinstance(value, Mapping):
        for name, entry in value.items():
            yield from _texts(entry, f"{path}.{name}")
    elif isinstance(value, list | tuple):
        for entry in value:
            yield from _texts(entry, path)


def check_storage(storage: Mapping[str, Any]) -> None:
    """Check a job's ``[storage.scheme]`` tables of fsspec options.

    Raises:
        JobError: one is no table, holds a secret, or is better called by another name.
    """
    for scheme, options in storage.items():
        path = f"storage.{scheme}"
        if not isinstance(options, Mapping):
            raise JobError("must be a table of fsspec options", path=path)
        if scheme in ALIASES:
            raise JobError(f"call it storage.{ALIASES[scheme]}", path=path)
        check_options(options, path=path, scheme=scheme)
        check_urls(options, path=path)
