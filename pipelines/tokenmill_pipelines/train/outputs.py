"""Where a training's files lie: the report's name, and files that are written anew."""

from __future__ import annotations

from datetime import datetime

from tokenmill_infra.storage import Storage

REPORTS = "reports"


def address(storage: Storage, path: str) -> str:
    """Return a local file's path, or an object's URL."""
    local = storage.local(path)
    return str(local) if local is not None else f"{storage.uri.rstrip('/')}/{path}"


def report_path(step: int, started_at: datetime) -> str:
    """Return the name of a page; no two runs' pages have one name."""
    return f"{REPORTS}/{step:09d}-{started_at.strftime('%Y%m%dT%H%M%S%f')[:-3]}.html"


def put(storage: Storage, path: str, data: bytes) -> None:
    """Write a file in place of one of that name; equal bytes are left alone."""
    if storage.size(path) == len(data) and storage.read(path) == data:
        return
    storage.delete(path)
    storage.create(path, data)
