"""All versions that a store keeps, on every branch: what may still be read, and so may not go."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from tokenmill.store import paths
from tokenmill.store.log import Log
from tokenmill.store.refs import Refs
from tokenmill_infra.storage.storage import Storage
from tokenmill_schemas.snapshot import FileRef, Snapshot


def branch_names(storage: Storage) -> list[str]:
    """Return the names of all branches, the main one first."""
    return [paths.MAIN, *sorted(Refs(storage).branches())]


def own_versions(log: Log) -> Iterator[Snapshot]:
    """Yield the versions that were committed to a branch, oldest first.

    A listing may be late, so what follows its last number is asked for by name.
    """
    numbers, newest = log.own_numbers(), log.head_number()
    fork = log.fork()
    last = numbers[-1] if numbers else fork.number if fork else 0
    for number in (*numbers, *range(last + 1, newest + 1)):
        yield log.read(number)


def retained(storage: Storage) -> Iterator[Snapshot]:
    """Yield every version of every branch, each once."""
    for name in branch_names(storage):
        yield from own_versions(Log(storage, name))


def distinct(refs: Iterable[FileRef]) -> list[FileRef]:
    """Return each file once, in the order of its first mention."""
    return list({ref.path: ref for ref in refs}.values())


def tables_of(version: Snapshot) -> Iterator[FileRef]:
    """Yield the files that a version names itself; its shards are named by its segments."""
    yield from version.segments
    yield from version.rejects
    yield from version.plans
    yield from version.tombstones
    yield from version.missing
    for group in version.groups:
        yield from group.segments
