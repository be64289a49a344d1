"""A storage that fails on purpose: by a plan, at exactly the operation that the plan names.

    plan = FaultPlan((Rule("lost", path="_log/*"),))
    store = Store(FaultyStorage(open_storage(uri), plan))

Without rules it is the storage that it wraps, which `tokenmill.testing.storage_contract` describes.
Counts of occurrences are kept in the process, or by all processes that are given one file to count
in; so a plan can strike an actor or a child as well.
"""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import threading
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Literal

from tokenmill_infra.storage.local import SCRATCH
from tokenmill_infra.storage.storage import Entry, Storage
from tokenmill_schemas.errors import TransientError

Operation = Literal["read", "create", "create_from", "list", "size", "exists", "delete"]
WRITES: tuple[Operation, ...] = ("create", "create_from", "delete")

#: What can go wrong with an operation:
#:
#: - ``kill_before``, ``kill_after``: SIGKILL of this process.
#: - ``torn``: what a process leaves that dies while it writes: the first ``bytes`` of the file,
#:   where the storage keeps unfinished files, under no name; then SIGKILL.
#: - ``half``: the storage breaks its word: the first ``bytes`` appear under the file's name, and
#:   the call succeeds. A disk without power does it to what was never synced.
#: - ``lost``: the operation happens, its answer is lost (`TransientError`).
#: - ``busy``: it does not happen: 503 or "slow down" until the retries gave up (`TransientError`).
#: - ``drop``: the connection breaks after ``bytes`` of a read (`ConnectionResetError`).
#: - ``short``: a read ends after ``bytes`` without an error.
#: - ``full``: no space is left (``ENOSPC``); nothing of the file appears.
#: - ``read_only``: the file system is mounted for reading only (``EROFS``).
Fault = Literal[
    "kill_before",
    "kill_after",
    "torn",
    "half",
    "lost",
    "busy",
    "drop",
    "short",
    "full",
    "read_only",
]


@dataclass(frozen=True, slots=True)
class Rule:
    """One fault, and the operations that it strikes.

    Attributes:
        fault: what goes wrong.
        path: a glob (``*`` crosses ``/``) of the paths that count; of folders, for ``list``.
        operations: the operations that count.
        first: the number of the first one that is struck, from 1.
        times: how many are struck from there on; 0 for all.
        bytes: how much of a file a ``torn``, ``half``, ``drop`` or ``short`` leaves.
    """

    fault: Fault
    path: str = "*"
    operations: tuple[Operation, ...] = WRITES
    first: int = 1
    times: int = 1
    bytes: int = 0

    def matches(self, operation: Operation, path: str) -> bool:
        """Whether an operation counts."""
        return operation in self.operations and fnmatchcase(path, self.path)

    def strikes(self, occurrence: int) -> bool:
        """Whether the occurrence of that number is struck."""
        return occurrence >= self.first and (not self.times or occurrence < self.first + self.times)


@dataclass(frozen=True, slots=True)
class FaultPlan:
    """All that is wrong with a storage.

    Attributes:
        rules: the first one that strikes an operation decides; all count it.
        late: the newest so many creates and deletes do not show in lists.
        room_bytes: bytes that can be written before the disk is full, None for any number.
        skew_s: how far ahead the storage's clock is, seconds.
        remote: give no local paths, as an object store gives none, so that each read is one.
        counts: a file in which all processes count; "" counts in each process.
    """

    rules: tuple[Rule, ...] = ()
    late: int = 0
    room_bytes: int | None = None
    skew_s: float = 0.0
    remote: bool = False
    counts: str = ""


#: Operations with their paths, and changes with what was there before.
Operations = list[tuple[Operation, str]]
Changes = list[tuple[str, Entry | None]]


@dataclass(slots=True)
class _Journal:
    """What was done so far; a copy in another process begins anew."""

    lock: threading.RLock = field(default_factory=threading.RLock)
    counts: dict[int, int] = field(default_factory=dict)
    done: Operations = field(default_factory=list)
    changes: Changes = field(default_factory=list)
    written_bytes: int = 0

    def __reduce__(self) -> tuple[type[_Journal], tuple[()]]:
        return _Journal, ()


