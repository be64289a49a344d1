"""The contract of a storage, for ours and yours: call `check_storage` in a test.

It tells what a disk or an object store must promise for a store to lose nothing on it. A storage
that keeps it may be used as `tokenmill.store.Store(storage)`.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tokenmill.testing.checks import require
from tokenmill_infra.storage.storage import Storage

#: Sorted by whole paths, which is not the order of folders sorted by their names.
TREE = ("a-b", "a.b", "a/a/z", "a/b", "ab/c", "b")
#: Not a path below the root.
OUTSIDE = ("", "/etc/passwd", "../up", "a//b", "a/./b", "a/")
#: Writers that race for one name.
RACERS = 8


def check_storage(storage: Storage, folder: Path) -> None:
    """Check every promise of `tokenmill_infra.storage.Storage` on an empty storage.

    ``folder`` is an empty local one for files on their way into the storage. What is made is
    deleted again.

    Raises:
        AssertionError: a promise is broken; says which.
    """
    for check in (_check_create, _check_race, _check_ranges, _check_create_from, _check_list):
        require(not list(storage.list("")), f"the storage is empty before {check.__name__}")
        check(storage, folder)
        for entry in list(storage.list("")):
            storage.delete(entry.path)
    _check_missing(storage)
    _check_paths(storage)
    _check_pickle(storage)


def _raises(kind: type[Exception], function: Callable[[], object]) -> bool:
    try:
        function()
    except kind:
        return True
    return False


def _check_create(storage: Storage, _: Path) -> None:
    storage.create("_log/1.json", b"first")
    again = _raises(FileExistsError, lambda: storage.create("_log/1.json", b"second"))
    require(again, "the second create of a name raises FileExistsError")
    require(storage.read("_log/1.json") == b"first", "the second create changes nothing")
    require(storage.size("_log/1.json") == 5, "size is in bytes")
    require(storage.exists("_log/1.json"), "what was created exists")
    require(not storage.exists("_log"), "a folder is not a file")
    require(storage.size("_log") is None, "a folder has no size")
    storage.delete("_log/1.json")
    require(not storage.exists("_log/1.json"), "what was deleted is gone")
    storage.create("_log/1.json", b"third")
    require(storage.read("_log/1.json") == b"third", "a deleted name can be created again")


def _check_race(storage: Storage, _: Path) -> None:
    """Each racer's bytes are its own, as everything that must have one winner has to be."""

    def race(number: int) -> bool:
        data = bytes([number]) * 10_000
        return not _raises(FileExistsError, lambda: storage.create("race", data))

    with ThreadPoolExecutor(RACERS) as pool:
        wins = list(pool.map(race, range(RACERS)))
    require(sum(wins) == 1, f"of {RACERS} creates of one name one wins, not {sum(wins)}")
    data = storage.read("race")
    require(data == bytes([wins.index(True)]) * 10_000, "the winner's bytes are there, all of them")


def _check_ranges(storage: Storage, _: Path) -> None:
    data = bytes(range(256)) * 300
    storage.create("data/ranges", data)
    for start, stop in ((0, None), (0, 1), (5, 5), (255, 70_000), (76_799, None), (70_000, 90_000)):
        found = storage.read("data/ranges", start, stop)
        require(found == data[start:stop], f"read gives the bytes [{start}, {stop})")


def _check_create_from(storage: Storage, folder: Path) -> None:
    local = folder / "spool"
    for _ in range(2):
        local.write_bytes(b"shard")
        storage.create_from("data/1", local)
        require(not local.exists(), "create_from takes the local file away, also of equal bytes")
    local.write_bytes(b"another shard")
    refused = _raises(FileExistsError, lambda: storage.create_from("data/1", local))
    require(refused, "create_from of another size under a taken name raises FileExistsError")
    require(local.read_bytes() == b"another shard", "a refused file stays where it was")
    require(storage.read("data/1") == b"shard", "a refused file changes nothing")
    local.unlink()
    path = storage.local("data/1")
    require(path is None or path.read_bytes() == b"shard", "a local path is that of the file")


def _check_list(storage: Storage, _: Path) -> None:
    for path in TREE:
        storage.create(f"data/{path}", path.encode())
    storage.create("database", b"1")
    entries = list(storage.list("data"))
    found = [(entry.path, entry.size_bytes) for entry in entries]
    wanted = [(f"data/{path}", len(path)) for path in TREE]
    require(found == wanted, "a list has each file below a folder and its size, sorted by path")
    require(list(storage.list("data/")) == entries, "a slash at the end of a folder means nothing")
    require(len(list(storage.list(""))) == len(TREE) + 1, "the root lists everything")
    times = [entry.modified for entry in entries]
    require(all(time > 0 for time in times), "modified is in seconds since 1970")
    require(max(times) - min(times) < 300, "modified is by one clock")


def _check_missing(storage: Storage) -> None:
    require(_raises(FileNotFoundError, lambda: storage.read("no")), "no file, FileNotFoundError")
    require(_raises(FileNotFoundError, lambda: storage.read("no", 0, 9)), "of a range of it, too")
    require(not storage.exists("no") and storage.size("no") is None, "what is not there is not")
    require(not list(storage.list("no")), "a folder that is not there lists nothing")
    storage.delete("no")


def _check_paths(storage: Storage) -> None:
    for path in OUTSIDE:

        def create(path: str = path) -> None:
            storage.create(path, b"1")

        require(_raises(ValueError, create), f"{path!r} is no path below the root")


def _check_pickle(storage: Storage) -> None:
    copy = pickle.loads(pickle.dumps(storage))  # noqa: S301 - our own bytes
    require(copy == storage, "a pickled storage equals its original")
    storage.create("pickled", b"1")
    require(copy.read("pickled") == b"1", "a pickled storage reads what the original wrote")
    storage.delete("pickled")
