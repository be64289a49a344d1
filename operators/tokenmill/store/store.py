"""A versioned token store: open it, read a version, commit the next."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any

import numpy.typing as npt
import pyarrow as pa

from tokenmill.shards.base import ShardReader
from tokenmill.shards.select import stored_layout, stored_shard
from tokenmill.store import paths
from tokenmill.store.codebooks import read_codebook
from tokenmill.store.commit import Commit, append
from tokenmill.store.denied import denied_assets
from tokenmill.store.diff import Difference, diff
from tokenmill.store.hidden import Hidden, hidden_of
from tokenmill.store.history import merge, restore
from tokenmill.store.identity import Identity, check
from tokenmill.store.intents import Intent, hold
from tokenmill.store.log import Log
from tokenmill.store.records import read_record
from tokenmill.store.refs import Refs
from tokenmill.store.segments import read_segments
from tokenmill.store.tables import read_tables
from tokenmill.store.takedowns import Takedowns
from tokenmill.store.transaction import Change, transact
from tokenmill.store.version import Version
from tokenmill_infra.storage import open_storage, writing
from tokenmill_infra.storage.storage import Storage
from tokenmill_schemas.arrow import ShardLayout
from tokenmill_schemas.canonical import canonical_json
from tokenmill_schemas.errors import StoreError
from tokenmill_schemas.snapshot import (
    REJECT_SCHEMA,
    Receipt,
    Snapshot,
    receipt_from_json,
)

#: Receipts up to this number are asked for one by one, so many at a time.
FEW = 512
THREADS = 8


@dataclass(frozen=True, slots=True)
class Store:
    """A store on a local disk or an object store; cheap to make, picklable, holds no state.

    ``branch`` is the one that commits go to, and whose newest version is the newest.
    """

    storage: Storage
    branch: str = paths.MAIN

    @classmethod
    def of(cls, uri: str, options: Mapping[str, Any] | None = None) -> Store:
        """Return the store at ``uri``, which need not exist yet."""
        return cls(open_storage(uri, options))

    @classmethod
    def open(cls, uri: str, options: Mapping[str, Any] | None = None) -> Store:
        """Return the store at ``uri``.

        Raises:
            StoreError: there is no store with a snapshot at ``uri``.
        """
        store = cls.of(uri, options)
        if not store.log.head_number():
            raise StoreError("is not a token store, or has no snapshot yet", uri=store.storage.uri)
        return store

    @property
    def uri(self) -> str:
        """Where the store is, without credentials."""
        return self.storage.uri

    @property
    def log(self) -> Log:
        """The snapshot log of the branch."""
        return Log(self.storage, self.branch)

    @property
    def refs(self) -> Refs:
        """The tags and branches."""
        return Refs(self.storage)

    @property
    def takedowns(self) -> Takedowns:
        """What no version may show."""
        return Takedowns(self.storage)

    def on(self, branch: str) -> Store:
        """Return this store as seen from a branch.

        Raises:
            SnapshotNotFoundError: there is no such branch.
        """
        Log(self.storage, branch).fork()
        return replace(self, branch=branch)

    def at(self, ref: int | str | None = None) -> Version:
        """Return a version to read from; see `snapshot` for what ``ref`` may be.

        Raises:
            SnapshotNotFoundError: nothing answers to ``ref``.
        """
        return Version(self, self.snapshot(ref))

    def snapshot(self, ref: int | str | None = None) -> Snapshot:
        """Return the record of a version.

        Args:
            ref: A number, a tag, a branch, ``branch:number``, an ISO date (the newest version
                until its end) or time, or None for the newest.

        Raises:
            SnapshotNotFoundError: nothing answers to ``ref``.
        """
        return self.refs.resolve(ref, self.branch)

    def snapshots(self) -> list[Snapshot]:
        """Return all versions of the branch, newest first."""
        return [self.log.read(number) for number in reversed(self.log.numbers())]

    def tag(self, name: str, ref: int | str | None = None) -> Snapshot:
        """Name a version for ever; returns it.

        Raises:
            ConflictError: the tag names another version already.
        """
        with self.hold("tag", note=name), writing(self.storage):
            snapshot = self.snapshot(ref)
            self.refs.tag(name, snapshot)
            return snapshot

    def tags(self) -> dict[str, int]:
        """Return all tags and the numbers that they name, on whichever branch."""
        return {name: tagged.number for name, tagged in self.refs.tags().items()}

    def branches(self) -> dict[str, Snapshot]:
        """Return the newest version of every branch that has one."""
        names = [paths.MAIN, *self.refs.branches()]
        heads = {name: Log(self.storage, name).head() for name in names}
        return {name: head for name, head in heads.items() if head is not None}

    def create_branch(self, name: str, ref: int | str | None = None) -> Store:
        """Begin a branch at a version; returns the store as seen from it.

        Raises:
            ConflictError: the name is taken.
        """
        with self.hold("branch", note=name), writing(self.storage):
            self.refs.create_branch(name, self.snapshot(ref))
        return self.on(name)

    def delete_branch(self, name: str) -> None:
        """Forget a branch; `gc` then removes what only it held.

        Raises:
            SnapshotNotFoundError: there is no such branch.
            ConflictError: another branch or a tag lies on it.
        """
        with self.hold("branch", note=name):
            self.refs.delete_branch(name)

    def diff(self, before: int | str | None, after: int | str | None = None) -> Difference:
        """Compare two versions asset by asset; see `tokenmill.store.diff`."""
        return diff(self.at(before), self.at(after))

    def restore(self, ref: int | str) -> Snapshot:
        """Make the content of an older version the newest one; see `tokenmill.store.history`."""
        with self.hold("restore", note=str(ref)):
            return restore(self.log, self.snapshot(ref))

    def merge(self, branch: str) -> Snapshot:
        """Bring what a branch did into this one; see `tokenmill.store.history`.

        Raises:
            ConflictError: both account for the same asset anew, or both rewrote the same unit.
        """
        with self.hold("merge", note=branch):
            return merge(self.log, branch)

    def hold(self, kind: str, *, note: str = "") -> AbstractContextManager[Intent]:
        """Announce an operation for as long as the block runs, so that no gc takes what it uses.

        Raises:
            StoreError: a gc is at work and does not end.
        """
        return hold(self.storage, kind, note=note)

    def transact(self, change: Change) -> Snapshot | None:
        """Make the next version of the branch from the newest one; see `transaction`."""
        return transact(self.log, change)

    def hidden(self, snapshot: Snapshot, until: int | None = None) -> Hidden:
        """Return the rows of a version's shards that must not be shown now.

        ``until`` counts only the first takedowns: what was hidden when there were no more.
        """
        return hidden_of(self.storage, snapshot, until)

    def denied(self) -> frozenset[bytes]:
        """Return digests of the keys of assets that were taken down and may not come back."""
        return denied_assets(self.storage)

    def segments(self, snapshot: Snapshot, columns: list[str] | None = None) -> pa.Table:
        """Return one row per shard of a version, in order (`SEGMENT_SCHEMA`).

        Raises:
            CorruptShardError: a manifest segment is missing or changed.
        """
        return read_segments(self.storage, snapshot.segments, columns)

    def rejects(self, snapshot: Snapshot) -> pa.Table:
        """Return the assets of a version that have no samples, and why (`REJECT_SCHEMA`)."""
        return read_tables(self.storage, snapshot.rejects, REJECT_SCHEMA)

    def layout(self, snapshot: Snapshot) -> ShardLayout:
        """Return the columns that the shards of a version have.

        Raises:
            StoreError: the version has no shard to tell.
        """
        for path in self.segments(snapshot, ["path"]).column("path").to_pylist():
            if path:
                return stored_layout(self.storage, path)
        raise StoreError(f"snapshot {snapshot.number} has no samples", uri=self.uri)

    def codebook(self, ref: int | str | None = None) -> dict[str, npt.NDArray[Any]]:
        """Return the vectors that a version's ids stand for: ``<stream>``: float32[vocabulary, D].

        Raises:
            StoreError: the store keeps none of the version's fingerprint.
            CorruptShardError: its file is damaged.
        """
        return read_codebook(self, self.snapshot(ref).fingerprint)

    def shard(self, path: str) -> AbstractContextManager[ShardReader]:
        """Open one shard; one on an object store is fetched whole into a temporary file.

        Raises:
            CorruptShardError: it is missing or not a whole shard.
        """
        return stored_shard(self.storage, path)

    def receipt(self, unit_id: str) -> Receipt | None:
        """Return a unit's receipt, None if it has none yet.

        Raises:
            CorruptShardError: the receipt's file is damaged.
        """
        try:
            return read_record(self.storage, paths.receipt_file(unit_id), receipt_from_json)
        except FileNotFoundError:
            return None

    def receipts(self, unit_ids: Sequence[str]) -> dict[str, Receipt]:
        """Return the receipts that exist for ``unit_ids``.

        Raises:
            CorruptShardError: a receipt's file is damaged.
        """
        if len(unit_ids) <= FEW:
            # Not by a listing of all that there are, which may be many, and late.
            with ThreadPoolExecutor(THREADS, thread_name_prefix="receipts") as threads:
                few = threads.map(self.receipt, unit_ids)
                return {receipt.unit_id: receipt for receipt in few if receipt is not None}
        wanted = {paths.receipt_file(unit_id) for unit_id in unit_ids}
        there = [e.path for e in self.storage.list(paths.RECEIPTS) if e.path in wanted]
        found = (read_record(self.storage, path, receipt_from_json) for path in there)
        return {receipt.unit_id: receipt for receipt in found}

    def publish(self, receipt: Receipt) -> Receipt:
        """Publish a unit's receipt; the first one wins and is returned.

        A loser's shard is left to gc: a version may have that very file, under a unit that it was
        merged into.

        Raises:
            CorruptShardError: the winner's file is damaged.
        """
        path = paths.receipt_file(receipt.unit_id)
        try:
            self.storage.create(path, canonical_json(receipt.to_json()))
        except FileExistsError:
            return read_record(self.storage, path, receipt_from_json)
        return receipt

    def check(self, identity: Identity) -> Snapshot | None:
        """Return the newest version, if there is one, to which ``identity`` may be added.

        Raises:
            FingerprintError: the store holds tokens of another kind, or shards of another format or
                with other columns; says what differs.
        """
        head = self.log.head()
        check(self.storage, head, identity)
        return head

    def commit(self, commit: Commit) -> Snapshot:
        """Make receipts visible as the next version; rebases when another append came first.

        Raises:
            FingerprintError: the store holds tokens of another kind.
            ConflictError: a commit that came first holds the same assets in other units.
        """
        return append(self.log, commit)