@dataclass(frozen=True, slots=True)
class FaultyStorage:
    """``inner`` with the faults of ``plan``; picklable if that is."""

    inner: Storage
    plan: FaultPlan = field(default_factory=FaultPlan)
    _journal: _Journal = field(default_factory=_Journal, compare=False, repr=False)

    @property
    def uri(self) -> str:
        """The inner storage's."""
        return self.inner.uri

    @property
    def done(self) -> Operations:
        """All operations that were begun in this process, with their paths, oldest first."""
        with self._journal.lock:
            return list(self._journal.done)

    @property
    def writes(self) -> Operations:
        """Those of `done` that change the storage."""
        return [(operation, path) for operation, path in self.done if operation in WRITES]

    def read(self, path: str, start: int = 0, stop: int | None = None) -> bytes:
        """Read, unless a fault is due."""
        rule = self._begin("read", path)
        data = self.inner.read(path, start, stop)
        if rule is not None and rule.fault == "short":
            data = data[: rule.bytes]
        if rule is not None and rule.fault == "drop":
            raise ConnectionResetError(f"{path}: connection lost after {rule.bytes} bytes")
        _end(rule, "read", path)
        return data

    def create(self, path: str, data: bytes) -> None:
        """Create, unless a fault is due."""
        rule = self._begin("create", path)
        if rule is not None and rule.fault == "torn":
            self._tear(data[: rule.bytes])
        if rule is not None and rule.fault == "half":
            data = data[: rule.bytes]
        self._take_room(len(data))
        self.inner.create(path, data)
        self._changed(path, None)
        _end(rule, "create", path)

    def create_from(self, path: str, local: Path) -> None:
        """Create from a file, unless a fault is due."""
        rule = self._begin("create_from", path)
        if rule is not None and rule.fault == "torn":
            self._tear(local.read_bytes()[: rule.bytes])
        if rule is not None and rule.fault == "half":
            os.truncate(local, rule.bytes)
        self._take_room(local.stat().st_size)
        self.inner.create_from(path, local)
        self._changed(path, None)
        _end(rule, "create_from", path)

    def list(self, prefix: str) -> Iterator[Entry]:
        """List what is there, or what was ``late`` changes ago, by a clock that may be wrong."""
        rule = self._begin("list", prefix)
        entries = {entry.path: entry for entry in self.inner.list(prefix)}
        for path, before in reversed(self._late()):
            if before is not None and _is_below(path, prefix):
                entries[path] = before
            elif before is None:
                entries.pop(path, None)
        _end(rule, "list", prefix)
        for path in sorted(entries):
            yield _skewed(entries[path], self.plan.skew_s)

    def size(self, path: str) -> int | None:
        """Look up a size, unless a fault is due."""
        rule = self._begin("size", path)
        size = self.inner.size(path)
        _end(rule, "size", path)
        return size

    def exists(self, path: str) -> bool:
        """Look up a file, unless a fault is due."""
        rule = self._begin("exists", path)
        there = self.inner.exists(path)
        _end(rule, "exists", path)
        return there

    def delete(self, path: str) -> None:
        """Delete, unless a fault is due."""
        rule = self._begin("delete", path)
        before = self._entry(path) if self.plan.late else None
        self.inner.delete(path)
        if before is not None:
            self._changed(path, before)
        _end(rule, "delete", path)

    def local(self, path: str) -> Path | None:
        """Return the inner storage's local path, None if the plan says ``remote``."""
        local = self.inner.local(path)
        return None if self.plan.remote else local

    def _begin(self, operation: Operation, path: str) -> Rule | None:
        """Count an operation; return the rule that strikes it, after what happens at the start."""
        with self._journal.lock:
            self._journal.done.append((operation, path))
            struck = [
                rule
                for number, rule in enumerate(self.plan.rules)
                if rule.matches(operation, path) and rule.strikes(self._count(number))
            ]
        rule = struck[0] if struck else None
        if rule is not None:
            _fail_before(rule, operation, path)
        return rule

    def _count(self, rule: int) -> int:
        counts = self._journal.counts
        if self.plan.counts:
            return _count_in(Path(self.plan.counts), rule)
        counts[rule] = counts.get(rule, 0) + 1
        return counts[rule]

    def _take_room(self, size_bytes: int) -> None:
        if self.plan.room_bytes is None:
            return
        with self._journal.lock:
            if self._journal.written_bytes + size_bytes > self.plan.room_bytes:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            self._journal.written_bytes += size_bytes

    def _tear(self, data: bytes) -> None:
        """Leave ``data`` where a local storage writes before it links; an object store shows none.

        What was uploaded of an object is not an object until the upload is completed.
        """
        root = self.local(SCRATCH)
        if root is not None:
            folder = root / uuid.uuid4().hex
            folder.mkdir(parents=True)
            folder.with_suffix(".lock").touch(0o600)
            (folder / "new").write_bytes(data)
        _die()

    def _entry(self, path: str) -> Entry | None:
        folder = path.rpartition("/")[0]
        return next((entry for entry in self.inner.list(folder) if entry.path == path), None)

    def _changed(self, path: str, before: Entry | None) -> None:
        with self._journal.lock:
            self._journal.changes.append((path, before))

    def _late(self) -> Changes:
        with self._journal.lock:
            return self._journal.changes[-self.plan.late :] if self.plan.late else []


def _fail_before(rule: Rule, operation: Operation, path: str) -> None:
    if rule.fault == "kill_before":
        _die()
    if rule.fault == "busy":
        raise TransientError(
            f"{operation} of {path} failed 7 times in 120 s, at last with SlowDown"
        )
    if rule.fault in ("full", "read_only"):
        number = errno.ENOSPC if rule.fault == "full" else errno.EROFS
        raise OSError(number, os.strerror(number))


def _end(rule: Rule | None, operation: Operation, path: str) -> None:
    """Let happen what happens after an operation."""
    if rule is not None and rule.fault == "kill_after":
        _die()
    if rule is not None and rule.fault == "lost":
        raise TransientError(f"{operation} of {path} failed 7 times in 120 s, at last with Timeout")


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)
    signal.pause()  # until it has arrived


def _count_in(file: Path, rule: int) -> int:
    """Add one to the count of a rule in a file of decimal numbers; returns it."""
    with file.open("a+b") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        stream.seek(0)
        counts = [int(line) for line in stream.read().split()]
        counts += [0] * (rule + 1 - len(counts))
        counts[rule] += 1
        stream.truncate(0)
        stream.write(b"\n".join(str(count).encode() for count in counts))
    return counts[rule]


def _is_below(path: str, prefix: str) -> bool:
    folder = prefix.strip("/")
    return not folder or path.startswith(f"{folder}/")


def _skewed(entry: Entry, skew_s: float) -> Entry:
    if not skew_s:
        return entry
    return replace(entry, modified=entry.modified + skew_s)
