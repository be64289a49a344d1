"""The snapshot log of a branch: one immutable file a version, made by exclusive create.

Two writers that race for number N cannot both win, for the second create fails; the loser reads
what won and decides again. A create whose response was lost is found by reading the file back and
comparing its commit id.

A branch begins where it forked from another: its own files count on from there, and what lies
before is its parent's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tokenmill.store import paths
from tokenmill.store.records import read_record
from tokenmill_infra.storage.storage import Storage
from tokenmill_schemas.errors import ConflictError, SnapshotNotFoundError
from tokenmill_schemas.snapshot import Snapshot, snapshot_from_json


@dataclass(frozen=True, slots=True)
class Fork:
    """Where a branch begins: version ``number`` of ``branch``."""

    branch: str
    number: int
    commit_id: str


@dataclass(frozen=True, slots=True)
class Log:
    """The log of one branch of a store."""

    storage: Storage
    branch: str = paths.MAIN

    def fork(self) -> Fork | None:
        """Return where the branch begins, None for the main branch.

        Raises:
            SnapshotNotFoundError: there is no such branch.
        """
        if self.branch == paths.MAIN:
            return None
        try:
            return read_record(self.storage, paths.fork_file(self.branch), _fork)
        except FileNotFoundError as error:
            raise SnapshotNotFoundError(
                f"no branch {self.branch!r}", uri=self.storage.uri
            ) from error

    def numbers(self) -> list[int]:
        """Return the numbers of all versions of the branch, its parent's included, oldest first."""
        fork = self.fork()
        inherited = Log(self.storage, fork.branch).numbers() if fork else []
        return [n for n in inherited if fork and n <= fork.number] + self.own_numbers()

    def own_numbers(self) -> list[int]:
        """Return the numbers of the versions that were committed to this branch, oldest first."""
        listed = self.storage.list(paths.log_folder(self.branch))
        found = (paths.log_number(entry.path) for entry in listed)
        return sorted(number for number in found if number is not None)

    def head_number(self) -> int:
        """Return the number of the newest version, 0 if there is none.

        A listing may be late, so what follows its last number is asked for by name.
        """
        own, fork = self.own_numbers(), self.fork()
        newest = own[-1] if own else fork.number if fork else 0
        while self.storage.exists(paths.log_file(newest + 1, self.branch)):
            newest += 1
        return newest

    def head(self) -> Snapshot | None:
        """Return the newest version, None if there is none."""
        number = self.head_number()
        return self.read(number) if number else None

    def read(self, number: int) -> Snapshot:
        """Return version ``number`` of the branch.

        Raises:
            SnapshotNotFoundError: there is no such version.
            FormatVersionError: a newer library wrote it.
            CorruptShardError: its file is damaged.
        """
        fork = self.fork()
        if fork is not None and number <= fork.number:
            return Log(self.storage, fork.branch).read(number)

        def parse(value: Any) -> Snapshot:
            snapshot = snapshot_from_json(value, uri=self.storage.uri)
            if snapshot.number != number:
                raise ValueError(f"it says that it is snapshot {snapshot.number}")
            return snapshot

        try:
            return read_record(self.storage, paths.log_file(number, self.branch), parse)
        except FileNotFoundError as error:
            raise SnapshotNotFoundError(
                f"no snapshot {number}; there are {self.numbers()[-10:]}", uri=self.storage.uri
            ) from error

    def append(self, snapshot: Snapshot) -> None:
        """Make ``snapshot`` the next version.

        Raises:
            ConflictError: another commit took its number first.
        """
        try:
            file = paths.log_file(snapshot.number, self.branch)
            self.storage.create(file, snapshot.to_bytes())
        except FileExistsError as error:
            winner = self.read(snapshot.number)
            if winner.commit_id != snapshot.commit_id:
                raise ConflictError(
                    f"snapshot {snapshot.number} was committed by another run",
                    uri=self.storage.uri,
                    asked=snapshot.number,
                    found=winner.number,
                ) from error


def _fork(value: Any) -> Fork:
    fork = Fork(value["branch"], value["number"], value["commit_id"])
    if not isinstance(fork.number, int) or not isinstance(fork.branch, str):
        raise TypeError(f"a fork at {fork.number!r} of {fork.branch!r}")
    return fork
