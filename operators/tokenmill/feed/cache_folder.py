"""A folder of checked blocks that the processes of a node share, of a hard byte limit.

Three things are locked, all as bytes of one permanent lock file (`tokenmill.feed.locks`), so a
killed process leaves none behind:

- the *books*: whoever writes, renames or deletes a file here holds them. Room is booked, and taken
  from the file system, before the first byte is written, and given back after a file is gone, so
  the sum in the books is never below what lies in the folder, whenever a process is killed.
- the *fill* of one block, so that one process fetches it and the others wait.
- the *pins* of one block, shared: what a process has mapped is not evicted, for its space would not
  come free.

Only files whose names are of this cache's making are counted, and only those are deleted.
"""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
import re
import stat
import struct
import threading
import time
import uuid
import weakref
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path

import pyarrow as pa

from tokenmill.feed.locks import close_lock, drop_inherited, open_lock, take_lock, try_lock, unlock

LOCK_FILE = "tokenmill-cache.lock"
#: Names that the cache gives: of a block, and of one that is being written.
_OWN = re.compile(r"([0-9a-f]{64}\.(?:shard|[0-9]+-[0-9]+))(\.[0-9a-f]{32}\.partial)?")
#: The books, in the lock file: a magic number and the bytes that are booked.
_BOOKS = struct.Struct("<8sq")
_MAGIC = b"tmcache1"
#: Bytes of the lock file that stand for the locks; to the latter two is added a name's hash.
_BOOKS_LOCK, _FILL_LOCKS, _PIN_LOCKS = 0, 1 << 61, 1 << 62
#: How long a process waits for the books, which are held for milliseconds.
BOOKS_PATIENCE_S = 10.0
#: Part of the limit that an eviction frees beyond what it must, for it looks at every file.
SLACK = 32
#: How long nothing is kept after an eviction found everything in use.
FULL_S = 5.0

_log = logging.getLogger(__name__)


