import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tokenmill.testing.s3server import S3Server
from tokenmill_infra.storage import open_storage, probe, scratch
from tokenmill_infra.storage.objects import ObjectStorage, open_objects
from tokenmill_infra.storage.remote import connect, path_of
from tokenmill_infra.storage.retry import Retry
from tokenmill_infra.storage.transfer import Transfer, list_below, list_folder
from tokenmill_schemas.errors import StoreError

pytestmark = pytest.mark.s3


@pytest.fixture
def storage(s3_root: str) -> ObjectStorage:
    """An empty storage on a real S3 server."""
    return open_objects(s3_root, {})


def test_one_of_eight_threads_wins_each_key(storage: ObjectStorage) -> None:
    """The winner's bytes stay, and every loser is told that it lost."""

    def race(job: tuple[int, int]) -> tuple[int, int, bool]:
        writer, key = job
        try:
            storage.create(f"race/{key:02d}", f"writer {writer}".encode())
        except FileExistsError:
            return writer, key, False
        return writer, key, True

    jobs = [(writer, key) for key in range(6) for writer in range(8)]
    with ThreadPoolExecutor(8) as pool:
        won = {(key, writer) for writer, key, win in pool.map(race, jobs) if win}
    assert sorted(key for key, _ in won) == list(range(6))
    for key, writer in won:
        assert storage.read(f"race/{key:02d}") == f"writer {writer}".encode()


def test_a_large_file_goes_up_in_parts_and_ranges_come_back(storage: ObjectStorage) -> None:
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


def test_another_size_under_the_name_is_refused(storage: ObjectStorage, tmp_path: Path) -> None:
    """A shard's name taken by other bytes is an error, and the local file stays."""
    storage.create("data/shard", b"12345")
    local = tmp_path / "shard"
    local.write_bytes(b"123")
    with pytest.raises(FileExistsError):
        storage.create_from("data/shard", local)
    assert local.exists()


def test_listing_sees_what_others_wrote_and_deleted(storage: ObjectStorage, s3_root: str) -> None:
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


def test_the_probe_finds_conditional_creates_working(storage: ObjectStorage) -> None:
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


@pytest.mark.parametrize("page", [1, 3, 7, 1000])
def test_a_listing_of_many_pages_is_whole(storage: ObjectStorage, page: int) -> None:
    """Files below a folder, and what is directly in it, whatever the server gives at a time."""
    names = [f"tree/{folder}/{n} &+%.bin" for folder in ("a", "b") for n in range(3)]
    for name in (*names, "tree/last", "tree-other"):
        storage.create(name, b"x")
    assert [entry.path for entry in storage.list("tree")] == [*names, "tree/last"]
    fs, root = connect(storage.address, {}), path_of(storage.address)

    class Paged:
        """The client, with smaller pages."""

        split_path = fs.split_path

        def call_s3(self, method: str, **request: Any) -> Any:
            return fs.call_s3(method, **request, MaxKeys=page)

    below = list_below(Paged(), f"{root}/tree", retry=Retry(), what="")
    assert sorted(info["name"] for info in below) == [f"{root}/{n}" for n in (*names, "tree/last")]
    inside = list_folder(Paged(), f"{root}/tree", retry=Retry(), what="")
    told = {info["name"].removeprefix(f"{root}/"): info["type"] for info in inside}
    assert told == {"tree/a": "directory", "tree/b": "directory", "tree/last": "file"}


def test_empty_and_missing_objects(storage: ObjectStorage) -> None:
    """Of an empty object there is no range; a folder is no object."""
    fs, key = connect(storage.address, {}), f"{path_of(storage.address)}/empty"
    fs.pipe_file(key, b"")
    assert storage.read("empty") == b""
    assert storage.size("empty") == 0
    storage.create("folder/file", b"x")
    assert storage.size("folder") is None
    with pytest.raises(FileNotFoundError):
        storage.read("none")


def test_a_bucket_that_is_not_there_is_said(s3_root: str) -> None:
    """With its address, and before anything else."""
    del s3_root  # it sets the environment
    with pytest.raises(StoreError, match="no-such-bucket/store: there is no such bucket"):
        list(open_storage("s3://no-such-bucket/store").list(""))


def test_a_download_in_parts_is_the_object(storage: ObjectStorage, tmp_path: Path) -> None:
    """Each part once, in order, the last one shorter."""
    data = bytes(range(251)) * 5000
    storage.create("weights", data)
    fs, key = connect(storage.address, {}), f"{path_of(storage.address)}/weights"
    Transfer(fs, key, Retry(), "fetching", part_bytes=100_000).download(tmp_path / "weights")
    assert (tmp_path / "weights").read_bytes() == data
