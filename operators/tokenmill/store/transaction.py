"""Transactions: read the newest version, decide what comes next, make it by exclusive create.

Whatever changes a store is a function from the newest version to the next one, so that the loser of
a race simply decides again about what won.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from tokenmill.store.log import Log
from tokenmill_infra.storage import writing
from tokenmill_schemas.errors import ConflictError
from tokenmill_schemas.snapshot import Snapshot

#: From the newest version (None: there is none) to the next one; None: there is nothing to do.
#: Called anew after a lost race, so it may write nothing but content-addressed files.
Change = Callable[[Snapshot | None], Snapshot | None]

#: Lost races before a transaction gives up: each means that another commit won in between.
REBASES = 50


def transact(log: Log, change: Change) -> Snapshot | None:
    """Make the next version of a branch; returns it, or the newest one if nothing is to be done.

    Raises:
        ConflictError: other commits kept winning, or ``change`` cannot hold beside what won.
        SnapshotNotFoundError: the branch was deleted meanwhile.
        StoreError: the storage does not keep exclusive create, and another writer is at work.
    """
    with writing(log.storage):
        for _ in range(REBASES):
            head = log.head()
            wanted = change(head)
            if wanted is None:
                return head
            try:
                log.append(wanted)
            except ConflictError:
                continue
            log.fork()  # fails if the branch was deleted meanwhile, and the version with it
            return wanted
    raise ConflictError(f"{REBASES} commits came first; try again", uri=log.storage.uri)


def next_version(log: Log, head: Snapshot, operation: str, **changes: Any) -> Snapshot:
    """Return the version that follows ``head`` on a branch: ``head`` with ``changes``."""
    return replace(
        head,
        **{
            "number": head.number + 1,
            "branch": log.branch,
            "commit_id": uuid.uuid4().hex,
            "parent": head.commit_id,
            "operation": operation,
            "message": "",
            "created_at": datetime.now(UTC).isoformat(timespec="milliseconds"),
            **changes,
        },
    )
