"""What the feed does to the process that it runs in: threads, forks, imports, files."""

import os
import subprocess
import sys
import threading
from itertools import islice
from pathlib import Path

import pytest

from tokenmill.feed import Feed
from tokenmill.feed.prefetch import prefetch
from tokenmill.store import Store
from tokenmill.testing.feed import build_store


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


def test_threads_live_from_the_second_batch_to_the_early_end(store: Store) -> None:
    """None at construction or beside the first batch, after a break, or after the last batch."""
    feed = Feed(store, batch_size=16, epochs=1)
    batches = iter(feed)
    assert feed_threads() == []
    next(batches)
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
