"""How much memory an asset may take, held by the kernel: what is beyond is never given.

Watching how a process grows comes too late where one call allocates everything, and cannot watch at
all while that call holds the interpreter's lock. So the process gets a ceiling (``RLIMIT_DATA``,
which counts private writable memory and nothing that a GPU or the object store maps): beyond it
allocations fail, as `MemoryError` in Python, and their asset can be given up in place.

A ceiling is the process's, not an asset's, so a failure does not say whose fault it is. An asset
that met one is read again with nothing else under way (`Gate`): only what it takes then is its own,
and a store is the same however many threads decode. Encoders are not limited. What they need is
learned where they ask for more than before, with nothing else under way either.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import gc
import os
import sys
import threading
import weakref
from collections.abc import Iterator
from pathlib import Path

from tokenmill.worker.gate import Gate, Hold

STATM = Path("/proc/self/statm")
#: What the process may always take beyond what it has, for threads and the interpreter.
ROOM_BYTES = 32 * 2**20
#: How often one looks for the peak of an encoder's memory.
LOOK_S = 0.005


class _Mallinfo(ctypes.Structure):
    """``struct mallinfo2`` of glibc's malloc.h."""

    _fields_ = tuple(
        (name, ctypes.c_size_t)
        for name in (
            *("arena", "ordblks", "smblks", "hblks", "hblkhd"),
            *("usmblks", "fsmblks", "uordblks", "fordblks", "keepcost"),
        )
    )


@functools.cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None)


def data_bytes() -> int:
    """Return the private writable memory of this process, which `RLIMIT_DATA` counts."""
    return int(STATM.read_text().split()[5]) * os.sysconf("SC_PAGE_SIZE")


def trim() -> int:
    """Give free memory back; returns the bytes that the allocator keeps although they are free."""
    with contextlib.suppress(AttributeError):
        _libc().malloc_trim(0)
        mallinfo = _libc().mallinfo2
        mallinfo.restype = _Mallinfo
        return int(mallinfo().fordblks)
    return 0


@contextlib.contextmanager
def watched_peak() -> Iterator[list[int]]:
    """Yield a list whose only entry is, after the block, the most that `data_bytes` was in it.

    Some allocators keep what they had at their peak and some give it back at once, so this looks
    again and again; what is too short to be seen may be met again under the limit.
    """
    peak, over = [data_bytes()], threading.Event()

    def look() -> None:
        while not over.wait(LOOK_S):
            peak[0] = max(peak[0], data_bytes())

    watcher = threading.Thread(target=look, name="tokenmill-memory", daemon=True)
    watcher.start()
    try:
        yield peak
    finally:
        over.set()
        watcher.join()
        peak[0] = max(peak[0], data_bytes())


