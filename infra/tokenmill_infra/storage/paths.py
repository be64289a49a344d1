"""Paths below a storage's root, and roots that may be shown."""

from __future__ import annotations

from pathlib import Path

LOCAL_SCHEMES = ("file", "local")


def checked(path: str) -> str:
    """Return ``path`` if it names something below a root.

    Raises:
        ValueError: it is empty, absolute, or has empty, ``.`` or ``..`` parts.
    """
    if not path or any(part in {"", ".", ".."} for part in path.split("/")):
        raise ValueError(f"{path!r} is not a path relative to a storage's root")
    return path


def local_root(uri: str) -> Path | None:
    """Return the absolute folder that ``uri`` names, or None if it is not on a local disk."""
    scheme, separator, rest = uri.partition("://")
    if not separator:
        return Path(uri).expanduser().absolute()
    return Path(rest).expanduser().absolute() if scheme in LOCAL_SCHEMES else None


def without_credentials(uri: str) -> str:
    """Return ``uri`` without ``user:password@`` and without a query, so that it may be logged."""
    scheme, separator, rest = uri.partition("://")
    if not separator:
        return uri
    authority, slash, path = rest.partition("?")[0].partition("/")
    return f"{scheme}://{authority.rpartition('@')[2]}{slash}{path}".rstrip("/")
