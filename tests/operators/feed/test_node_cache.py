"""The node's cache of remote shards: a hard limit, one fetch a node, nothing left by the killed."""

import hashlib
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from tests.operators.feed.cached_blocks import SIZE, block_of

import tokenmill.feed.shards.cache_folder as cache_folder
from tokenmill.feed import ShardCache
from tokenmill.feed.rows.manifest import TableManifest
from tokenmill.feed.shards.cache_folder import LOCK_FILE
from tokenmill.feed.shards.files import ShardFiles
from tokenmill.feed.shards.locks import LockFile
from tokenmill.feed.shards.node_cache import Block
from tokenmill.testing.ranges import RangeStorage
from tokenmill_schemas.errors import CorruptShardError


def files_of(remote: RangeStorage, cache: ShardCache) -> ShardFiles:
    """Return the remote's files as shards."""
    data = list(remote.files.values())
    sums = [hashlib.sha256(some).hexdigest() for some in data]
    table = pa.table({"path": list(remote.files), "sha256": sums, "bytes": list(map(len, data))})
    return ShardFiles(remote, TableManifest(table, np.ones(len(table), np.int64)), cache)


def own_files(folder: Path) -> dict[str, int]:
    """Return the names and sizes of all files in a folder but the lock."""
    found = {}
    for entry in os.scandir(folder):
        try:
            found[entry.name] = entry.stat().st_size
        except FileNotFoundError:
            continue
    return {name: size for name, size in found.items() if name != LOCK_FILE}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder that is not there yet."""
    return tmp_path / "deep" / "cache"


class Fetches:
    """Counts fetches of blocks."""

    def __init__(self) -> None:
        self.count = 0
        self._lock = threading.Lock()

    def __call__(self) -> None:
        """Count one."""
        with self._lock:
            self.count += 1


def test_a_block_is_fetched_once_and_then_mapped(folder: Path) -> None:
    """The second time it comes from the folder, with the same bytes, under its own name."""
    fetches = Fetches()
    block = block_of(1, fetched=fetches)
    cache = ShardCache(folder)
    one, other = cache.get(block), cache.get(block)
    assert one.data.equals(other.data)
    assert one.file == other.file == folder / block.name
    assert fetches.count == 1
    assert own_files(folder) == {block.name: SIZE}


def test_threads_that_want_one_block_fetch_it_once(folder: Path) -> None:
    """Those that come while it is under way wait for it."""
    fetches = Fetches()

    def slow() -> None:
        fetches()
        time.sleep(0.1)

    block = block_of(1, fetched=slow)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: ShardCache(folder).get(block).data.to_pybytes(), range(8)))
    assert len(set(found)) == 1
    assert fetches.count == 1


def test_the_least_recently_used_block_makes_room(folder: Path) -> None:
    """What the cache did not make stays, whatever it is called and however full the cache is."""
    folder.mkdir(parents=True)
    foreign = [folder / "notes.txt", folder / f"{'0' * 64}.tmp", folder / f"x{'0' * 64}.shard"]
    for path in foreign:
        path.write_bytes(b"x" * 5 * SIZE)
    (folder / f"{'1' * 64}.shard").mkdir()
    fetches = Fetches()
    blocks = [block_of(i, fetched=fetches) for i in range(3)]
    cache = ShardCache(folder, limit_bytes=5 * SIZE // 2)
    for block in blocks[:2]:
        cache.get(block)
    os.utime(folder / blocks[0].name, (2, 2))
    os.utime(folder / blocks[1].name, (1, 1))
    cache.get(blocks[2])
    assert all(path.read_bytes() == b"x" * 5 * SIZE for path in foreign)
    assert (folder / f"{'1' * 64}.shard").is_dir()
    assert {b.name for b in blocks} & set(own_files(folder)) == {blocks[0].name, blocks[2].name}
    cache.get(blocks[0])
    assert fetches.count == 3
    cache.get(blocks[1])
    assert fetches.count == 4


def test_what_is_mapped_is_not_evicted(folder: Path) -> None:
    """Its space would not come free; the newcomer is given from memory, then there is room."""
    cache = ShardCache(folder, limit_bytes=SIZE)
    held = cache.get(block_of(1))
    assert cache.get(block_of(2)).file is None
    assert own_files(folder) == {block_of(1).name: SIZE}
    assert held.data.to_pybytes() == cache.get(block_of(1)).data.to_pybytes()
    del held
    folder_now = cache_folder.cache_folder(os.getpid(), folder, SIZE)
    assert folder_now.store(block_of(2).name, block_of(2).fetch()) is False
    folder_now._full_until = 0.0
    assert cache.get(block_of(2)).file is not None
    assert own_files(folder) == {block_of(2).name: SIZE}


def test_a_block_above_the_limit_is_given_from_memory(folder: Path) -> None:
    """It is never written, and pushes nothing out."""
    cache = ShardCache(folder, limit_bytes=SIZE)
    cache.get(block_of(1))
    assert cache.get(block_of(2, size=SIZE + 1)).file is None
    assert own_files(folder) == {block_of(1).name: SIZE}


def test_bytes_damaged_on_their_way_are_fetched_again(folder: Path) -> None:
    """Once; damaged twice they are an error, and never in the folder."""
    good = block_of(1)
    answers = [b"short", b"x" * SIZE]

    def fetch() -> pa.Buffer:
        return pa.py_buffer(answers.pop(0)) if answers else good.fetch()

    block = Block(good.name, SIZE, fetch, good.check)
    with pytest.raises(CorruptShardError, match="block 1 is damaged"):
        ShardCache(folder).get(block)
    assert own_files(folder) == {}
    answers[:] = [b"short"]
    assert ShardCache(folder).get(block).data.equals(good.fetch())
    bad = Block(block_of(2).name, SIZE, lambda: pa.py_buffer(b"short"), lambda _: None)
    with pytest.raises(CorruptShardError, match=r"expected 1000 bytes of .*, found 5"):
        ShardCache(folder).get(bad)


@pytest.mark.parametrize("damage", [b"", b"half", b"x" * SIZE])
def test_a_damaged_file_is_thrown_away(folder: Path, damage: bytes) -> None:
    """Cut off or rotten: a process that maps it for the first time notices."""
    block = block_of(1)
    ShardCache(folder).get(block)
    (folder / block.name).unlink()
    (folder / block.name).write_bytes(damage)
    cache_folder.cache_folder.cache_clear()  # as in another process
    assert ShardCache(folder).get(block).data.equals(block.fetch())
    assert (folder / block.name).read_bytes() == block.fetch().to_pybytes()


def test_books_that_are_wrong_are_set_right(folder: Path) -> None:
    """Overwritten, or of files that somebody deleted: another process counts anew."""
    cache = ShardCache(folder, limit_bytes=3 * SIZE)
    for i in range(3):
        cache.get(block_of(i))
    for path in list(folder.iterdir()):
        if path.name != LOCK_FILE:
            path.unlink()
    (folder / LOCK_FILE).write_bytes(b"rubbish")
    cache_folder.cache_folder.cache_clear()
    for i in range(4, 7):
        assert cache.get(block_of(i)).file is not None
    assert len(own_files(folder)) == 3


def test_a_folder_that_is_deleted_meanwhile_is_made_again(folder: Path) -> None:
    """Somebody cleans up: what is mapped stays readable, what comes is kept again."""
    cache = ShardCache(folder)
    held = cache.get(block_of(1))
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()
    assert cache.get(block_of(2)).file == folder / block_of(2).name
    assert held.data.equals(block_of(1).fetch())


def test_a_full_disk_costs_one_warning(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Blocks come from memory; no scrap is left, and nothing stays booked."""

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(cache_folder, "FULL_S", 0.0)
    cache = ShardCache(folder, limit_bytes=SIZE)
    with monkeypatch.context() as patch, caplog.at_level(logging.WARNING):
        patch.setattr(os, "write", full)
        for block in (block_of(1), block_of(2)):
            kept = cache.get(block)
            assert kept.data.equals(block.fetch())
            assert kept.file is None
    assert [r.getMessage() for r in caplog.records if "No space left" in r.getMessage()]
    assert len(caplog.records) == 1
    assert own_files(folder) == {}
    assert cache.get(block_of(1)).file is not None


