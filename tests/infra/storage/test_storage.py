import pickle
import subprocess
import sys
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenmill_infra.storage import Storage, open_storage, probe, probe_folder, scratch
from tokenmill_infra.storage.local import LocalStorage
from tokenmill_infra.storage.paths import without_credentials
from tokenmill_schemas.errors import JobError


@pytest.fixture(params=["local", "memory"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Storage]:
    """An empty storage of each kind that needs no server."""
    if request.param == "local":
        yield open_storage(str(tmp_path / "deep" / "store"))
    else:
        yield open_storage(f"memory://{uuid.uuid4().hex}/store")


def test_a_file_is_created_once(storage: Storage) -> None:
    """The second create of a name fails and changes nothing."""
    storage.create("_log/1.json", b"first")
    with pytest.raises(FileExistsError):
        storage.create("_log/1.json", b"second")
    assert storage.read("_log/1.json") == b"first"
    assert storage.read("_log/1.json", 1, 3) == b"ir"
    assert storage.read("_log/1.json", 2) == b"rst"
    assert storage.read("_log/1.json", 3, 3) == b""


def test_missing_files_are_file_not_found(storage: Storage) -> None:
    """Reading says so, existence is a plain no, deleting is done already."""
    with pytest.raises(FileNotFoundError):
        storage.read("nothing")
    assert not storage.exists("nothing")
    storage.delete("nothing")
    assert list(storage.list("nothing")) == []


def test_a_folder_is_not_a_file(storage: Storage) -> None:
    """``exists`` answers for files only."""
    storage.create("a/b", b"1")
    assert storage.exists("a/b")
    assert not storage.exists("a")


def test_listing_is_sorted_by_whole_path(storage: Storage) -> None:
    """``a-b`` < ``a.b`` < ``a/b``: the order of the paths, not of each folder's names."""
    paths = ["a/b", "a.b", "a-b", "a/a/z", "b", "ab/c"]
    for path in paths:
        storage.create(f"data/{path}", b"x" * len(path))
    storage.create("database", b"1")
    found = [(e.path, e.size_bytes) for e in storage.list("data")]
    assert found == [(f"data/{path}", len(path)) for path in sorted(paths)]
    assert len(list(storage.list(""))) == len(paths) + 1


def test_create_from_takes_the_local_file(storage: Storage, tmp_path: Path) -> None:
    """It is moved; the same again is a success, another size under the name is not."""
    local = tmp_path / "spool"
    for _ in range(2):
        local.write_bytes(b"shard")
        storage.create_from("data/1", local)
        assert not local.exists()
    local.write_bytes(b"other shard")
    with pytest.raises(FileExistsError):
        storage.create_from("data/1", local)
    assert local.read_bytes() == b"other shard"
    assert storage.read("data/1") == b"shard"


@pytest.mark.parametrize("path", ["", "/etc/passwd", "../up", "a//b", "a/./b", "a/"])
def test_paths_stay_below_the_root(storage: Storage, path: str) -> None:
    """Nothing but a plain relative path reaches the disk."""
    with pytest.raises(ValueError, match="relative"):
        storage.create(path, b"1")


def test_storages_pickle(storage: Storage) -> None:
    """An actor's copy reads what ours wrote."""
    storage.create("a", b"1")
    copy = pickle.loads(pickle.dumps(storage))
    assert copy == storage
    assert copy.read("a") == b"1"


def test_scratch_is_removed_and_never_listed(storage: Storage) -> None:
    """Files in scratch are nobody's until they are created from."""
    with scratch(storage) as folder:
        (folder / "half").write_bytes(b"1")
        assert list(storage.list("")) == []
    assert not folder.exists()


def test_scratch_of_the_dead_is_swept_and_of_the_living_kept(tmp_path: Path) -> None:
    """A lock that nobody holds marks what a killed process left."""
    storage = open_storage(str(tmp_path))
    left = tmp_path / ".scratch" / "dead"
    left.mkdir(parents=True)
    (left / "half").write_bytes(b"1")
    left.with_suffix(".lock").touch()
    with scratch(storage) as first, scratch(storage) as second:
        assert first.is_dir()
        assert second.is_dir()
        assert not left.exists()
    assert list(tmp_path.iterdir()) == []


DIES_AT_ITS_LINK = """
import os, sys
from tokenmill_infra.storage import open_storage
os.link = lambda *_: os._exit(9)
open_storage(sys.argv[1]).create("data/receipt", b"1")
"""


def test_what_a_killed_create_leaves_is_swept(tmp_path: Path) -> None:
    """Its temporary file lies where the next user of scratch looks, and nothing hidden stays."""
    died = subprocess.run([sys.executable, "-c", DIES_AT_ITS_LINK, str(tmp_path)], check=False)
    assert died.returncode == 9
    assert any(path.is_file() for path in tmp_path.rglob("*"))
    with scratch(open_storage(str(tmp_path))):
        pass
    assert [path.name for path in tmp_path.rglob("*")] == ["data"]


def test_scratch_for_no_storage_touches_none(tmp_path: Path) -> None:
    """It lies in the machine's temporary folder and goes like any other."""
    with scratch() as folder:
        assert folder.is_dir()
        assert not folder.is_relative_to(tmp_path)
    assert not folder.exists()


def test_a_folder_is_probed_and_left_as_it_was(tmp_path: Path) -> None:
    """Whether it is there or yet to be made; what is in the way is an error."""
    probe_folder(open_storage(str(tmp_path)))
    probe_folder(open_storage(str(tmp_path / "deep" / "store")))
    probe_folder(open_storage("memory://nowhere/store"))
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").write_bytes(b"1")
    (tmp_path / "link").symlink_to(tmp_path / "gone")
    for name in ("file", "file/store", "link"):
        with pytest.raises(OSError, match="directory"):
            probe_folder(open_storage(str(tmp_path / name)))


def test_a_local_race_has_one_winner_and_leaves_no_temporaries(tmp_path: Path) -> None:
    """Eight threads, twenty names; the winner's bytes are whole."""
    storage = open_storage(str(tmp_path))

    def race(job: tuple[int, int]) -> bool:
        try:
            storage.create(f"race/{job[1]}", bytes([job[0]]) * 1000)
        except FileExistsError:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        wins = list(pool.map(race, [(w, key) for key in range(20) for w in range(8)]))
    assert sum(wins) == 20
    assert sorted(p.name for p in (tmp_path / "race").iterdir()) == sorted(map(str, range(20)))
    assert [p.name for p in tmp_path.iterdir()] == ["race"]
    for entry in storage.list("race"):
        assert len(set(storage.read(entry.path))) == 1


def test_files_move_by_link_inside_one_filesystem(tmp_path: Path) -> None:
    """A shard of many megabytes is not copied: the inode stays."""
    storage = open_storage(str(tmp_path))
    with scratch(storage) as folder:
        spool = folder / "x"
        spool.write_bytes(b"1")
        inode = spool.stat().st_ino
        storage.create_from("data/x", spool)
    assert (tmp_path / "data" / "x").stat().st_ino == inode


def test_files_are_copied_between_filesystems(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a link cannot be made the copy is as exclusive, and equal sizes are a success."""
    import errno
    import os

    link = os.link

    def across(source: Path, final: Path) -> None:
        if "data" not in source.parts:  # a filesystem of its own
            raise OSError(errno.EXDEV, "Invalid cross-device link")
        link(source, final)

    monkeypatch.setattr(os, "link", across)
    storage = open_storage(str(tmp_path / "store"))
    for _ in range(2):
        (tmp_path / "spool").write_bytes(b"shard")
        storage.create_from("data/1", tmp_path / "spool")
    storage.create("data/2", b"receipt")
    with pytest.raises(FileExistsError):
        storage.create("data/2", b"receipt")
    assert [e.path for e in storage.list("")] == ["data/1", "data/2"]
    assert len(list((tmp_path / "store" / "data").iterdir())) == 2


def test_the_probe_passes_where_creates_conflict(storage: Storage) -> None:
    """And it leaves nothing behind."""
    assert probe(storage)
    assert list(storage.list("")) == []


def test_the_probe_finds_a_store_that_overwrites(tmp_path: Path) -> None:
    """A storage whose second create wins is not safe for two writers."""

    class Overwriting(LocalStorage):
        def create(self, path: str, data: bytes) -> None:
            self.delete(path)
            LocalStorage.create(self, path, data)

    assert not probe(Overwriting(tmp_path))


def test_local_urls_and_paths_name_one_storage(tmp_path: Path) -> None:
    """``file://`` and a plain path are the same; options have no meaning there."""
    assert open_storage(f"file://{tmp_path}") == open_storage(str(tmp_path))
    assert open_storage(str(tmp_path)).local("a/b") == tmp_path / "a" / "b"
    with pytest.raises(JobError, match="no options"):
        open_storage(str(tmp_path), {"endpoint_url": "x"})


def test_an_unknown_scheme_is_the_jobs_fault() -> None:
    """The message names the URL and no password of it."""
    with pytest.raises(JobError, match="nosuch://host") as caught:
        open_storage("nosuch://me:pw@host/store")
    assert "pw" not in str(caught.value)


@given(st.from_regex(r"[a-z]{1,8}", fullmatch=True), st.text("abcXYZ019:%+-_=@", min_size=1))
def test_no_uri_shows_its_credentials(host: str, secret: str) -> None:
    """What stands before ``@`` never comes out; the rest stays."""
    shown = without_credentials(f"ftp://{secret}@{host}/a/b?sig={secret}")
    assert shown == f"ftp://{host}/a/b"


def test_a_missing_package_is_named_as_one_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fsspec knows which package reads a scheme; its modules have other names."""
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    with pytest.raises(JobError, match=r"gs://bucket needs a package .*gcsfs"):
        open_storage("gs://bucket/store")
