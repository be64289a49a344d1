"""gc: delete what no version names, and nothing that anybody may still want.

Kept are all files that a version of any branch names, those that are younger than the grace
period by the storage's own clock (a run's, before its commit), and everything while somebody is at
work.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import pairwise

from tokenmill.store import paths
from tokenmill.store.intents import GC, Intent, any_dead, hold, now_of, others, sweep_dead
from tokenmill.store.log import Log
from tokenmill.store.refs import Refs
from tokenmill.store.retained import branch_names, retained
from tokenmill.store.store import Store
from tokenmill.store.sweep import HeldError, Sweeper, Swept, mark
from tokenmill.store.takedown import complete
from tokenmill_infra.storage import scratch
from tokenmill_infra.storage.storage import Entry, Storage
from tokenmill_schemas.errors import SnapshotNotFoundError
from tokenmill_schemas.snapshot import Snapshot

DAY_S = 86400.0
GRACE_S = 7 * DAY_S


@dataclass(frozen=True, slots=True)
class GcReport:
    """What a gc deleted, or with ``dry_run`` would delete.

    ``files`` are the first of them with their sizes, ``folders`` the number of files and bytes of
    each folder. ``expired`` are versions (``branch:number``), ``young`` counts the files that only
    the grace period holds. ``held`` says who was at work, so that nothing more was deleted.
    """

    dry_run: bool
    held: str
    expired: tuple[str, ...]
    dead_intents: int
    deleted: int
    bytes: int
    young: int
    files: tuple[tuple[str, int], ...]
    folders: dict[str, tuple[int, int]] = field(default_factory=dict)


def gc(
    store: Store,
    *,
    grace_s: float = GRACE_S,
    dry_run: bool = False,
    expire_older_than_s: float | None = None,
) -> GcReport:
    """Delete what no version names.

    Args:
        store: The store.
        grace_s: Files that were written less than this long ago stay.
        dry_run: Only say what would be deleted.
        expire_older_than_s: First let go of versions that were superseded longer ago than this,
            unless they are the newest of a branch, tagged, or needed to merge a branch: where it
            begins, and what was merged last. None lets go of none.

    Raises:
        StoreError: another gc is at work (a dry run waits for it in vain).
        CorruptShardError: a manifest is damaged, so it cannot be told what is needed.
    """
    storage = store.storage
    with hold(storage, "look" if dry_run else GC) as intent:
        sweeper = Sweeper(storage, None if dry_run else intent, now_of(storage), grace_s)
        found = _Found()
        held = _busy(storage, intent) if dry_run else ""
        try:
            _collect(sweeper, found, expire_older_than_s)
        except HeldError as error:
            held = str(error)
    return _report(sweeper.swept, found, dry_run=dry_run, held=held)


@dataclass(slots=True)
class _Found:
    expired: list[str] = field(default_factory=list)
    dead_intents: int = 0


def _collect(sweeper: Sweeper, found: _Found, expire_s: float | None) -> None:
    storage = sweeper.storage
    sweeper.check()
    gone = dict(_expired(storage, sweeper.now - expire_s)) if expire_s is not None else {}
    found.expired = list(gone)
    kept = (v for v in retained(storage) if _name(v) not in gone)
    marks = mark(storage, kept)
    # Nothing is deleted before all that is needed is known.
    sweeper.delete(gone.values())
    sweeper.delete(entry for entry in _lost_logs(storage) if sweeper.is_old(entry))
    sweeper.sweep(marks)
    if sweeper.intent is not None:
        if any_dead(storage):
            complete(storage)  # one of them may have been a commit
        found.dead_intents = len(sweep_dead(storage))
        with scratch(storage):  # entering sweeps what killed processes left
            pass


def _busy(storage: Storage, mine: Intent) -> str:
    return ", ".join(intent.describe() for intent in others(storage, mine))


def _name(version: Snapshot) -> str:
    return f"{version.branch}:{version.number}"


def _expired(storage: Storage, until: float) -> Iterator[tuple[str, Entry]]:
    """Yield versions that were superseded before ``until`` and that nothing holds, and their files.

    The age of a version is that of the one that came after it: until then it was the newest, and
    feeds that opened it may run for long.
    """
    needed = set(_held_versions(storage))
    for branch in branch_names(storage):
        listed = [e for e in storage.list(paths.log_folder(branch)) if paths.log_number(e.path)]
        for entry, after in pairwise(listed):
            number = paths.log_number(entry.path) or 0
            if (branch, number) not in needed and 0 < after.modified <= until:
                yield f"{branch}:{number}", entry


def _held_versions(storage: Storage) -> Iterator[tuple[str, int]]:
    """Yield branches and numbers of versions that are tagged, or newest, or what a merge needs."""
    yield from ((tag.branch, tag.number) for tag in Refs(storage).tags().values())
    for branch in branch_names(storage):
        log = Log(storage, branch)
        head, fork = log.head(), log.fork()
        if head is not None:
            yield head.branch, head.number
            yield from head.merged.items()
        if fork is not None:
            with suppress(SnapshotNotFoundError):  # it was purged
                # The other branch may have inherited it itself.
                began = Log(storage, fork.branch).read(fork.number)
                yield began.branch, began.number


def _lost_logs(storage: Storage) -> Iterator[Entry]:
    """Yield the files of branches that are no more."""
    living = {paths.log_folder(name) for name in branch_names(storage)}
    for entry in storage.list(paths.BRANCHES):
        if entry.path.rpartition("/")[0] not in living:
            yield entry


def _report(swept: Swept, found: _Found, *, dry_run: bool, held: str) -> GcReport:
    return GcReport(
        dry_run=dry_run,
        held=held,
        expired=tuple(found.expired),
        dead_intents=found.dead_intents,
        deleted=swept.files,
        bytes=swept.bytes,
        young=swept.young,
        files=tuple(swept.named),
        folders=dict(swept.folders),
    )