class CacheFolder:
    """One process' side of the folder; threads share it. Failures of the disk are told once."""

    def __init__(self, folder: Path, limit_bytes: int) -> None:
        self._folder, self._limit = folder, limit_bytes
        self._lock_file = folder / LOCK_FILE
        self._lock = threading.Lock()
        self._pins: Counter[str] = Counter()
        self._pin_owner: int | None = None
        # Finalizers only append here: one may run in the middle of anything, under any lock.
        self._dropped: deque[str] = deque()
        self._counted = self._told = False
        self._patience_s = BOOKS_PATIENCE_S
        self._full_until = 0.0
        self.verified: set[int] = set()

    def open(self, name: str, size_bytes: int) -> pa.Buffer | None:
        """Map a block; None if it is not there or not as long as it must be.

        It cannot be evicted as long as the buffer lives.
        """
        if not self._pin(name):
            return None
        buffer = self._map(name, size_bytes)
        if buffer is None:
            self._dropped.append(name)
            return None
        weakref.finalize(buffer, self._dropped.append, name).atexit = False
        return buffer

    @contextmanager
    def filling(self, name: str, *, patience_s: float) -> Iterator[bool]:
        """Hold the right to fetch a block; False if others hold it longer than patience lasts."""
        with self._holding(_FILL_LOCKS + _key(name), patience_s) as descriptor:
            yield descriptor is not None

    def store(self, name: str, data: pa.Buffer) -> bool:
        """Keep a block; False if there is no room for it, or the disk does not take it."""
        try:
            return self._store(name, data)
        except OSError as error:
            self._tell(error)
            return False

    def discard(self, name: str) -> None:
        """Delete a damaged block."""
        with self._books() as books:
            if books is not None:
                self._delete(books, self._booked(books), name)

    def _map(self, name: str, size_bytes: int) -> pa.Buffer | None:
        path = self._folder / name
        try:
            found = path.stat().st_size
            if found == size_bytes and size_bytes:
                with suppress(OSError):
                    os.utime(path)
                with pa.memory_map(str(path)) as file:
                    return file.read_buffer()
        except OSError:
            return None
        self.discard(name)
        return None

    def _pin(self, name: str) -> bool:
        """Hold a block against eviction; False while it is being evicted."""
        with self._lock:
            self._unpin()
            if not self._pins[name] and not self._pin_first(name):
                del self._pins[name]
                return False
            self._pins[name] += 1
            return True

    def _pin_first(self, name: str) -> bool:
        try:
            if self._pin_owner is None:
                self._pin_owner = open_lock(self._lock_file)
            return try_lock(self._pin_owner, _PIN_LOCKS + _key(name), shared=True)
        except OSError:
            # A folder that nobody here may write to is read as it is.
            return self._folder.is_dir()

    def _unpin(self) -> None:
        while self._dropped:
            name = self._dropped.popleft()
            self._pins[name] -= 1
            if not self._pins[name]:
                del self._pins[name]
                if self._pin_owner is not None:
                    unlock(self._pin_owner, _PIN_LOCKS + _key(name))

    def _store(self, name: str, data: pa.Buffer) -> bool:
        if time.monotonic() < self._full_until:
            return False
        with self._lock:
            self._unpin()
        partial = self._folder / f"{name}.{uuid.uuid4().hex}.partial"
        with self._books() as books:
            descriptor = None if books is None else self._reserve(books, partial, data.size)
        if descriptor is None:
            return False
        try:
            _write(descriptor, memoryview(data))
            with self._books() as books:
                if books is None:
                    return False
                self._publish(books, partial, name)
        except OSError:
            self.discard(partial.name)
            raise
        else:
            return True
        finally:
            os.close(descriptor)

    def _reserve(self, books: int, partial: Path, size: int) -> int | None:
        """Book room and take it on the disk; gives the new file, open and locked as alive."""
        booked = self._booked(books)
        if booked + size > self._limit:
            booked = self._evict(books, size)
        if booked + size > self._limit:
            self._full_until = time.monotonic() + FULL_S
            return None
        _book(books, booked + size)
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            os.posix_fallocate(descriptor, 0, size)
        except OSError:
            os.close(descriptor)
            partial.unlink()
            _book(books, booked)
            raise
        return descriptor

    def _publish(self, books: int, partial: Path, name: str) -> None:
        """Give a written file its name; a damaged one that has it goes."""
        final = self._folder / name
        with suppress(FileNotFoundError):
            replaced = final.stat().st_size
            partial.replace(final)
            _book(books, self._booked(books) - replaced)
            return
        partial.replace(final)

    def _booked(self, books: int) -> int:
        """Return the bytes that are booked; counted anew by the first who asks in a process."""
        magic, booked = _BOOKS.unpack(os.pread(books, _BOOKS.size, 0).ljust(_BOOKS.size, b"\0"))
        if self._counted and magic == _MAGIC and booked >= 0:
            return int(booked)
        self._counted = True
        return self._count(books)[0]

    def _count(self, books: int) -> tuple[int, list[tuple[int, int, str]]]:
        """Count what is there, sweep what killed writers left, and correct the books.

        Returns:
            The bytes, and the files that may be evicted: when last used, size, name.
        """
        booked, files = 0, []
        with os.scandir(self._folder) as entries:
            for entry in entries:
                own = _OWN.fullmatch(entry.name)
                with suppress(FileNotFoundError):
                    found = entry.stat(follow_symlinks=False)
                    if own is None or not stat.S_ISREG(found.st_mode):
                        continue
                    if own[2] and _swept(Path(entry.path)):
                        continue
                    booked += found.st_size
                    if not own[2]:
                        files.append((found.st_mtime_ns, found.st_size, entry.name))
        _book(books, booked)
        return booked, files

    def _evict(self, books: int, size: int) -> int:
        """Delete the least recently used that nobody has mapped until ``size`` fits, and a bit."""
        booked, files = self._count(books)
        for _, _, name in sorted(files):
            if booked + size + self._limit // SLACK <= self._limit:
                break
            pin = _PIN_LOCKS + _key(name)
            if try_lock(books, pin):
                booked = self._delete(books, booked, name)
                unlock(books, pin)
        return booked

    def _delete(self, books: int, booked: int, name: str) -> int:
        path = self._folder / name
        with suppress(FileNotFoundError):
            size = path.stat().st_size
            path.unlink()
            booked -= size
            _book(books, booked)
        return booked

    @contextmanager
    def _books(self) -> Iterator[int | None]:
        """Hold the books; who waited for them in vain once does not wait until they are free."""
        with self._holding(_BOOKS_LOCK, self._patience_s) as books:
            self._patience_s = 0.0 if books is None else BOOKS_PATIENCE_S
            yield books

    @contextmanager
    def _holding(self, start: int, patience_s: float) -> Iterator[int | None]:
        """Hold one lock; gives its descriptor, None if it is not to be had."""
        try:
            descriptor = open_lock(self._lock_file)
        except OSError as error:
            self._tell(error)
            yield None
            return
        try:
            yield descriptor if take_lock(descriptor, start, patience_s=patience_s) else None
        finally:
            close_lock(descriptor)

    def _tell(self, error: OSError) -> None:
        if not self._told:
            self._told = True
            text = "the cache %s keeps nothing more, what it lacks stays in memory: %s"
            _log.warning(text, self._folder, error.strerror or error)


@lru_cache(maxsize=64)
def cache_folder(_process: int, folder: Path, limit_bytes: int) -> CacheFolder:
    """Return the process' side of a folder; one for all who use it, with all that is verified."""
    drop_inherited()
    return CacheFolder(folder, limit_bytes)


def _key(name: str) -> int:
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little") >> 4


def _book(books: int, booked: int) -> None:
    os.pwrite(books, _BOOKS.pack(_MAGIC, max(0, booked)), 0)


def _write(descriptor: int, data: memoryview) -> None:
    done = 0
    while done < len(data):
        done += os.write(descriptor, data[done:])


def _swept(partial: Path) -> bool:
    """Whether an unfinished file was a dead process's, and is gone now."""
    descriptor = os.open(partial, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    else:
        partial.unlink()
        return True
    finally:
        os.close(descriptor)