class Ceiling:
    """The limit of this process, shared by all workers in it."""

    def __init__(self) -> None:
        self.gate = Gate()
        self._lock = threading.Lock()
        self._members: dict[int, int] = {}
        self._original = -1
        self._lifted: set[Hold] = set()
        self._own = 0
        self._encoders: dict[int, int] = {}
        self._exact: tuple[Hold, int] | None = None

    def join(self, member: int, limit_bytes: int) -> None:
        """Hold the process to what it has and ``limit_bytes`` more, whoever takes them."""
        with self._lock:
            if not self._members:
                self._original = _soft_limit()
            self._members[member] = limit_bytes
            self._own = data_bytes() - trim()
            self._set()

    def leave(self, member: int) -> None:
        """Take a member's part off; after the last the process is as free as before."""
        with self._lock:
            if self._members.pop(member, None) is None:
                return
            self._encoders.pop(member, None)
            self._set()

    def _set(self) -> None:
        import resource

        _, hard = resource.getrlimit(resource.RLIMIT_DATA)
        soft = self._original
        if self._members and not self._lifted:
            # One limit, the smallest, and not one for each reader: else an asset could take what
            # others leave, and whether it is given up would depend on how many there are.
            shared = self._own + sum(self._encoders.values()) + min(self._members.values())
            most = self._exact[1] if self._exact else shared
            # Free memory that the allocator keeps counts as taken, and may be more than the limit:
            # without some room a thread that starts dies unheard, and its starter waits for ever.
            most = max(most, data_bytes() + ROOM_BYTES)
            soft = most if soft == resource.RLIM_INFINITY else min(soft, most)
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))

    @contextlib.contextmanager
    def lifted(self, hold: Hold) -> Iterator[None]:
        """Set no limit for the time of a block."""
        with self._lock:
            self._lifted.add(hold)
            self._set()
        try:
            yield
        finally:
            self.forget(hold)

    @contextlib.contextmanager
    def exactly(self, hold: Hold, limit_bytes: int) -> Iterator[None]:
        """Hold the process to what it has now plus ``limit_bytes``; inside the gate, alone."""
        gc.collect()  # what the first reading took may hang on its error still
        hold.beat()  # which is no time of the asset's: a large heap takes a while
        with self._lock:
            self._own = data_bytes() - trim()
            self._exact = hold, self._own + limit_bytes
            self._set()
        try:
            yield
        finally:
            self.forget(hold)

    @contextlib.contextmanager
    def learning(self, hold: Hold, member: int) -> Iterator[None]:
        """Set no limit, and see how much a member's encoder needs; inside the gate, alone."""
        before = data_bytes() - trim()
        with self.lifted(hold), watched_peak() as peak:
            yield
        with self._lock:
            self._own = before
            self._encoders[member] = max(self._encoders.get(member, 0), peak[0] - before)
            self._set()

    def forget(self, hold: Hold) -> None:
        """End what was set for ``hold``: its block is over, or its thread was given up."""
        with self._lock:
            self._lifted.discard(hold)
            if self._exact is not None and self._exact[0] is hold:
                self._exact = None
            self._set()


def _soft_limit() -> int:
    import resource

    return resource.getrlimit(resource.RLIMIT_DATA)[0]


#: Limits are the process's, and so is what keeps account of them.
_CEILING = Ceiling()


class Memory:
    """A worker's part in the ceiling: ``limit_bytes`` for an asset, 0 for no limit.

    It is in force on Linux; elsewhere the kernel knows no such limit.
    """

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes if sys.platform == "linux" else 0
        self._largest = 0
        self._ceiling = _CEILING
        if self.limit_bytes:
            self._ceiling.join(id(self), self.limit_bytes)
        # A worker that is left behind with a thread that hangs is never closed.
        self._leave = weakref.finalize(self, self._ceiling.leave, id(self))

    @property
    def gate(self) -> Gate | None:
        """What readers and encoders pass, so that one of them can be alone."""
        return self._ceiling.gate if self.limit_bytes else None

    @contextlib.contextmanager
    def judging(self, hold: Hold) -> Iterator[None]:
        """Read one asset with nothing else under way, held to its own limit."""
        with hold.alone(), self._ceiling.exactly(hold, self.limit_bytes):
            yield

    @contextlib.contextmanager
    def acquitted(self, hold: Hold) -> Iterator[None]:
        """Read, without a limit, an asset that has kept to its own."""
        with self._ceiling.lifted(hold), hold.shared():
            yield

    def take_away(self, hold: Hold) -> None:
        """Go on without a thread that hangs."""
        hold.take_away()
        if self.limit_bytes:
            self._ceiling.forget(hold)

    @contextlib.contextmanager
    def encoding(self, size_bytes: int) -> Iterator[None]:
        """Encode; with nothing else under way where it is more at once than ever before."""
        hold = Hold(self.gate)
        if not self.limit_bytes or size_bytes <= self._largest:
            with hold.shared():
                yield
            return
        with hold.alone(), self._ceiling.learning(hold, id(self)):
            yield
        self._largest = size_bytes

    @contextlib.contextmanager
    def relief(self) -> Iterator[None]:
        """Encode what met the limit once more, alone and without one."""
        hold = Hold(self.gate)
        with hold.alone(), self._ceiling.learning(hold, id(self)):
            yield

    def close(self) -> None:
        """Take the part off."""
        self._leave()
