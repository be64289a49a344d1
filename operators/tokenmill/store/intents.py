"""Intents: who is at work on a store, so that nobody sweeps away what they are about to use.

A running operation keeps a small file in the store and renews it. `tokenmill.store.gc` writes an
intent of its own and then looks for others; everybody else writes one and then looks for a gc.
Whichever wrote first, at least one of the two sees the other (Dekker's principle), and storage
needs to be no more than consistent. Age is told by the storage's own clock. On the machine that it
was on, an operation that was killed is known at once to have ended; elsewhere after half an hour.
"""

from __future__ import annotations

import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from tokenmill.store import paths
from tokenmill.store.records import read_record
from tokenmill_infra.storage.scratch import sweep_scratch
from tokenmill_infra.storage.storage import Entry, Storage
from tokenmill_schemas.canonical import canonical_json
from tokenmill_schemas.errors import CorruptShardError, StoreError, TransientError

GC = "gc"
#: How often an intent is renewed, and for how long it counts since.
RENEW_S = 300.0
LIVE_S = 1800.0
#: How long an operation waits for a gc to end, and how often it looks.
GC_WAIT_S = 60.0
GC_POLL_S = 0.5


@dataclass(frozen=True, slots=True)
class Intent:
    """An operation under way: what, by which process on which machine, for which job.

    ``space`` tells within which start of a machine, and which of its containers, ``pid`` is a
    process's number; "" where that cannot be told.
    """

    kind: str
    intent_id: str
    host: str
    pid: int
    note: str = ""
    space: str = ""

    @property
    def is_over(self) -> bool:
        """Whether the process has ended for certain, as it can be seen from this one."""
        return bool(self.space) and self.space == process_space() and not _runs(self.pid)

    def describe(self) -> str:
        """Return the intent in words."""
        note = f" ({self.note})" if self.note else ""
        return f"{self.kind}{note} on {self.host}, process {self.pid}"


@contextmanager
def hold(storage: Storage, kind: str, *, note: str = "") -> Iterator[Intent]:
    """Keep an intent in the store for as long as the block runs.

    Raises:
        StoreError: a gc is at work and does not end.
    """
    sweep_scratch(storage)
    name = uuid.uuid4().hex
    intent = Intent(kind, name, socket.gethostname(), os.getpid(), note, process_space())
    with _renewed(storage, intent):
        if kind != GC:
            _wait_for_gc(storage)
        yield intent


def live(storage: Storage) -> list[Intent]:
    """Return the intents of operations that are under way, as far as can be told."""
    entries = list(storage.list(paths.RUNNING))
    now = _newest(entries)
    found: dict[str, Intent] = {}
    for entry in entries:
        if now - entry.modified > LIVE_S:
            continue
        # One that ended meanwhile is gone; one that is damaged still says that somebody is there.
        with suppress(FileNotFoundError):
            intent = _read(storage, entry.path)
            if not intent.is_over:
                found[intent.intent_id] = intent
    return list(found.values())


def others(storage: Storage, mine: Intent) -> list[Intent]:
    """Return the intents of all other operations under way, as a gc asks before it deletes.

    Raises:
        StoreError: the holder's own is not among them. It could not be renewed in time, or the
            storage's listings are late; in both cases others may be at work unseen.
    """
    found = live(storage)
    if all(intent.intent_id != mine.intent_id for intent in found):
        raise StoreError(
            "does not show this operation's own intent, so that others may go unseen; try again",
            uri=storage.uri,
        )
    return [intent for intent in found if intent.intent_id != mine.intent_id]


def now_of(storage: Storage) -> float:
    """Return the storage's own time, in seconds since the epoch, to an operation that `hold`s.

    It is the time at which the newest intent was written: exact enough for ages of minutes, and
    never ahead, so that nothing is taken for older than it is.
    """
    return _newest(list(storage.list(paths.RUNNING)))


def any_dead(storage: Storage) -> bool:
    """Whether an operation has ended without a word since the last `sweep_dead`."""
    return bool(_dead(storage))


def sweep_dead(storage: Storage) -> list[str]:
    """Delete the intents of operations that ended without a word; returns their paths."""
    dead = _dead(storage)
    for path in dead:
        storage.delete(path)
    return dead


def _dead(storage: Storage) -> list[str]:
    entries = list(storage.list(paths.RUNNING))
    now = _newest(entries)
    return [entry.path for entry in entries if _is_dead(storage, entry, now)]


def _newest(entries: list[Entry]) -> float:
    return max((entry.modified for entry in entries), default=0.0)


def _read(storage: Storage, path: str) -> Intent:
    try:
        return read_record(storage, path, _intent)
    except CorruptShardError:
        return Intent("unreadable", path, "?", 0)


def _intent(value: dict[str, Any]) -> Intent:
    """Return the intent that a file holds; keys of newer libraries are left out."""
    known = {f.name for f in fields(Intent)}
    return Intent(**{key: entry for key, entry in value.items() if key in known})


def _wait_for_gc(storage: Storage) -> None:
    deadline = time.monotonic() + GC_WAIT_S
    while busy := [intent for intent in live(storage) if intent.kind == GC]:
        if time.monotonic() > deadline:
            raise StoreError(
                f"is being cleaned by {busy[0].describe()}; try again when it has ended",
                uri=storage.uri,
            )
        time.sleep(GC_POLL_S)


def _is_dead(storage: Storage, entry: Entry, now: float) -> bool:
    if now - entry.modified > LIVE_S:
        return True
    with suppress(FileNotFoundError):
        return _read(storage, entry.path).is_over
    return False


def process_space() -> str:
    """Return what is equal for processes that see each other under their numbers; "" unknown.

    Containers on one machine may share its name, and have processes of their own under any number.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot}:{Path('/proc/self/ns/pid').stat().st_ino}"
    except OSError:
        return ""


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        # One that was killed keeps its number until its parent has asked how it ended.
        state = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0]
    except ProcessLookupError:
        return False
    except (OSError, UnicodeDecodeError):
        return True
    return state not in ("Z", "X")


@contextmanager
def _renewed(storage: Storage, intent: Intent) -> Iterator[None]:
    made: list[str] = []
    ended = threading.Event()
    thread = threading.Thread(
        target=_renew, args=(storage, intent, made, ended), daemon=True, name="intent"
    )
    try:
        _write(storage, intent, made)
        thread.start()
        yield
    finally:
        ended.set()
        if thread.ident is not None:
            thread.join()
        for path in made:
            _forget(storage, path)


def _renew(storage: Storage, intent: Intent, made: list[str], ended: threading.Event) -> None:
    while not ended.wait(RENEW_S):
        # A renewal that fails is tried again long before the last one has aged out.
        with suppress(OSError, TransientError, StoreError):
            _write(storage, intent, made)
            while len(made) > 1:
                _forget(storage, made[0])
                made.pop(0)


def _write(storage: Storage, intent: Intent, made: list[str]) -> None:
    path = f"{paths.RUNNING}/{intent.intent_id}-{uuid.uuid4().hex[:8]}.json"
    value: dict[str, Any] = asdict(intent)
    # Noted first: it may be made although the answer is lost.
    made.append(path)
    storage.create(path, canonical_json(value))


def _forget(storage: Storage, path: str) -> None:
    """Delete an intent; one that cannot be deleted ages out, and what it announced was done."""
    with suppress(OSError, TransientError, StoreError):
        storage.delete(path)
