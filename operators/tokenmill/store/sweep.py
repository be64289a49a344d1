"""Mark and sweep: which files versions name, and the deletion of those that none does.

What is marked is kept as 16-byte digests of paths in sorted arrays: 32 MB for a million shards and
their receipts. Deletion stops as soon as anybody else is at work on the store: whoever comes has
written an intent before looking at any file, and waits until the sweep has noticed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice

import numpy as np
import numpy.typing as npt

from tokenmill.store import paths
from tokenmill.store.intents import Intent, others
from tokenmill.store.records import read_record
from tokenmill.store.retained import tables_of
from tokenmill.store.tables import read_table
from tokenmill.store.takedowns import TABLES, Takedowns, covered
from tokenmill_infra.storage.storage import Entry, Storage
from tokenmill_schemas.errors import CorruptShardError, StoreError
from tokenmill_schemas.snapshot import FileRef, Receipt, Snapshot, receipt_from_json

#: A receipt goes before its shard and its plan: it is what a run trusts.
FOLDERS = (
    paths.RECEIPTS,
    paths.DATA,
    paths.GROUPS,
    paths.PLANS,
    paths.SEGMENTS,
    paths.REJECTS,
    paths.TOMBSTONES,
    paths.MISSING,
    TABLES,
)
#: Files that are looked up at once, and that are deleted between two looks at who else is there.
CHUNK = 16384
BATCH = 256
THREADS = 8
#: Deleted files that a report names; the rest are counted.
NAMED = 1000

_Digests = npt.NDArray[np.bytes_]
_NONE: _Digests = np.empty(0, "S16")


class HeldError(StoreError):
    """Somebody else is at work on the store, so nothing may be deleted now."""


@dataclass(slots=True)
class Marks:
    """A set of paths, as digests."""

    _sorted: _Digests = field(default_factory=lambda: _NONE)
    _new: list[_Digests] = field(default_factory=list)

    def add(self, names: Iterable[str]) -> None:
        """Add paths."""
        self._new.append(_digests(names))
        if sum(map(len, self._new)) > max(2**20, len(self._sorted)):
            self._settle()

    def among(self, names: list[str]) -> npt.NDArray[np.bool_]:
        """Return which of some paths are in the set."""
        self._settle()
        asked = _digests(names)
        at = np.searchsorted(self._sorted, asked)
        found = np.zeros(len(asked), np.bool_)
        inside = at < len(self._sorted)
        found[inside] = self._sorted[at[inside]] == asked[inside]
        return found

    def _settle(self) -> None:
        if self._new:
            self._sorted = np.unique(np.concatenate([self._sorted, *self._new]))
            self._new = []


def _digests(names: Iterable[str]) -> _Digests:
    found = (hashlib.blake2b(name.encode(), digest_size=16).digest() for name in names)
    return np.frombuffer(b"".join(found), "S16")


def mark(storage: Storage, versions: Iterable[Snapshot], *, purged: int | None = None) -> Marks:
    """Return all files that ``versions``, and the chain of takedowns, name.

    The positions in the first ``purged`` records of the chain are not; None is what was purged.

    The receipts of units that a version holds are among them: a run on another branch, or after a
    restore, makes these units by taking what is there.
    """
    marks = Marks()
    segments: dict[str, FileRef] = {}
    groups: dict[str, FileRef] = {}
    tables: set[str] = set()
    for version in versions:
        tables.update(ref.path for ref in tables_of(version))
        segments |= {ref.path: ref for ref in version.segments}
        groups |= {ref.path: ref for group in version.groups for ref in group.segments}
    marks.add(tables)
    for ref in segments.values():
        table = read_table(storage, ref, ["unit_id", "path"])
        marks.add(path for path in table.column("path").to_pylist() if path)
        marks.add(paths.receipt_file(unit) for unit in table.column("unit_id").to_pylist())
    for ref in groups.values():
        marks.add(read_table(storage, ref, ["path"]).column("path").to_pylist())
    _mark_chain(storage, marks, purged)
    return marks


def _mark_chain(storage: Storage, marks: Marks, purged: int | None) -> None:
    records = Takedowns(storage).records()
    until = covered(records, "purged") if purged is None else purged
    for record in records:
        marks.add(ref.path for ref in record.denied)
        marks.add(record.facts.get("files", ()))
        if record.number > until:
            marks.add(ref.path for ref in record.positions)


@dataclass(slots=True)
class Swept:
    """What a sweep deleted, or would: the first `NAMED` files, and counts by folder."""

    named: list[tuple[str, int]] = field(default_factory=list)
    folders: dict[str, tuple[int, int]] = field(default_factory=dict)
    young: int = 0

    def add(self, entry: Entry) -> None:
        """Count a file."""
        folder = entry.path.partition("/")[0]
        files, size = self.folders.get(folder, (0, 0))
        self.folders[folder] = files + 1, size + entry.size_bytes
        if len(self.named) < NAMED:
            self.named.append((entry.path, entry.size_bytes))

    @property
    def files(self) -> int:
        """How many files."""
        return sum(files for files, _ in self.folders.values())

    @property
    def bytes(self) -> int:
        """How many bytes they had."""
        return sum(size for _, size in self.folders.values())


@dataclass(frozen=True, slots=True)
class Sweeper:
    """Deletes what nobody names.

    Attributes:
        storage: the store's storage.
        intent: the holder's own, of kind ``gc``; None only looks and deletes nothing.
        now: the storage's own time, epoch seconds.
        grace_s: files that are younger stay.
        swept: what was deleted so far.
    """

    storage: Storage
    intent: Intent | None
    now: float
    grace_s: float
    swept: Swept = field(default_factory=Swept)

    def check(self) -> None:
        """See that nobody else is at work.

        Raises:
            HeldError: somebody is.
        """
        if self.intent is not None and (busy := others(self.storage, self.intent)):
            names = ", ".join(intent.describe() for intent in busy)
            raise HeldError(f"is held by {names}", uri=self.storage.uri)

    def is_old(self, entry: Entry) -> bool:
        """Whether the grace period of a file is over; one of unknown age has no other."""
        return self.grace_s <= 0 or (0 < entry.modified <= self.now - self.grace_s)

    def sweep(self, marks: Marks) -> None:
        """Delete files that are old and not marked, in the order of `FOLDERS`.

        Raises:
            HeldError: somebody else has come; what was deleted is gone, what is left is whole.
        """
        for folder in FOLDERS:
            self.delete(self._unnamed(folder, marks))

    def delete(self, entries: Iterable[Entry]) -> None:
        """Delete files, after a look at who else is there before each `BATCH` of them."""
        for batch in _batches(entries, BATCH):
            if self.intent is not None:
                self.check()
                with ThreadPoolExecutor(THREADS, thread_name_prefix="sweep") as threads:
                    list(threads.map(self.storage.delete, [entry.path for entry in batch]))
            for entry in batch:
                self.swept.add(entry)

    def _unnamed(self, folder: str, marks: Marks) -> Iterator[Entry]:
        for entry in unnamed(self.storage, folder, marks):
            if self.is_old(entry):
                yield entry
                continue
            self.swept.young += 1
            if folder == paths.RECEIPTS:
                # What it names was made before it, and may be a little too old.
                marks.add(_named_by(self.storage, entry.path))


def unnamed(storage: Storage, folder: str, marks: Marks) -> Iterator[Entry]:
    """Yield the files below a folder that are not marked."""
    for chunk in _batches(storage.list(folder), CHUNK):
        named = marks.among([entry.path for entry in chunk])
        yield from (e for e, there in zip(chunk, named.tolist(), strict=True) if not there)


def read_receipt(storage: Storage, path: str) -> Receipt | None:
    """Return a receipt, None if it is gone or damaged."""
    try:
        return read_record(storage, path, receipt_from_json)
    except (FileNotFoundError, CorruptShardError):
        return None


def _named_by(storage: Storage, path: str) -> list[str]:
    receipt = read_receipt(storage, path)
    return [name for name in (receipt.path, receipt.plan) if name] if receipt else []


def _batches(entries: Iterable[Entry], size: int) -> Iterator[list[Entry]]:
    iterator = iter(entries)
    while batch := list(islice(iterator, size)):
        yield batch
