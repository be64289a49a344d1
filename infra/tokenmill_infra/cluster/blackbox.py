"""What an actor was doing when it died: notes in a file that outlive its process.

An actor that is killed cannot say which item killed it. So it notes each item in a memory-mapped
file before it touches it, which costs no system call; the kernel keeps the pages whatever becomes
of the process. After a death the pool tries the items that were at hand before any others.

The end of the same file takes the stacks of a process that froze (see `Freeze`).
"""

from __future__ import annotations

import contextlib
import faulthandler
import mmap
import os
import struct
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from tokenmill_infra.cluster.tasks import Note, PostMortem

#: Items that may be at hand at once; what is beyond is done without a note.
SLOTS = 128
SLOT_BYTES = 256
SIZE = SLOTS * SLOT_BYTES
#: Serial number (0: the slot is free), first item, one past the last, length of the task's name.
_HEAD = struct.Struct("<QqqH")
_SERIAL = struct.Struct("<Q")
LONGEST_NAME = SLOT_BYTES - _HEAD.size

PREFIX = "tokenmill-actor-"
#: After this time a file whose process is gone is nobody's: its driver would have read it.
STALE_S = 86400.0


class BlackBox:
    """The writing side, inside an actor; its methods may be called from several threads."""

    def __init__(self, folder: str | Path | None = None) -> None:
        """Make the file, in the folder for temporary files unless told, and sweep old ones."""
        parent = Path(folder or tempfile.gettempdir())
        _sweep(parent)
        handle, self.path = tempfile.mkstemp(prefix=f"{PREFIX}{os.getpid()}-", dir=parent)
        try:
            os.truncate(handle, SIZE)
            self._map = mmap.mmap(handle, SIZE)
        finally:
            os.close(handle)
        self._lock = threading.Lock()
        self._free = list(range(SLOTS))
        self._serial = 0

    @contextlib.contextmanager
    def at(self, task_id: str, start: int, stop: int) -> Iterator[None]:
        """Note, for the time of the block, that the items ``start`` to ``stop`` are at hand."""
        slot = self._note(task_id.encode(), start, stop)
        try:
            yield
        finally:
            if slot is not None:
                self._clear(slot)

    def _note(self, name: bytes, start: int, stop: int) -> int | None:
        with self._lock:
            if not self._free or len(name) > LONGEST_NAME or self._map.closed:
                return None
            slot = self._free.pop()
            self._serial += 1
            where = slot * SLOT_BYTES
            # The serial number last: a note that death cuts short is none.
            _HEAD.pack_into(self._map, where, 0, start, stop, len(name))
            self._map[where + _HEAD.size : where + _HEAD.size + len(name)] = name
            _SERIAL.pack_into(self._map, where, self._serial)
        return slot

    def _clear(self, slot: int) -> None:
        with self._lock:
            if not self._map.closed:
                _SERIAL.pack_into(self._map, slot * SLOT_BYTES, 0)
            self._free.append(slot)

    def close(self) -> None:
        """Remove the file."""
        with self._lock:
            self._map.close()
        Path(self.path).unlink(missing_ok=True)


class Freeze:
    """Ends the process when no Python code has run in it for ``after_s`` seconds.

    C code that never returns and holds the interpreter's lock stops every thread, those that watch
    deadlines too. CPython's own watchdog (`faulthandler`) is a thread of C that needs no lock: it
    is put off again and again from Python, and when nobody does, writes all stacks and exits.
    """

    def __init__(self, after_s: float, path: str) -> None:
        """Begin to watch; the stacks go to the end of the file ``path``."""
        self._after_s = after_s
        self._file = Path(path).open("ab")  # noqa: SIM115  (the watchdog writes to it until the end)
        self._over = threading.Event()
        self._arm()
        threading.Thread(target=self._put_off, name="tokenmill-freeze", daemon=True).start()

    def _arm(self) -> None:
        faulthandler.dump_traceback_later(self._after_s, exit=True, file=self._file)

    def _put_off(self) -> None:
        while not self._over.wait(min(1.0, self._after_s / 4)):
            self._arm()
        faulthandler.cancel_dump_traceback_later()
        self._file.close()

    def close(self) -> None:
        """Watch no longer."""
        self._over.set()


def read(data: bytes) -> PostMortem:
    """Return what a black box tells; the notes come newest first."""
    found: list[tuple[int, Note]] = []
    for where in range(0, min(len(data), SIZE), SLOT_BYTES):
        slot = data[where : where + SLOT_BYTES]
        if len(slot) < SLOT_BYTES:
            break
        serial, start, stop, length = _HEAD.unpack_from(slot)
        name = slot[_HEAD.size : _HEAD.size + length]
        if serial and length <= LONGEST_NAME:
            found.append((serial, Note(name.decode(errors="replace"), start, stop)))
    notes = tuple(note for _, note in sorted(found, key=lambda each: -each[0]))
    return PostMortem(notes, "frozen" if len(data) > SIZE else "died")


def read_and_remove(path: str) -> bytes:
    """Return a black box's bytes and remove it; nothing if it is not there."""
    file = Path(path)
    try:
        data = file.read_bytes()
        file.unlink(missing_ok=True)
    except OSError:
        return b""
    return data


def _sweep(folder: Path) -> None:
    """Remove the files of processes that are long gone: their nodes had lost their drivers."""
    for file in folder.glob(f"{PREFIX}*"):
        pid = file.name.removeprefix(PREFIX).partition("-")[0]
        with contextlib.suppress(OSError):
            old = time.time() - file.stat().st_mtime > STALE_S
            if old and pid.isdigit() and not _alive(int(pid)):
                file.unlink()


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