def test_a_disk_that_is_really_full(tmp_path: Path) -> None:
    """A file system of a few kilobytes: kept is what it takes, the rest comes from memory."""
    folder = tmp_path / "small"
    folder.mkdir()
    options = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
    if subprocess.run(options, check=False, capture_output=True).returncode:
        pytest.skip("may not mount a small file system")
    try:
        cache = ShardCache(folder)
        found = [cache.get(block_of(i, size=16_000)) for i in range(8)]
        for i, kept in enumerate(found):
            assert kept.data.equals(block_of(i, size=16_000).fetch())
        assert {kept.file is None for kept in found} == {True, False}
        assert sum(own_files(folder).values()) <= 64_000
        del found, kept
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_folder_for_reading_only_is_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is there is mapped, what is not comes from memory."""
    cache = ShardCache(folder)
    cache.get(block_of(1))
    cache_folder.cache_folder.cache_clear()

    def read_only(lock: LockFile) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(LockFile, "open", read_only)
    assert cache.get(block_of(1)).file == folder / block_of(1).name
    assert cache.get(block_of(2)).file is None


def test_a_stopped_process_is_not_waited_for_for_ever(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It holds the right to fetch a block, and the books: others go on without."""
    folder.mkdir(parents=True)
    block = block_of(1)
    stopped = LockFile(folder / LOCK_FILE)
    monkeypatch.setattr(cache_folder, "BOOKS_PATIENCE_S", 0.05)
    cache = ShardCache(folder, patience_s=0.05)
    for held in (cache_folder.FILL_LOCKS + cache_folder.key_of(block.name), 0):
        assert stopped.try_lock(held)
        assert cache.get(block).data.equals(block.fetch())
        assert own_files(folder) == {}
        stopped.close()
    assert cache.get(block).file is not None


