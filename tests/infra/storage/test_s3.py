import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tokenmill.testing.s3server import S3Server
from tokenmill_infra.storage import Storage, open_storage, probe, scratch
from tokenmill_schemas.errors import StoreError

pytestmark = pytest.mark.s3


@pytest.fixture
def storage(s3_root: str) -> Storage:
    """An empty storage on a real S3 server."""
    return open_storage(s3_root)


def test_one_of_eight_threads_wins_each_of_twenty_keys(storage: Storage) -> None:
    """The winner's bytes stay, and every loser is told that it lost."""

    def race(job: tuple[int, int]) -> tuple[int, int, bool]:
        writer, key = job
        try:
            storage.create(f"race/{key:02d}", f"writer {writer}".encode())
        except FileExistsError:
            return writer, key, False
        return writer, key, True

    jobs = [(writer, key) for key in range(20) for writer in range(8)]
    with ThreadPoolExecutor(8) as pool:
        won = {(key, writer) for writer, key, win in pool.map(race, jobs) if win}
    assert sorted(key for key, _ in won) == list(range(20))
    for key, writer in won:
        assert storage.read(f"race/{key:02d}") == f"writer {writer}".encode()


def test_a_large_file_goes_up_in_parts_and_ranges_come_back(storage: Storage) -> None:
    """20 MB through scratch; the local file is gone; a second upload of that size is a success."""
    data = bytes(range(256)) * (20 * 2**12)
    for _ in range(2):
        with scratch(storage) as folder:
            (folder / "shard").write_bytes(data)
            storage.create_from("data/shard", folder / "shard")
            assert not (folder / "shard").exists()
    assert [(e.path, e.size_bytes) for e in storage.list("data")] == [("data/shard", len(data))]
    assert storage.read("data/shard", 1_000_001, 1_000_300) == data[1_000_001:1_000_300]
    assert storage.read("data/shard", len(data) - 3) == data[-3:]
    assert storage.read("data/shard", 7, 7) == b""
    assert storage.read("data/shard") == data


def test_another_size_under_the_name_is_refused(storage: Storage, tmp_path: Path) -> None:
    """A shard's name taken by other bytes is an error, and the local file stays."""
    storage.create("data/shard", b"12345")
    local = tmp_path / "shard"
    local.write_bytes(b"123")
    with pytest.raises(FileExistsError):
        storage.create_from("data/shard", local)
    assert local.exists()


def test_listing_sees_what_others_wrote_and_deleted(storage: Storage, s3_root: str) -> None:
    """No cache of ours hides another process's files; a copy by pickle is such another."""
    other = pickle.loads(pickle.dumps(open_storage(s3_root)))
    assert list(storage.list("log")) == []
    assert not storage.exists("log/1")
    other.create("log/b/2", b"b")
    other.create("log/b.1", b"b")
    assert [e.path for e in storage.list("log")] == ["log/b.1", "log/b/2"]
    assert storage.exists("log/b.1")
    other.delete("log/b.1")
    other.delete("log/b.1")
    assert [e.path for e in storage.list("log")] == ["log/b/2"]
    with pytest.raises(FileNotFoundError):
        storage.read("log/b.1")


def test_the_probe_finds_conditional_creates_working(storage: Storage) -> None:
    """SeaweedFS honours If-None-Match, and the probe leaves nothing behind."""
    assert probe(storage)
    assert list(storage.list("")) == []


def test_wrong_keys_are_said_without_showing_them(s3: S3Server) -> None:
    """A refused request names the storage and never a secret."""
    storage = open_storage(s3.root(), {**s3.options, "secret": "hunter2-very-secret"})
    with pytest.raises(StoreError, match="access denied") as caught:
        storage.create("x", b"1")
    assert "hunter2" not in str(caught.value)
    assert "hunter2" not in repr(storage)
