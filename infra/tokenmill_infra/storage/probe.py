"""Asking a storage, by trying, whether files can be made in it and more than one writer is safe."""

from __future__ import annotations

import os
import uuid
from contextlib import suppress

from tokenmill_infra.storage.local import SCRATCH
from tokenmill_infra.storage.storage import Storage

#: The folder that is made and removed to see whether one can be.
PROBE = ".tokenmill-probe"


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


def probe_folder(storage: Storage) -> None:
    """Try to make something where a local storage is or would be; leaves nothing behind.

    Permission bits do not tell: not of a read-only mount, nor to a superuser. An object store
    is not asked, for its first request will tell.

    Raises:
        OSError: nothing can be made there.
    """
    scratch = storage.local(SCRATCH)
    if scratch is None:
        return
    folder = scratch.parent
    while not os.path.lexists(folder):
        folder = folder.parent
    # One name for all, so that what a killed process left goes with the next.
    mark = folder / PROBE
    with suppress(FileExistsError):
        mark.mkdir()
    with suppress(FileNotFoundError):
        mark.rmdir()
