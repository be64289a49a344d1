"""Whether a storage keeps exclusive create, asked once and noted; where not, one writer at a time.

Every commit relies on the second create of a name failing. Some object stores accept the condition
and ignore it. There each writer announces itself under a name of its own, which needs no condition,
and then looks for the others: of two that come at once at least one sees the other and gives way.
"""

from __future__ import annotations

import hashlib
import json
import os
import socket
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from tokenmill_infra.storage.probe import probe
from tokenmill_infra.storage.storage import Entry, Storage
from tokenmill_schemas.canonical import canonical_json
from tokenmill_schemas.errors import StoreError

#: Where the answer of the probe is noted, one file for each address that the files are known by: a
#: copy on another server may behave otherwise.
NOTES = "_exclusive"
#: Where writers announce themselves if they have to.
WRITERS = "_writers"
#: After how long an announcement is taken for that of a dead process, by the storage's clock.
LIVES_S = 3600.0
#: How long a listing may be late.
LISTED_S = 30.0


def has_exclusive_create(storage: Storage) -> bool:
    """Return whether the second of two creates of one name fails; the first to ask finds out."""
    if storage.local(NOTES) is not None:
        return True
    note = f"{NOTES}/{hashlib.sha256(storage.uri.encode()).hexdigest()[:16]}.json"
    try:
        return bool(json.loads(storage.read(note))["exclusive_create"])
    except FileNotFoundError:
        answer = probe(storage)
        with suppress(FileExistsError):
            storage.create(note, canonical_json({"exclusive_create": answer}))
        return answer


@contextmanager
def writing(storage: Storage, *, listed_s: float = LISTED_S) -> Iterator[None]:
    """Hold what a commit needs while it reads the newest version and makes the next.

    That is nothing where exclusive create is kept, and else to be the only writer. What a killed
    writer left is no obstacle after an hour.

    Raises:
        StoreError: exclusive create is not kept and another writer is at work.
    """
    if has_exclusive_create(storage):
        yield
        return
    own = f"{WRITERS}/{uuid.uuid4().hex}.json"
    storage.create(own, canonical_json({"host": socket.gethostname(), "pid": os.getpid()}))
    try:
        others = _others(storage, own, listed_s)
        if others:
            raise StoreError(
                "ignores the condition that a file must not exist (If-None-Match: *), so it takes "
                f"one writer at a time, and another one is at work: {_told(storage, others[0])}. "
                f"Try again when it is done; if it is dead, delete {others[0].path}",
                uri=storage.uri,
            )
        yield
    finally:
        storage.delete(own)


def _others(storage: Storage, own: str, listed_s: float) -> list[Entry]:
    """Return the announcements of living writers, from a listing that is as new as our own."""
    end = time.monotonic() + listed_s
    while True:
        entries = {entry.path: entry for entry in storage.list(WRITERS)}
        if own in entries:
            break
        if time.monotonic() > end:
            text = f"does not list {own}, {listed_s:g} s after it was made; nothing was committed"
            raise StoreError(text, uri=storage.uri)
        time.sleep(min(0.5, listed_s / 10))
    now = entries.pop(own).modified
    return [entry for entry in entries.values() if now - entry.modified < LIVES_S]


def _told(storage: Storage, entry: Entry) -> str:
    try:
        writer = json.loads(storage.read(entry.path))
    except FileNotFoundError:
        return "one that has just ended"
    return f"process {writer['pid']} on {writer['host']}"
