"""Names for versions: tags, which never move; branches, which move with each commit; and dates."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from datetime import UTC, date, datetime, time
from typing import Any

from tokenmill.store import paths
from tokenmill.store.log import Fork, Log
from tokenmill.store.records import read_record
from tokenmill_infra.storage.storage import Storage
from tokenmill_schemas.canonical import canonical_json
from tokenmill_schemas.errors import ConflictError, SnapshotNotFoundError, StoreError
from tokenmill_schemas.snapshot import Snapshot

NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,99}")
#: What a name cannot be, for it means something else already.
RESERVED = {"latest", paths.MAIN}


@dataclass(frozen=True, slots=True)
class Tagged:
    """The version that a tag names."""

    number: int
    commit_id: str
    branch: str = paths.MAIN


@dataclass(frozen=True, slots=True)
class Refs:
    """The names of one store."""

    storage: Storage

    def tags(self) -> dict[str, Tagged]:
        """Return all tags and the versions that they name.

        Raises:
            CorruptShardError: a tag's file is damaged.
        """
        tags = {}
        for entry in self.storage.list(paths.TAGS):
            name = entry.path.removeprefix(f"{paths.TAGS}/").removesuffix(".json")
            if (tagged := self._tagged(name)) is not None:
                tags[name] = tagged
        return tags

    def _tagged(self, name: str) -> Tagged | None:
        """Return the version that a tag names; None if there is no such tag, or no more."""
        try:
            return read_record(self.storage, paths.tag_file(name), _tagged)
        except FileNotFoundError:
            return None

    def tag(self, name: str, snapshot: Snapshot) -> None:
        """Give a version a name that can never move.

        Raises:
            ConflictError: the name is another version's or a branch's already.
            StoreError: the name is not a letter followed by letters, digits, ``_``, ``.``, ``-``.
        """
        self._check_name(name, "tag")
        if self._is_branch(name):
            raise ConflictError(f"{name!r} is a branch", uri=self.storage.uri)
        tagged = Tagged(snapshot.number, snapshot.commit_id, snapshot.branch)
        try:
            self.storage.create(paths.tag_file(name), canonical_json(asdict(tagged)))
        except FileExistsError as error:
            found = self._tagged(name)
            if found is not None and found != tagged:
                raise ConflictError(
                    f"tag {name!r} names snapshot {found.number}; a tag never moves",
                    uri=self.storage.uri,
                    asked=snapshot.number,
                    found=found.number,
                ) from error

    def branches(self) -> list[str]:
        """Return the names of all branches but the main one."""
        suffix = "/fork.json"
        found = (entry.path for entry in self.storage.list(paths.BRANCHES))
        forks = [path.removesuffix(suffix) for path in found if path.endswith(suffix)]
        return [path.removeprefix(f"{paths.BRANCHES}/") for path in forks]

    def create_branch(self, name: str, snapshot: Snapshot) -> None:
        """Begin a branch at a version.

        Raises:
            ConflictError: the name is a tag's, or a branch's that begins elsewhere, or was that of
                a branch of which something is left: a file, or later versions that were merged.
            StoreError: the name is not a letter followed by letters, digits, ``_``, ``.``, ``-``.
        """
        self._check_name(name, "branch")
        if self._tagged(name) is not None:
            raise ConflictError(f"{name!r} is a tag", uri=self.storage.uri)
        if not self._is_branch(name):
            self._check_unused(name, snapshot)
        fork = Fork(snapshot.branch, snapshot.number, snapshot.commit_id)
        try:
            self.storage.create(paths.fork_file(name), canonical_json(asdict(fork)))
        except FileExistsError as error:
            found = Log(self.storage, name).fork()
            if found != fork:
                raise ConflictError(
                    f"branch {name!r} begins elsewhere already", uri=self.storage.uri
                ) from error

    def delete_branch(self, name: str) -> None:
        """Forget a branch; `tokenmill.store.gc` then removes what only it held.

        Raises:
            SnapshotNotFoundError: there is no such branch.
            ConflictError: another branch or a tag lies on it.
        """
        log = Log(self.storage, name)
        log.fork()
        others = [b for b in self.branches() if self._parent(b) == name]
        tags = [tag for tag, tagged in self.tags().items() if tagged.branch == name]
        if others or tags:
            held = ", ".join([*others, *tags])
            raise ConflictError(f"branch {name!r} is held by {held}", uri=self.storage.uri)
        for number in reversed(log.own_numbers()):
            self.storage.delete(paths.log_file(number, name))
        self.storage.delete(paths.fork_file(name))

    def resolve(self, ref: int | str | None, branch: str = paths.MAIN) -> Snapshot:
        """Return the version that ``ref`` names, seen from ``branch``.

        A ref is None or ``latest`` (the newest one), a number, a tag, a branch (its newest one),
        ``branch:number``, or an ISO date or time (the newest version made until then, UTC unless
        it says otherwise; a date means its end).

        Raises:
            SnapshotNotFoundError: nothing answers to ``ref``; says what does.
        """
        log = Log(self.storage, branch)
        if ref is None or ref == "latest":
            return self._head(log)
        if isinstance(ref, int) or ref.isdecimal():
            return log.read(int(ref))
        name, colon, number = ref.partition(":")
        if colon and number.isdecimal() and NAME.fullmatch(name):
            return Log(self.storage, name).read(int(number))
        if NAME.fullmatch(ref):
            # Asked for by name, for a listing may be late.
            tagged = self._tagged(ref)
            if tagged is not None:
                return Log(self.storage, tagged.branch).read(tagged.number)
            if ref == paths.MAIN or self._is_branch(ref):
                return self._head(Log(self.storage, ref))
        until = parse_date(ref)
        return self._until(log, until) if until else self._unknown(ref)

    def _is_branch(self, name: str) -> bool:
        return self.storage.exists(paths.fork_file(name))

    def _check_unused(self, name: str, snapshot: Snapshot) -> None:
        """Refuse the name of an earlier branch whose versions would be taken for the new one's."""
        left = Log(self.storage, name).own_numbers()
        head = Log(self.storage, snapshot.branch).head()
        merged = head.merged.get(name, 0) if head else 0
        if not left and merged <= snapshot.number:
            return
        why = f"version {merged} of it was merged" if merged > snapshot.number else "files are left"
        raise ConflictError(
            f"{name!r} was another branch, and {why}: take another name",
            uri=self.storage.uri,
            asked=snapshot.number,
            found=max([merged, *left]),
        )

    def _parent(self, branch: str) -> str:
        fork = Log(self.storage, branch).fork()
        return fork.branch if fork else ""

    def _head(self, log: Log) -> Snapshot:
        head = log.head()
        if head is None:
            raise SnapshotNotFoundError("has no snapshot yet", uri=self.storage.uri)
        return head

    def _until(self, log: Log, until: datetime) -> Snapshot:
        for number in reversed(log.numbers()):
            snapshot = log.read(number)
            if datetime.fromisoformat(snapshot.created_at) <= until:
                return snapshot
        raise SnapshotNotFoundError(
            f"no snapshot was made until {until.isoformat()}", uri=self.storage.uri
        )

    def _unknown(self, ref: str) -> Snapshot:
        tags = ", ".join(sorted(self.tags())) or "none"
        branches = ", ".join([paths.MAIN, *self.branches()])
        raise SnapshotNotFoundError(
            f"no version {ref!r}; tags: {tags}; branches: {branches}; or a number, branch:number "
            "or date",
            uri=self.storage.uri,
        )

    def _check_name(self, name: str, what: str) -> None:
        if not NAME.fullmatch(name) or name in RESERVED:
            raise StoreError(
                f"{what} {name!r} must start with a letter and hold only letters, digits, _ . -, "
                f"and not be {' or '.join(sorted(RESERVED))}",
                uri=self.storage.uri,
            )


def parse_date(text: str) -> datetime | None:
    """Return the moment that an ISO date (its end) or time means, in UTC; None if it is neither."""
    try:
        if len(text) == len("2026-01-31"):
            return datetime.combine(date.fromisoformat(text), time.max, UTC)
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def split_uri(text: str) -> tuple[str, str | None]:
    """Split ``STORE@REF`` as people type it into a store's URI and a ref, None without one.

    What follows the last ``@`` is a ref only if it has no slash, unlike ``s3://key@bucket/store``.
    """
    uri, at, ref = text.rpartition("@")
    if not at or "/" in ref or not uri or uri.endswith("/"):
        return text, None
    return uri, ref


def _tagged(value: Any) -> Tagged:
    tagged = Tagged(value["number"], value["commit_id"], value.get("branch", paths.MAIN))
    if not isinstance(tagged.number, int):
        raise TypeError(f"number is {tagged.number!r}, not an integer")
    return tagged
