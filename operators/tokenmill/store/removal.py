"""The removal of what a purge has made due: versions, tags, files, and every mention of an asset.

What is to be removed is written down first and deleted then, so that the receipt names all of it
also if it took several attempts.
"""

from __future__ import annotations

import html
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from tokenmill.store import paths
from tokenmill.store.plans import read_unit
from tokenmill.store.records import read_record
from tokenmill.store.refs import Refs
from tokenmill.store.retained import retained
from tokenmill.store.segments import read_segments
from tokenmill.store.sweep import Marks, Sweeper, mark, read_receipt, unnamed
from tokenmill.store.taint import Taint
from tokenmill.store.takedowns import REMOVALS
from tokenmill_infra.storage import scratch
from tokenmill_infra.storage.storage import Entry, Storage
from tokenmill_schemas.canonical import canonical_json
from tokenmill_schemas.plan import Unit
from tokenmill_schemas.snapshot import FileRef, Receipt, Snapshot


@dataclass(slots=True)
class Removal:
    """What goes: versions (``branch:number`` to content id), tags, shards, listings, files.

    ``shards`` are by path: sha256, the number of rows that were taken down, and the versions that
    had it. ``plans`` are the listings that named something. ``files`` are counts and bytes by
    folder, with all else that nobody needed. ``jobs`` are versions that stay although the text of
    their job says a name: it is its author's, and the next run's version has the mended one.
    """

    versions: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    shards: dict[str, dict[str, Any]] = field(default_factory=dict)
    plans: list[str] = field(default_factory=list)
    files: dict[str, list[int]] = field(default_factory=dict)
    jobs: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Return a JSON value."""
        return {name: getattr(self, name) for name in self.__slots__}


def tainted(storage: Storage, taint: Taint) -> Removal:
    """Return the versions of all branches that hold or name anything denied, and their tags."""
    removal = Removal()
    for version in retained(storage):
        if taint.has(version):
            _add(removal, storage, version, taint)
    for name, tag in Refs(storage).tags().items():
        if f"{tag.branch}:{tag.number}" in removal.versions:
            removal.tags[name] = f"{tag.branch}:{tag.number}"
    return removal


def _add(removal: Removal, storage: Storage, version: Snapshot, taint: Taint) -> None:
    name = f"{version.branch}:{version.number}"
    removal.versions[name] = version.content_id
    named = [part.path for part in version.plans if len(taint.listed(part))]
    removal.plans += [path for path in named if path not in removal.plans]
    rows = taint.rows(version)
    shards = read_segments(storage, version.segments, ["path", "sha256"])
    wanted = pa.array(sorted(rows), pa.string())
    for row in shards.filter(pc.is_in(shards.column("path"), value_set=wanted)).to_pylist():
        path, count = row["path"], len(rows[row["path"]])
        shard = removal.shards.setdefault(
            path, {"sha256": row["sha256"], "rows": 0, "versions": []}
        )
        shard["rows"] = max(shard["rows"], count)
        shard["versions"].append(name)


def remove(sweeper: Sweeper, taint: Taint, number: int) -> Removal:
    """Delete what a purge has made due; the newest versions must be clean already.

    Args:
        sweeper: Deletes whatever its age, as long as nobody else is at work.
        taint: What was taken down.
        number: The number of the purge's record, under which attempts are written down.

    Returns:
        All that this and earlier, interrupted attempts have removed.

    Raises:
        HeldError: somebody else has come; the next attempt goes on from there.
    """
    storage = sweeper.storage
    removal = tainted(storage, taint)
    marks = _needed(sweeper, taint, removal)
    forms = _forms(taint.names)
    removal.jobs = list(_named_by_jobs(storage, removal, forms))
    reports = list(_reports(storage, forms))
    _count(sweeper, removal, marks, reports)
    total = _write_down(storage, number, removal)
    sweeper.check()
    for tag in removal.tags:
        storage.delete(paths.tag_file(tag))
    for name in removal.versions:
        branch, _, version = name.rpartition(":")
        storage.delete(paths.log_file(int(version), branch))
    sweeper.delete(reports)
    sweeper.sweep(marks)
    with scratch(storage):  # entering sweeps what killed processes left
        pass
    return total


def _needed(sweeper: Sweeper, taint: Taint, removal: Removal) -> Marks:
    """Return what stays: what other versions name, and what interrupted runs may go on from.

    A run's plan that names nothing denied can be gone on from, with its receipts and shards.
    """
    storage = sweeper.storage
    stay = (v for v in retained(storage) if f"{v.branch}:{v.number}" not in removal.versions)
    marks = mark(storage, stay, purged=taint.covers)
    clean = set()
    for entry in list(unnamed(storage, paths.PLANS, marks)):
        if not len(taint.listed(FileRef(entry.path, "", 0, entry.size_bytes))):
            clean.add(entry.path)
    marks.add(clean)
    for entry in list(unnamed(storage, paths.RECEIPTS, marks)):
        receipt = read_receipt(storage, entry.path)
        if receipt is not None and receipt.plan in clean and _is_clean(storage, receipt, taint):
            marks.add([entry.path, *([receipt.path] if receipt.path else [])])
    return marks


def _is_clean(storage: Storage, receipt: Receipt, taint: Taint) -> bool:
    """Whether a unit has no asset of which a single sample is denied: its shard may hold that."""
    if not taint.denied.samples:
        return True
    unit = Unit(receipt.unit_id, receipt.plan, receipt.row_group, receipt.assets)
    return not taint.denied.touches(read_unit(storage, unit).column("key"))


def _forms(names: Iterable[str]) -> set[str]:
    """Return how names are written in text, in HTML and in JSON."""
    return {form for name in names for form in (name, html.escape(name), json.dumps(name)[1:-1])}


def _reports(storage: Storage, forms: set[str]) -> Iterator[Entry]:
    """Yield the reports that mention a name."""
    for entry in storage.list(paths.REPORTS):
        text = storage.read(entry.path).decode(errors="replace")
        if any(form in text for form in forms):
            yield entry


def _named_by_jobs(storage: Storage, removal: Removal, forms: set[str]) -> Iterator[str]:
    for version in retained(storage):
        name = f"{version.branch}:{version.number}"
        text = canonical_json([version.job, version.message]).decode()
        if name not in removal.versions and any(form in text for form in forms):
            yield name


def _count(sweeper: Sweeper, removal: Removal, marks: Marks, reports: Sequence[Entry]) -> None:
    """Note how many files will go, and of what size."""
    look = Sweeper(sweeper.storage, None, sweeper.now, sweeper.grace_s)
    look.delete(reports)
    look.sweep(marks)
    removal.files = {name: list(counts) for name, counts in look.swept.folders.items()}


def _write_down(storage: Storage, number: int, removal: Removal) -> Removal:
    """Write down what is about to go; returns it with what earlier attempts wrote down."""
    before = attempts(storage, number)
    total = Removal()
    for value in (*(value for _, value in before), removal.to_json()):
        total.versions |= value["versions"]
        total.tags |= value["tags"]
        total.shards = value["shards"] | total.shards
        total.plans += [path for path in value["plans"] if path not in total.plans]
        # A later attempt finds what the first one has left; that one counted all.
        total.files = value["files"] | total.files
        total.jobs = value["jobs"]
    if not before or removal.versions:
        path = f"{REMOVALS}/{number:020d}-{len(before) + 1:06d}.json"
        storage.create(path, canonical_json(removal.to_json()))
    return total


def attempts(storage: Storage, number: int) -> list[tuple[str, dict[str, Any]]]:
    """Return what attempts to execute a purge have written down, and where."""
    listed = [
        e.path for e in storage.list(REMOVALS) if e.path.startswith(f"{REMOVALS}/{number:020d}-")
    ]
    return [(path, read_record(storage, path, dict)) for path in listed]
