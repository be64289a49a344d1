"""The snapshot log: one immutable file a version, made by exclusive create.

Two writers that race for number N cannot both win, for the second create fails; the loser reads
what won and decides again. A create whose response was lost is found by reading the file back and
comparing its commit id.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from tokenmill.store import paths
from tokenmill.store.records import read_record
from tokenmill_infra.storage.storage import Storage
from tokenmill_schemas.canonical import canonical_json
from tokenmill_schemas.errors import ConflictError, SnapshotNotFoundError, StoreError
from tokenmill_schemas.snapshot import Snapshot, snapshot_from_json

TAG_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,99}")


@dataclass(frozen=True, slots=True)
class Log:
    """The log of one store."""

    storage: Storage

    def numbers(self) -> list[int]:
        """Return the numbers of all snapshots, oldest first."""
        found = (paths.log_number(entry.path) for entry in self.storage.list(paths.LOG))
        return sorted(number for number in found if number is not None)

    def read(self, number: int) -> Snapshot:
        """Return snapshot ``number``.

        Raises:
            SnapshotNotFoundError: there is no such snapshot.
            FormatVersionError: a newer library wrote it.
            CorruptShardError: its file is damaged.
        """

        def parse(value: Any) -> Snapshot:
            snapshot = snapshot_from_json(value, uri=self.storage.uri)
            if snapshot.number != number:
                raise ValueError(f"it says that it is snapshot {snapshot.number}")
            return snapshot

        try:
            return read_record(self.storage, paths.log_file(number), parse)
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
            self.storage.create(paths.log_file(snapshot.number), snapshot.to_bytes())
        except FileExistsError as error:
            winner = self.read(snapshot.number)
            if winner.commit_id != snapshot.commit_id:
                raise ConflictError(
                    f"snapshot {snapshot.number} was committed by another run",
                    uri=self.storage.uri,
                    asked=snapshot.number,
                    found=winner.number,
                ) from error

    def tags(self) -> dict[str, int]:
        """Return all tags and the snapshot numbers that they name.

        Raises:
            CorruptShardError: a tag's file is damaged.
        """
        tags = {}
        for entry in self.storage.list(paths.TAGS):
            name = entry.path.removeprefix(f"{paths.TAGS}/").removesuffix(".json")
            tags[name] = read_record(self.storage, entry.path, _tagged)
        return tags

    def tag(self, name: str, snapshot: Snapshot) -> None:
        """Give a snapshot a name that can never move.

        Raises:
            ConflictError: the tag names another snapshot already.
            StoreError: the name is not a letter followed by letters, digits, ``_``, ``.``, ``-``.
        """
        if not TAG_NAME.fullmatch(name):
            raise StoreError(
                f"tag {name!r} must start with a letter and hold only letters, digits, _ . -",
                uri=self.storage.uri,
            )
        value = {"number": snapshot.number, "commit_id": snapshot.commit_id}
        try:
            self.storage.create(paths.tag_file(name), canonical_json(value))
        except FileExistsError as error:
            found = self.tags()[name]
            if found != snapshot.number:
                raise ConflictError(
                    f"tag {name!r} names snapshot {found}; a tag never moves",
                    uri=self.storage.uri,
                    asked=snapshot.number,
                    found=found,
                ) from error

    def resolve(self, ref: int | str | None) -> Snapshot:
        """Return the snapshot that ``ref`` names: a number, a tag, or None for the newest.

        Raises:
            SnapshotNotFoundError: nothing answers to ``ref``; says what does.
        """
        if ref is None or ref == "latest":
            numbers = self.numbers()
            if not numbers:
                raise SnapshotNotFoundError("has no snapshot yet", uri=self.storage.uri)
            return self.read(numbers[-1])
        if isinstance(ref, int) or ref.isdigit():
            return self.read(int(ref))
        tags = self.tags()
        if ref not in tags:
            raise SnapshotNotFoundError(
                f"no tag {ref!r}; tags: {', '.join(sorted(tags)) or 'none'}", uri=self.storage.uri
            )
        return self.read(tags[ref])


def _tagged(value: Any) -> int:
    number = value["number"]
    if not isinstance(number, int):
        raise TypeError(f"number is {number!r}, not an integer")
    return number
