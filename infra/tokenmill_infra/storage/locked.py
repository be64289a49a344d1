"""Folders for files on their way: one a user, held by a file lock for as long as its process lives.

Whoever opens the next one can therefore tell what a killed process left behind, and remove it.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def locked_folder(parent: Path) -> Iterator[Path]:
    """Give an empty folder in ``parent``; in the end it goes, and ``parent`` too if it is empty."""
    folder = parent / uuid.uuid4().hex
    lock, descriptor = folder.with_suffix(".lock"), None
    while descriptor is None:
        # In the loop: another user that was the last one may have removed it meanwhile.
        _make(parent)
        descriptor = _try_lock(lock)
    try:
        folder.mkdir()
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        lock.unlink(missing_ok=True)
        os.close(descriptor)
        with suppress(OSError):
            parent.rmdir()


def sweep(parent: Path) -> None:
    """Remove the folders in ``parent`` whose processes are gone, and ``parent`` if it is empty."""
    for lock in _locks(parent):
        descriptor = _try_lock(lock)
        if descriptor is None:
            continue
        shutil.rmtree(lock.with_suffix(""), ignore_errors=True)
        lock.unlink(missing_ok=True)
        os.close(descriptor)
    with suppress(OSError):
        parent.rmdir()


def _make(parent: Path) -> None:
    # Not `Path.mkdir(exist_ok=True)`, which fails if the folder goes between its two looks.
    with suppress(FileExistsError):
        try:
            os.mkdir(parent)  # noqa: PTH102
        except FileNotFoundError:
            parent.parent.mkdir(parents=True, exist_ok=True)
            os.mkdir(parent)  # noqa: PTH102


def _locks(parent: Path) -> list[Path]:
    try:
        return sorted(path for path in parent.iterdir() if path.suffix == ".lock")
    except FileNotFoundError:
        return []


def _try_lock(lock: Path) -> int | None:
    """Return a descriptor that holds the lock, or None if another process does or swept it."""
    try:
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT, 0o600)
    except FileNotFoundError:  # the whole parent went
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # A sweeper may have unlinked the file between its opening and its locking.
        if lock.stat().st_ino == os.fstat(descriptor).st_ino:
            return descriptor
    except (BlockingIOError, FileNotFoundError):
        pass
    os.close(descriptor)
    return None
