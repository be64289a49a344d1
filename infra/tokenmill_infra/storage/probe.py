"""Asking a storage, by trying, whether more than one writer is safe on it."""

from __future__ import annotations

import uuid

from tokenmill_infra.storage.storage import Storage


def probe(storage: Storage) -> bool:
    """Return whether the second of two creates of one key fails, as every commit relies on.

    Some object stores accept the condition and ignore it: both creates succeed there, and two
    writers would lose each other's commits. The key is deleted again.
    """
    key = f"_probe-{uuid.uuid4().hex}"
    storage.create(key, b"first")
    try:
        storage.create(key, b"second")
    except FileExistsError:
        return storage.read(key) == b"first"
    else:
        return False
    finally:
        storage.delete(key)
