"""Locks between processes that no kill leaves behind: byte ranges of one file, kept by the kernel.

They are locks of open file descriptions (``F_OFD_SETLK``, Linux 3.15), which the kernel gives up
with the last descriptor. A child that was forked while its parent held some has that descriptor
too; it closes it with `drop_inherited`, so that they end with the parent.
"""

from __future__ import annotations

import fcntl
import os
import struct
import threading
import time
from pathlib import Path

#: ``struct flock``: type, whence, start, length, process id (which must be 0).
_FLOCK = struct.Struct("hhqqi4x")
#: Waits between two tries for a lock, in seconds: the first and the longest.
FIRST_WAIT_S, LONGEST_WAIT_S = 0.0002, 0.01

#: Descriptors that are open in this process or, after a fork, were in its parent: (pid, file).
_OPEN: dict[int, tuple[int, tuple[int, int]]] = {}


class LockFile:
    """A process' descriptor of a lock file: one owner of locks, which excludes other processes.

    The file is made when it is first asked for, again if somebody deleted it, and never removed
    here. Threads of one process do not exclude each other.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor: int | None = None
        self._opening = threading.Lock()

    def open(self) -> int:
        """Return the descriptor, of the file that is there now.

        Raises:
            OSError: the folder cannot be made or written to.
        """
        with self._opening:
            if self._descriptor is not None and not self._is_there(self._descriptor):
                self.close()
            if self._descriptor is None:
                descriptor = _opened(self._path)
                _OPEN[descriptor] = os.getpid(), _file(os.fstat(descriptor))
                self._descriptor = descriptor
            return self._descriptor

    def close(self) -> None:
        """Give up all locks."""
        if self._descriptor is not None:
            # Forgotten first: a child forked in between must not close what the number then means.
            _OPEN.pop(self._descriptor, None)
            _set(self._descriptor, fcntl.F_UNLCK, 0, 0)
            os.close(self._descriptor)
            self._descriptor = None

    def try_lock(self, start: int, *, shared: bool = False) -> bool:
        """Take the lock of the byte at ``start``; whether it was free.

        Raises:
            OSError: the file cannot be opened.
        """
        descriptor = self.open() if self._descriptor is None else self._descriptor
        try:
            _set(descriptor, fcntl.F_RDLCK if shared else fcntl.F_WRLCK, start, 1)
        except BlockingIOError:
            return False
        return True

    def lock(self, start: int, *, patience_s: float) -> bool:
        """Take the lock of the byte at ``start``; False if patience ran out before it was free.

        It asks again and again, and does not wait in the kernel: the holder may be stopped or
        stuck for good, and then the work has to go on without the lock.

        Raises:
            OSError: the file cannot be opened.
        """
        end, wait = time.monotonic() + patience_s, FIRST_WAIT_S
        while not self.try_lock(start):
            if time.monotonic() + wait > end:
                return False
            time.sleep(wait)
            wait = min(2 * wait, LONGEST_WAIT_S)
        return True

    def unlock(self, start: int) -> None:
        """Give up the lock of the byte at ``start``."""
        if self._descriptor is not None:
            _set(self._descriptor, fcntl.F_UNLCK, start, 1)

    def _is_there(self, descriptor: int) -> bool:
        try:
            return _file(self._path.stat()) == _OPEN[descriptor][1]
        except FileNotFoundError:
            return False


def drop_inherited() -> None:
    """Close the descriptors that came over a fork: the parent's locks are the parent's."""
    for descriptor, (pid, file) in list(_OPEN.items()):
        if pid == os.getpid():
            continue
        del _OPEN[descriptor]
        try:
            if _file(os.fstat(descriptor)) == file:
                os.close(descriptor)
        except OSError:  # closed already
            continue


def _opened(path: Path) -> int:
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
    try:
        return os.open(path, flags, 0o600)
    except FileNotFoundError:
        path.parent.mkdir(parents=True, exist_ok=True)
        return os.open(path, flags, 0o600)


def _set(descriptor: int, kind: int, start: int, length: int) -> None:
    fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, _FLOCK.pack(kind, os.SEEK_SET, start, length, 0))


def _file(found: os.stat_result) -> tuple[int, int]:
    return found.st_dev, found.st_ino
