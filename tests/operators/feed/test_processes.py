"""What the feed does to the process that it runs in: threads, forks, imports, files."""

import hashlib
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from tokenmill.feed import Feed, ShardCache
from tokenmill.feed.files import ShardFiles
from tokenmill.feed.manifest import TableManifest
from tokenmill.feed.prefetch import prefetch
from tokenmill.store import Store
from tokenmill.testing.feed import build_store
from tokenmill_infra.storage.storage import Entry, Storage
from tokenmill_schemas.errors import CorruptShardError


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Three small shards."""
    return build_store(tmp_path / "store", [100, 100, 56])


def feed_threads() -> list[str]:
    """Names of the feed's threads that are alive."""
    return [t.name for t in threading.enumerate() if t.name.startswith("tokenmill-feed")]


def test_importing_the_feed_loads_nothing_heavy() -> None:
    """A trainer's process gets no torch, ray, prefect or pandas from it."""
    code = "import sys, tokenmill.feed; print(*{n.split('.')[0] for n in sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert "tokenmill" in loaded
    assert not loaded & {"torch", "ray", "prefect", "pandas", "PIL", "webdataset", "s3fs"}


def test_threads_live_from_the_first_batch_to_the_early_end(store: Store) -> None:
    """None at construction, none after a break, none after the last batch."""
    feed = Feed(store, batch_size=16, epochs=1)
    batches = iter(feed)
    assert feed_threads() == []
    next(batches)
    assert feed_threads()
    del batches
    assert feed_threads() == []
    for _ in feed:
        break
    assert feed_threads() == []
    list(feed)
    assert feed_threads() == []


def test_read_ahead_is_bounded_ordered_and_passes_errors_on() -> None:
    """Results come in the order of their keys, an error where its key stands."""
    started: list[int] = []

    def make(key: int) -> int:
        started.append(key)
        if key == 5:
            raise ValueError(f"key {key}")
        return key

    results = prefetch(make, iter(range(100)), threads=2, after_fork=lambda: None)
    assert list(islice(results, 5)) == [0, 1, 2, 3, 4]
    assert max(started) <= 7
    with pytest.raises(ValueError, match="key 5"):
        next(results)
    assert feed_threads() == []


def test_a_forked_process_goes_on_with_the_parents_iterator(store: Store) -> None:
    """The child has no threads and starts its own; parent and child see the same batches."""
    feed = Feed(store, batch_size=16, seed=4)
    batches = iter(feed)
    next(batches)
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        ids = [str(n) for batch in islice(batches, 6) for n in batch["sample_id"]]
        os.write(writer, ",".join(ids).encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        theirs = pipe.read()
    assert os.waitpid(child, 0)[1] == 0
    assert theirs == ",".join(str(n) for batch in islice(batches, 6) for n in batch["sample_id"])


def test_mapped_shards_hold_no_file_descriptors(store: Store) -> None:
    """Thousands of shards may be open under a limit of 1,024 descriptors."""
    descriptors = Path("/proc/self/fd")
    if not descriptors.exists():
        pytest.skip("no /proc on this system")
    feed = Feed(store, batch_size=16, threads=0)
    before = len(list(descriptors.iterdir()))
    next(iter(feed))
    assert len(list(descriptors.iterdir())) == before


class Remote:
    """A storage without local paths that counts its reads and may give wrong bytes."""

    uri = "remote"

    def __init__(self, files: dict[str, bytes]) -> None:
        self.files = files
        self.reads: list[str] = []

    def read(self, path: str, start: int = 0, stop: int | None = None) -> bytes:
        """Return a file's bytes."""
        self.reads.append(path)
        if path not in self.files:
            raise FileNotFoundError(path)
        return self.files[path][start:stop]

    def local(self, path: str) -> Path | None:
        """Nothing is local."""
        return None

    def list(self, prefix: str) -> Iterator[Entry]:
        """Yield the files below a folder."""
        return (Entry(p, len(d)) for p, d in sorted(self.files.items()) if p.startswith(prefix))

    def exists(self, path: str) -> bool:
        """Whether a file is there."""
        return path in self.files

    def size(self, path: str) -> int | None:
        """Return a file's size."""
        return len(self.files[path]) if path in self.files else None

    create: Any = None
    create_from: Any = None
    delete: Any = None


def files_of(remote: Remote, cache: ShardCache) -> ShardFiles:
    """Return the remote's files as shards."""
    sums = [hashlib.sha256(data).hexdigest() for data in remote.files.values()]
    table = pa.table({"path": list(remote.files), "sha256": sums})
    storage: Storage = remote
    return ShardFiles(storage, TableManifest(table, np.ones(len(table), np.int64)), cache)


def test_a_remote_store_is_fed_through_the_cache(store: Store, tmp_path: Path) -> None:
    """The same batches as from the disk; each shard is fetched once for all feeds."""
    root = Path(store.uri)
    files = {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}
    remote = Remote(files)
    cache = ShardCache(tmp_path / "cache")
    want = list(Feed(store, batch_size=32, epochs=1))
    for _ in range(2):
        got = list(Feed(Store(remote), batch_size=32, epochs=1, cache=cache))
        for one, other in zip(got, want, strict=True):
            assert np.array_equal(one["image"], other["image"])
            assert np.array_equal(one["sample_id"], other["sample_id"])
    shards = store.segments(store.snapshot()).column("path").to_pylist()
    # The store itself reads the first shard to learn the layout, once a feed.
    assert sorted(p for p in remote.reads if p in shards[1:]) == sorted(shards[1:])
    assert len(list((tmp_path / "cache").iterdir())) == 3


def test_the_cache_keeps_its_limit_and_other_peoples_files(tmp_path: Path) -> None:
    """The least recently used shard goes first; what the cache did not make stays."""
    remote = Remote({name: os.urandom(100) for name in "abc"})
    cache = ShardCache(tmp_path / "cache", limit_bytes=250)
    files = files_of(remote, cache)
    paths = [files.local(0), files.local(1)]
    mine = tmp_path / "cache" / "notes.txt"
    mine.write_text("x" * 1000)
    os.utime(paths[0], (1, 1))
    os.utime(paths[1], (2, 2))
    files.local(0)
    paths.append(files.local(2))
    assert [path.exists() for path in paths] == [True, False, True]
    assert mine.exists()
    assert remote.reads == ["a", "b", "c"]
    assert files.local(1).read_bytes() == remote.files["b"]


def test_wrong_bytes_never_enter_the_cache(tmp_path: Path) -> None:
    """A changed or missing remote shard is an error and leaves nothing behind."""
    remote = Remote({"a": b"right"})
    files = files_of(remote, ShardCache(tmp_path / "cache"))
    remote.files["a"] = b"wrong"
    with pytest.raises(CorruptShardError, match="sha256"):
        files.local(0)
    del remote.files["a"]
    with pytest.raises(CorruptShardError, match="missing"):
        files.local(0)
    assert list(tmp_path.rglob("*.shard")) == []
