"""The log of a Delta table: which files are its rows, version after version.

    _delta_log/00000000000000000000.json, ...    lines of JSON, one action each

Written by the protocol's text (github.com/delta-io/delta, PROTOCOL.md), reader version 1, writer
version 2: no feature beyond adding and removing whole Parquet files, which every reader knows. A
commit is the exclusive creation of the next file, as in a store's own log.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tokenmill.export.base import Target
from tokenmill_schemas.errors import ConflictError, JobError

LOG = "_delta_log"
PROTOCOL = {"minReaderVersion": 1, "minWriterVersion": 2}


@dataclass(frozen=True, slots=True)
class DataFile:
    """A Parquet file of a table; ``stats``, the JSON of its statistics, has its rows at least.

    Of a file that the table has already only the path matters.
    """

    path: str
    size: int = 0
    stats: str = ""


@dataclass(frozen=True, slots=True)
class Table:
    """A table as of its newest version, -1 if it has none; ``files`` has the rows of each."""

    name: str
    version: int = -1
    metadata: Mapping[str, Any] = field(default_factory=dict)
    files: Mapping[str, int] = field(default_factory=dict)


def read(target: Target, name: str) -> Table:
    """Return the newest version of the table in folder ``name``.

    Raises:
        JobError: it is a table that others changed in ways that are not ours to continue.
    """
    entries = [entry.path for entry in target.storage.list(f"{name}/{LOG}")]
    numbers = sorted(n for path in entries if (n := _number(path)) is not None)
    if numbers != list(range(len(numbers))):
        raise _foreign(target, name, "its log does not begin at version 0")
    metadata: dict[str, Any] = {}
    files: dict[str, int] = {}
    for number in numbers:
        for line in target.storage.read(_file(name, number)).splitlines():
            action = json.loads(line)
            metadata = action.get("metaData", metadata)
            if "protocol" in action and action["protocol"] != PROTOCOL:
                raise _foreign(target, name, f"its protocol is {action['protocol']}")
            if "add" in action:
                stats = json.loads(action["add"].get("stats") or "{}")
                files[action["add"]["path"]] = int(stats.get("numRecords", 0))
            if "remove" in action:
                files.pop(action["remove"]["path"], None)
    return Table(name, len(numbers) - 1, metadata, files)


def commit(
    target: Target,
    table: Table,
    files: Iterable[DataFile],
    *,
    metadata: Mapping[str, Any],
    facts: Mapping[str, Any],
) -> int:
    """Make ``files`` the rows of the table's next version and return its number.

    A table that holds exactly these files keeps its version.

    Args:
        target: The place.
        table: What `read` gave.
        files: All files of the new version.
        metadata: The action ``metaData``.
        facts: ``timestamp`` in milliseconds, and what else is worth a note.

    Raises:
        ConflictError: another commit came first.
    """
    wanted = {file.path: file for file in files}
    fresh = [wanted[path] for path in sorted(wanted.keys() - table.files.keys())]
    gone = sorted(table.files.keys() - wanted.keys())
    first = table.version < 0
    if not (first or fresh or gone):
        return table.version
    actions: list[dict[str, Any]] = [{"commitInfo": {"operation": "WRITE", **facts}}]
    if first:
        actions += [{"protocol": PROTOCOL}, {"metaData": dict(metadata)}]
    now = facts["timestamp"]
    change = {"dataChange": True}
    actions += [{"remove": {"path": path, "deletionTimestamp": now, **change}} for path in gone]
    actions += [{"add": _add(file, now) | change} for file in fresh]
    # ASCII, for a log is cut at its line ends, and some readers know more of those than others.
    lines = (json.dumps(action, sort_keys=True, allow_nan=False) for action in actions)
    data = "".join(f"{line}\n" for line in lines).encode()
    try:
        target.storage.create(_file(table.name, table.version + 1), data)
    except FileExistsError as error:
        text = f"another export made version {table.version + 1} of {table.name}; export again"
        raise ConflictError(text, uri=target.storage.uri) from error
    target.files += 1
    target.written_bytes += len(data)
    return table.version + 1


def _add(file: DataFile, now: int) -> dict[str, Any]:
    return {
        "path": file.path,
        "partitionValues": {},
        "size": file.size,
        "modificationTime": now,
        "stats": file.stats,
    }


def _file(name: str, number: int) -> str:
    return f"{name}/{LOG}/{number:020d}.json"


def _number(path: str) -> int | None:
    stem, _, suffix = path.rpartition("/")[2].partition(".")
    return int(stem) if suffix == "json" and len(stem) == 20 and stem.isdigit() else None


def _foreign(target: Target, name: str, why: str) -> JobError:
    text = f"{target.storage.uri}/{name} is a table that tokenmill cannot continue: {why}"
    return JobError(f"{text}; choose a new folder", path="to")