CHILD = """
import os, sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from tests.operators.feed.cached_blocks import block_of
from tokenmill.feed.shards.node_cache import ShardCache

folder, log, limit, delay = Path(sys.argv[2]), sys.argv[3], int(sys.argv[4]), float(sys.argv[5])

def fetched():
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.write(descriptor, f"{os.getpid()}\\n".encode())
    os.close(descriptor)
    time.sleep(delay)

def work(numbers):
    cache = ShardCache(folder, limit_bytes=limit)
    for number in numbers:
        block = block_of(number, fetched=fetched)
        assert cache.get(block).data.equals(block_of(number).fetch())

children = []
for turn in sys.argv[6:]:
    child = os.fork()
    if not child:
        work(map(int, turn.split(",")))
        os._exit(0)
    children.append(child)
print(*children, flush=True)
for child in children:
    print(os.waitpid(child, 0)[1], flush=True)
"""
Turns = Sequence[Sequence[int]]


@dataclass(frozen=True, slots=True)
class Children:
    """Processes that get blocks; each fetch takes a while and adds the process to a log."""

    parent: "subprocess.Popen[str]"
    pids: list[int]

    @classmethod
    def of(cls, folder: Path, log: Path, turns: Turns, *, limit: int, delay: float) -> "Children":
        """Start a process for each list of numbers of blocks, all forked from one."""
        numbers = [",".join(map(str, turn)) for turn in turns]
        root = Path(__file__).parents[3]
        command = [*(root, folder, log, limit, delay), *numbers]
        parent = subprocess.Popen(
            [sys.executable, "-c", CHILD, *map(str, command)], stdout=subprocess.PIPE, text=True
        )
        return cls(parent, [int(pid) for pid in parent.stdout.readline().split()])  # type: ignore[union-attr]

    def wait(self) -> list[int]:
        """Return what became of them, in order: 0, or how they ended."""
        return [int(line) for line in self.parent.communicate(timeout=60)[0].split()]


def test_processes_of_a_node_fetch_each_block_once(folder: Path, tmp_path: Path) -> None:
    """Four at a time want the same blocks, each beginning with another one."""
    log = tmp_path / "log"
    turns = [[*range(i, 12), *range(i)] for i in (0, 3, 6, 9)]
    children = Children.of(folder, log, turns, limit=10**6, delay=0.02)
    assert children.wait() == [0, 0, 0, 0]
    assert len(log.read_text().splitlines()) == 12
    assert len(own_files(folder)) == 12


