"""A folder of checked blocks that the processes of a node share, of a hard byte limit.

Three things are locked, all as bytes of one permanent lock file (`feed.shards.locks`), so a
killed process leaves none behind:

- the *books*: who writes or deletes a file here holds them. Room is booked before a file is begun
  and given back after it is gone, so the sum in the books is never below what lies in the folder,
  whenever a process is killed. While somebody holds them, nobody else's file is unfinished.
- the *fill* of one block, so that one process fetches it and the others wait.
- the *pin* of one block, shared: what a process has mapped is not evicted, for its space would not
  come free.

Only files whose names are of this cache's making are counted, and only those are deleted.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import struct
import threading
import time
import weakref
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path

import pyarrow as pa

from tokenmill.feed.shards.locks import LockFile, drop_inherited

LOCK_FILE = "tokenmill-cache.lock"
#: Names that the cache gives: of a block, and of one that is being written.
_OWN = re.compile(r"[0-9a-f]{64}\.(?:shard|[0-9]+-[0-9]+)(\.partial)?")
#: The books, in the lock file: a magic number and the bytes that are booked.
_BOOKS = struct.Struct("<8sq")
_MAGIC = b"tmcache1"
#: Bytes of the lock file that stand for the locks; to the latter two is added a name's hash.
BOOKS_LOCK, FILL_LOCKS, PIN_LOCKS = 0, 1 << 61, 1 << 62
#: How long a process waits for the books, which are held while one block is written.
BOOKS_PATIENCE_S = 10.0
#: Part of the limit that an eviction frees beyond what it must, for it looks at every file.
SLACK = 32
#: How long nothing is kept after everything was found in use, or the disk full.
FULL_S = 5.0

_log = logging.getLogger(__name__)


class CacheFolder:
    """One process' side of the folder; threads share it. Failures of the disk are told once."""

    def __init__(self, folder: Path, limit_bytes: int) -> None:
        self._folder, self._limit = folder, limit_bytes
        self._file = LockFile(folder / LOCK_FILE)
        self._turn = threading.Lock()
        self._patience_s = BOOKS_PATIENCE_S
        self._full_until = 0.0
        self._filling: set[str] = set()
        self._filled = threading.Condition()
        self._pins: Counter[str] = Counter()
        self._pinning = threading.Lock()
        # Finalizers only append here: one may run in the middle of anything, under any lock.
        self._dropped: deque[str] = deque()
        self._counted = self._told = False
        self.verified: set[int] = set()

    def open(self, name: str, size_bytes: int) -> pa.Buffer | None:
        """Map a block; None if it is not there or not as long as it must be.

        It cannot be evicted as long as the buffer lives.
        """
        path = self._folder / name
        try:
            found = path.stat().st_size
        except OSError:
            return None
        if found != size_bytes or not size_bytes:
            self.discard(name)
            return None
        if not self._pin(name):
            return None
        try:
            with pa.memory_map(str(path)) as file:
                buffer = file.read_buffer()
        except OSError:  # evicted meanwhile
            self._dropped.append(name)
            return None
        weakref.finalize(buffer, self._dropped.append, name).atexit = False
        with suppress(OSError):
            os.utime(path)
        return buffer

    @contextmanager
    def filling(self, name: str, *, patience_s: float) -> Iterator[bool]:
        """Hold the right to fetch a block; False if others hold it longer than patience lasts."""
        end = time.monotonic() + patience_s
        with self._filled:
            free = self._filled.wait_for(lambda: name not in self._filling, patience_s)
            self._filling |= {name} if free else set()
        try:
            yield free and self._take(FILL_LOCKS + key_of(name), end - time.monotonic())
        finally:
            if free:
                self._file.unlock(FILL_LOCKS + key_of(name))
                with self._filled:
                    self._filling.discard(name)
                    self._filled.notify_all()

    def store(self, name: str, data: pa.Buffer) -> bool:
        """Keep a block; False if there is no room for it, or the disk does not take it."""
        if time.monotonic() < self._full_until:
            return False
        try:
            with self._books() as books:
                return books is not None and self._store(books, name, data)
        except OSError as error:
            self._tell(error)
            self._full_until = time.monotonic() + FULL_S
            return False

    def discard(self, name: str) -> None:
        """Delete a damaged block."""
        with suppress(OSError), self._books() as books:
            if books is not None:
                self._delete(books, self._booked(books), name)

    def _store(self, books: int, name: str, data: pa.Buffer) -> bool:
        booked = self._booked(books)
        if booked + data.size > self._limit:
            booked = self._evict(books, data.size)
        if booked + data.size > self._limit:
            self._full_until = time.monotonic() + FULL_S
            return False
        _book(books, booked + data.size)
        partial = self._folder / f"{name}.partial"
        try:
            _write(partial, memoryview(data))
        except OSError:
            partial.unlink(missing_ok=True)
            _book(books, booked)
            raise
        partial.replace(self._folder / name)
        return True

    def _pin(self, name: str) -> bool:
        """Hold a block against eviction; False while it is being evicted."""
        with self._pinning:
            self._unpin()
            if not self._pins[name] and not self._take(PIN_LOCKS + key_of(name), None):
                # A folder that nobody here may write to is read as it is.
                return self._told
            self._pins[name] += 1
            return True

    def _unpin(self) -> None:
        while self._dropped:
            name = self._dropped.popleft()
            self._pins[name] -= 1
            if self._pins[name] <= 0:
                del self._pins[name]
                self._file.unlock(PIN_LOCKS + key_of(name))

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
            The bytes, and the files: when last used, size, name.
        """
        files = []
        with os.scandir(self._folder) as entries:
            for entry in entries:
                own = _OWN.fullmatch(entry.name)
                if own is None or not entry.is_file(follow_symlinks=False):
                    continue
                if own[1]:
                    Path(entry.path).unlink()
                    continue
                found = entry.stat(follow_symlinks=False)
                files.append((found.st_mtime_ns, found.st_size, entry.name))
        booked = sum(size for _, size, _ in files)
        _book(books, booked)
        return booked, files

    def _evict(self, books: int, size: int) -> int:
        """Delete the least recently used that nobody has mapped until ``size`` fits, and a bit."""
        booked, files = self._count(books)
        with self._pinning:
            self._unpin()
            for _, _, name in sorted(files):
                if booked + size + self._limit // SLACK <= self._limit:
                    break
                pin = PIN_LOCKS + key_of(name)
                # Its own pins would not stop this process in the kernel.
                if not self._pins[name] and self._file.try_lock(pin):
                    booked = self._delete(books, booked, name)
                    self._file.unlock(pin)
        return booked

    def _delete(self, books: int, booked: int, name: str) -> int:
        path = self._folder / name
        with suppress(FileNotFoundError):
            size = path.stat().st_size
            path.unlink()
            booked = max(0, booked - size)
            _book(books, booked)
        return booked

    @contextmanager
    def _books(self) -> Iterator[int | None]:
        """Hold the books; who waited for them in vain once does not wait until they are free."""
        # Threads of one process stand in line here, and ask the kernel one at a time.
        with self._turn:
            books = self._file.open()
            held = self._file.lock(BOOKS_LOCK, patience_s=self._patience_s)
            self._patience_s = BOOKS_PATIENCE_S if held else 0.0
            try:
                yield books if held else None
            finally:
                if held:
                    self._file.unlock(BOOKS_LOCK)

    def _take(self, start: int, patience_s: float | None) -> bool:
        """Take the lock of a fill, waiting for it, or a pin, which is shared and at once."""
        try:
            if patience_s is None:
                return self._file.try_lock(start, shared=True)
            return self._file.lock(start, patience_s=patience_s)
        except OSError as error:
            self._tell(error)
            return False

    def _tell(self, error: OSError) -> None:
        if not self._told:
            self._told = True
            text = "the cache %s cannot keep what is fetched, which stays in memory: %s"
            _log.warning(text, self._folder, error.strerror or error)


@lru_cache(maxsize=64)
def cache_folder(_process: int, folder: Path, limit_bytes: int) -> CacheFolder:
    """Return the process' side of a folder; one for all who use it, with all that is verified."""
    drop_inherited()
    return CacheFolder(folder, limit_bytes)


def key_of(name: str) -> int:
    """Return 60 bits of a name's hash: its place among the bytes that stand for locks."""
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little") >> 4


def _book(books: int, booked: int) -> None:
    os.pwrite(books, _BOOKS.pack(_MAGIC, booked), 0)


def _write(partial: Path, data: memoryview) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
    descriptor = os.open(partial, flags, 0o600)
    try:
        done = 0
        while done < len(data):
            done += os.write(descriptor, data[done:])
    finally:
        os.close(descriptor)
