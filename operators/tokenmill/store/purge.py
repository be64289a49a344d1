"""Purge: what was taken down leaves the newest versions at once, and the store when it is due.

    purge(store, grace_s=7 * 86400)     # new versions without it; older ones are due in a week
    execute_due(store)                  # what `tokenmill gc` does first

Purging makes a version on each branch in which shards, listings and tables are written anew without
what was taken down (`tokenmill.store.cleaning`), and a record in the chain that says which versions
are due, and when. Once that time has come by the storage's clock, `execute_due` deletes them and
all that only they held, and what interrupted runs left of the assets; then nothing in the store
names them any more, and a last record has the hash of a receipt that says what was removed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from tokenmill.store.cleaning import cleaned
from tokenmill.store.denied import Denied
from tokenmill.store.intents import GC, hold, now_of
from tokenmill.store.log import Log
from tokenmill.store.removal import Removal, attempts, remove, tainted
from tokenmill.store.retained import branch_names
from tokenmill.store.store import Store
from tokenmill.store.sweep import HeldError, Sweeper
from tokenmill.store.tables import put_once
from tokenmill.store.taint import Taint
from tokenmill.store.takedown import complete
from tokenmill.store.takedowns import REMOVALS, TABLES, Takedown, Takedowns, covered
from tokenmill.store.transaction import Change, transact
from tokenmill_infra.storage.storage import Storage
from tokenmill_schemas.arrow import FORMAT_VERSION
from tokenmill_schemas.canonical import canonical_json
from tokenmill_schemas.snapshot import Snapshot

GRACE_S = 7 * 86400.0


@dataclass(frozen=True, slots=True)
class PurgeResult:
    """What a purge has made due.

    ``number`` is that of its record, None if nothing is left to purge. ``due_at`` is when
    (``due_versions`` and ``due_tags`` go then), in seconds since the epoch by the storage's clock.
    ``versions`` are the numbers of the newest version of each branch, which hold nothing of it.
    """

    number: int | None
    due_at: float
    due_versions: tuple[str, ...]
    due_tags: tuple[str, ...]
    versions: dict[str, int]


@dataclass(frozen=True, slots=True)
class DueReport:
    """What became of purges that were due.

    ``receipt`` is the file of the receipt (canonical JSON), b"" if nothing was removed, and
    ``sha256`` its hash, which the record ``number`` of the chain holds. ``held`` says who was at
    work, so that it must be tried again; ``waiting`` when the other purges are due.
    """

    number: int | None = None
    receipt: bytes = b""
    sha256: str = ""
    held: str = ""
    waiting: tuple[float, ...] = ()


def purge(store: Store, *, grace_s: float = GRACE_S) -> PurgeResult:
    """Make versions without what was taken down, and the older ones due for removal.

    A purge that was interrupted is completed by the same call; done twice it does nothing new.

    Args:
        store: The store.
        grace_s: How long readers may still use the older versions; 0 is not at all.

    Raises:
        CorruptShardError: a file is missing or damaged.
        ConflictError: other commits kept winning.
        StoreError: a gc is at work and does not end.
    """
    storage = store.storage
    with store.hold("purge"):
        complete(storage)
        records = Takedowns(storage).records()
        covers = max((r.number for r in records if r.kind == "takedown"), default=0)
        taint = Taint(storage, covers)
        versions = clean_heads(storage, taint)
        due = tainted(storage, taint)
        due_at = now_of(storage) + grace_s
        if covered(records, "purged") >= covers and not due.versions:
            return PurgeResult(None, due_at, (), (), versions)
        record = _record(storage, due, covers=covers, due_at=due_at)
    names = tuple(due.versions), tuple(due.tags)
    return PurgeResult(record.number, record.facts["due_at"], *names, versions)


def execute_due(store: Store) -> DueReport:
    """Remove what purges have made due, unless somebody is at work on the store.

    Raises:
        CorruptShardError: a file is missing or damaged.
    """
    storage = store.storage
    if not pending_purges(Takedowns(storage).records()) and not any(storage.list(REMOVALS)):
        return DueReport()
    with hold(storage, GC) as intent:
        pending, now = pending_purges(Takedowns(storage).records()), now_of(storage)
        covers = [r.facts["covers"] for r in pending if r.facts["due_at"] <= now]
        # One that is due takes with it what others have made due for later.
        due = [r for r in pending if r.facts["covers"] <= max(covers, default=0)]
        waiting = tuple(record.facts["due_at"] for record in pending if record not in due)
        sweeper = Sweeper(storage, intent, now, 0.0)
        try:
            sweeper.check()
            _forget(storage, pending)
            return _execute(sweeper, due, waiting) if due else DueReport(waiting=waiting)
        except HeldError as error:
            return DueReport(held=str(error), waiting=waiting)


def clean_heads(storage: Storage, taint: Taint) -> dict[str, int]:
    """Make the newest version of each branch one without what was taken down.

    Returns:
        The number of the newest version of each branch that has one.
    """
    numbers = {}
    for name in branch_names(storage):
        log = Log(storage, name)
        made = transact(log, _cleaning(log, taint))
        if made is not None:
            numbers[name] = made.number
    return numbers


def _cleaning(log: Log, taint: Taint) -> Change:
    def change(head: Snapshot | None) -> Snapshot | None:
        return cleaned(log, head, taint) if head is not None else None

    return change


def _record(storage: Storage, due: Removal, *, covers: int, due_at: float) -> Takedown:
    """Say in the chain what is due, unless it says so already, for that time or an earlier one."""
    takedowns = Takedowns(storage)
    for record in pending_purges(takedowns.records()):
        if record.facts["covers"] >= covers and record.facts["due_at"] <= due_at:
            return record
    facts = {"covers": covers, "due_at": due_at, "versions": due.versions, "tags": due.tags}
    return takedowns.append("purge", {}, facts=facts)


def pending_purges(records: Sequence[Takedown]) -> list[Takedown]:
    """Return the purges among a chain's records that were not executed yet.

    Their ``facts`` say what goes (``versions``, ``tags``) and when (``due_at``).
    """
    done = {number for r in records if r.kind == "purged" for number in r.facts["purges"]}
    return [r for r in records if r.kind == "purge" and r.number not in done]


def _forget(storage: Storage, pending: Sequence[Takedown]) -> None:
    """Delete what was written down for purges that have been completed since."""
    keep = {path for record in pending for path, _ in attempts(storage, record.number)}
    for entry in list(storage.list(REMOVALS)):
        if entry.path not in keep:
            storage.delete(entry.path)


def _execute(sweeper: Sweeper, due: Sequence[Takedown], waiting: tuple[float, ...]) -> DueReport:
    storage, takedowns = sweeper.storage, Takedowns(sweeper.storage)
    covers = max(record.facts["covers"] for record in due)
    taint = Taint(storage, covers)
    # Somebody may have restored an older version in the meantime, or begun a branch at one.
    heads = clean_heads(storage, taint)
    removal = remove(sweeper, taint, due[0].number)
    receipt = canonical_json(_receipt(storage, due, removal, heads)) + b"\n"
    sha256 = hashlib.sha256(receipt).hexdigest()
    path = f"{TABLES}/{sha256}.json"
    put_once(storage, path, receipt)
    facts = {"covers": covers, "purges": [r.number for r in due], "files": [path]}
    record = takedowns.append("purged", {}, facts=facts | {"receipt": sha256})
    _forget(storage, pending_purges(takedowns.records()))
    return DueReport(record.number, receipt, sha256, "", waiting)


def _receipt(
    storage: Storage, due: Sequence[Takedown], removal: Removal, heads: dict[str, int]
) -> dict[str, Any]:
    records = Takedowns(storage).records()
    covers = max(record.facts["covers"] for record in due)
    covered_now = [r for r in records[:covers] if r.kind == "takedown"]
    denied = Denied.of(storage, covers)
    return {
        "format_version": FORMAT_VERSION,
        "kind": "purge receipt",
        "store": storage.uri,
        "removed_at": datetime.now(UTC).isoformat(),
        "records": {str(r.number): r.sha256 for r in (*covered_now, *due)},
        "requests": {str(r.number): r.request for r in covered_now},
        "digests": {
            "method": "blake2b, 16 bytes, of the UTF-8 key of the asset or id of the sample",
            "assets": sorted(denied.assets),
            "samples": sorted(denied.samples),
        },
        "newest_versions": heads,
        **asdict(removal),
    }