def test_a_killed_process_leaves_nothing_that_stops_others(folder: Path, tmp_path: Path) -> None:
    """Killed in the middle of a fetch, with a scrap of an earlier one: locks and space are free."""
    log = tmp_path / "log"
    children = Children.of(folder, log, [[1]], limit=2 * SIZE, delay=60.0)
    while not log.exists():
        time.sleep(0.01)
    scrap = folder / f"{block_of(2).name}.partial"
    scrap.write_bytes(b"x" * SIZE)
    os.kill(children.pids[0], signal.SIGKILL)
    assert children.wait() == [signal.SIGKILL]
    begin = time.monotonic()
    cache = ShardCache(folder, limit_bytes=2 * SIZE)
    kept = [cache.get(block_of(i)).file for i in (1, 2)]
    assert time.monotonic() - begin < 5
    assert None not in kept
    assert not scrap.exists()


def test_the_limit_holds_at_every_moment(folder: Path, tmp_path: Path) -> None:
    """Four processes fill and evict, one is killed, while somebody always looks at the folder."""
    log, limit = tmp_path / "log", 7 * SIZE
    turns = [[n % 20 for n in range(i, 400, 4)] for i in range(4)]
    children = Children.of(folder, log, turns, limit=limit, delay=0.001)
    most, looks = 0, 0
    while children.parent.poll() is None:
        if folder.is_dir():
            most, looks = max(most, sum(own_files(folder).values())), looks + 1
        if looks == 100:
            os.kill(children.pids[0], signal.SIGKILL)
    assert children.wait() == [signal.SIGKILL, 0, 0, 0]
    assert limit - 3 * SIZE < most <= limit


FORKS = """
import os, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from tests.operators.feed.cached_blocks import SIZE, block_of
from tokenmill.feed.shards.node_cache import ShardCache

cache = ShardCache(Path(sys.argv[2]), limit_bytes=SIZE)
held = cache.get(block_of(1))
reader, writer = os.pipe()
if not os.fork():
    del held
    os.write(writer, b"y" if cache.get(block_of(2)).file is None else b"n")
    sys.stdin.read()
    os._exit(0)
os._exit(os.read(reader, 1) != b"y")
"""


def test_a_child_leaves_the_locks_to_its_parent(folder: Path) -> None:
    """Forked while a block is pinned, it does not hold it for longer than its parent."""
    command = [sys.executable, "-c", FORKS, str(Path(__file__).parents[3]), str(folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as parent:
        assert parent.wait(60) == 0
        # The child still lives.
        assert ShardCache(folder, limit_bytes=SIZE).get(block_of(2)).file is not None


def test_wrong_shards_never_enter_the_cache(tmp_path: Path) -> None:
    """A changed, missing or shortened remote shard is an error and leaves nothing behind."""
    remote = RangeStorage({"a": b"right"})
    files = files_of(remote, ShardCache(tmp_path / "cache"))
    for wrong in (b"wrong", b"rig"):
        remote.files["a"] = wrong
        with pytest.raises(CorruptShardError, match=r"sha256|expected 5 bytes of .*, found 3"):
            files.local(0)
    del remote.files["a"]
    with pytest.raises(CorruptShardError, match="missing"):
        files.local(0)
    assert own_files(tmp_path / "cache") == {}
    remote.files["a"] = b"right"
    assert files.local(0).read_bytes() == b"right"


def test_a_shard_that_cannot_be_kept_is_a_file_in_memory(tmp_path: Path) -> None:
    """Formats that open a path get one, whatever the disk says."""
    remote = RangeStorage({"a": b"right"})
    files = files_of(remote, ShardCache(tmp_path / "cache", limit_bytes=2))
    local = files.local(0)
    assert local.read_bytes() == b"right"
    assert files.map(0).to_pybytes() == b"right"
    assert not (tmp_path / "cache").exists()
    files.held.clear()
    assert not local.exists()
