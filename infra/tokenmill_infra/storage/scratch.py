"""Scratch folders: where a shard is spooled before `Storage.create_from` takes it.

Each one is held by a file lock for as long as its process lives, so that whoever opens the next one
can tell what a killed process left behind, and remove it.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tokenmill_infra.storage.local import LocalStorage
from tokenmill_infra.storage.storage import Storage

SCRATCH = ".scratch"


@contextmanager
def scratch(storage: Storage) -> Iterator[Path]:
    """Give an empty folder for files on their way into ``storage``, removed at the end.

    In a local storage it lies inside the root, hidden, so that files move by linking; for an object
    store it lies in the machine's temporary folder.
    """
    if isinstance(storage, LocalStorage):
        parent = storage.root / SCRATCH
    else:
        # The user's id in the name: the temporary folder is shared between users.
        parent = Path(tempfile.gettempdir()) / f"tokenmill-scratch-{os.getuid()}"
    parent.mkdir(parents=True, exist_ok=True)
    sweep(parent)
    with _locked_folder(parent) as folder:
        yield folder


@contextmanager
def _locked_folder(parent: Path) -> Iterator[Path]:
    folder = parent / uuid.uuid4().hex
    lock, descriptor = folder.with_suffix(".lock"), None
    while descriptor is None:
        descriptor = _try_lock(lock)
    try:
        folder.mkdir()
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        lock.unlink(missing_ok=True)
        os.close(descriptor)


def sweep(parent: Path) -> None:
    """Remove the scratch folders in ``parent`` whose processes are gone."""
    for lock in sorted(parent.glob("*.lock")):
        descriptor = _try_lock(lock)
        if descriptor is None:
            continue
        shutil.rmtree(lock.with_suffix(""), ignore_errors=True)
        lock.unlink(missing_ok=True)
        os.close(descriptor)


def _try_lock(lock: Path) -> int | None:
    """Return a descriptor that holds the lock, or None if another process does or swept it."""
    descriptor = os.open(lock, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # A sweeper may have unlinked the file between its opening and its locking.
        if lock.stat().st_ino == os.fstat(descriptor).st_ino:
            return descriptor
    except (BlockingIOError, FileNotFoundError):
        pass
    os.close(descriptor)
    return None
