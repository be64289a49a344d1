"""Locks between processes that no kill leaves behind: byte ranges of one file, kept by the kernel.

They are locks of open file descriptions (``F_OFD_SETLK``, Linux 3.15): each descriptor here is an
owner of its own, threads exclude each other like processes, and the kernel gives the lock up with
the last descriptor. A child that was forked while its parent held some has those descriptors too;
it closes them with `drop_inherited`, so that they end with the parent.
"""

from __future__ import annotations

import fcntl
import os
import struct
import time
from pathlib import Path

#: ``struct flock``: type, whence, start, length, process id (which must be 0).
_FLOCK = struct.Struct("hhqqi4x")
#: Waits between two tries for a lock, in seconds: the first and the longest.
FIRST_WAIT_S, LONGEST_WAIT_S = 0.0002, 0.01

#: Descriptors that are open in this process or, after a fork, were in its parent: (pid, file).
_OPEN: dict[int, tuple[int, tuple[int, int]]] = {}


def open_lock(path: Path) -> int:
    """Open the lock file, which is made if it is not there and never removed; an owner of locks.

    Raises:
        OSError: the folder cannot be made or written to.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
    try:
        descriptor = os.open(path, flags, 0o600)
    except FileNotFoundError:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, flags, 0o600)
    _OPEN[descriptor] = os.getpid(), _file(descriptor)
    return descriptor


def close_lock(descriptor: int) -> None:
    """Close a descriptor of `open_lock`; its locks are given up, also where children have it."""
    # Forgotten first: a child forked in between must not close what the number means by then.
    _OPEN.pop(descriptor, None)
    _set(descriptor, fcntl.F_UNLCK, 0, 0)
    os.close(descriptor)


def drop_inherited() -> None:
    """Close the descriptors that came over a fork: the parent's locks are the parent's."""
    for descriptor, (pid, file) in list(_OPEN.items()):
        if pid == os.getpid():
            continue
        del _OPEN[descriptor]
        try:
            if _file(descriptor) == file:
                os.close(descriptor)
        except OSError:  # closed already
            continue


def try_lock(descriptor: int, start: int, *, shared: bool = False) -> bool:
    """Take the lock of the byte at ``start``; whether it was free."""
    try:
        _set(descriptor, fcntl.F_RDLCK if shared else fcntl.F_WRLCK, start, 1)
    except BlockingIOError:
        return False
    return True


def unlock(descriptor: int, start: int) -> None:
    """Give up the lock of the byte at ``start``."""
    _set(descriptor, fcntl.F_UNLCK, start, 1)


def take_lock(descriptor: int, start: int, *, patience_s: float) -> bool:
    """Take the lock of the byte at ``start``; False if patience ran out before it was free.

    It asks again and again, and does not wait in the kernel: the holder may be stopped or stuck
    for good, and then the work has to go on without the lock.
    """
    end, wait = time.monotonic() + patience_s, FIRST_WAIT_S
    while not try_lock(descriptor, start):
        if time.monotonic() + wait > end:
            return False
        time.sleep(wait)
        wait = min(2 * wait, LONGEST_WAIT_S)
    return True


def _set(descriptor: int, kind: int, start: int, length: int) -> None:
    fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, _FLOCK.pack(kind, os.SEEK_SET, start, length, 0))


def _file(descriptor: int) -> tuple[int, int]:
    found = os.fstat(descriptor)
    return found.st_dev, found.st_ino
