import os
import uuid
from pathlib import Path

import fsspec
import pytest

from tokenmill.sources.files import FilesSource
from tokenmill.sources.places import braces
from tokenmill.testing.sources import check_source
from tokenmill_schemas.asset import AssetRef
from tokenmill_schemas.errors import AssetError, JobError, Reason


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A folder of eight pictures and what must not be listed."""
    root = tmp_path / "tree"
    for name in ("a/b.jpg", "a/c/d.PNG", "a-b.jpg", "a.jpg", "b/e.webp", "é.jpg", "z.jpg"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(name.encode())
    for name in ("notes.txt", ".hidden.jpg", ".cache/x.jpg"):
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_bytes(b"no")
    (root / "link.jpg").symlink_to(root / "z.jpg")
    (root / "b" / "loop").symlink_to(root)
    return root


def test_a_folder_is_listed_in_bytewise_order(tree: Path) -> None:
    """Links to files count; hidden files, other suffixes and cycles do not."""
    keys = [ref.key for ref in check_source(FilesSource((str(tree),)))]
    expected = [
        "a/b.jpg",
        "a/c/d.PNG",
        "a-b.jpg",
        "a.jpg",
        "b/e.webp",
        "link.jpg",
        "z.jpg",
        "é.jpg",
    ]
    assert keys == sorted(expected, key=str.encode)


def test_globs_and_several_roots_have_keys_of_their_own(tree: Path) -> None:
    """The key starts at the last fixed folder; several urls put its name before it."""
    refs = check_source(FilesSource((f"{tree}/**/*.jpg",)))
    assert "a/b.jpg" in [r.key for r in refs]
    assert not any(r.key.endswith("webp") for r in refs)
    refs = check_source(FilesSource((f"{tree}/a", f"{tree}/b/*.webp", f"{tree}/a/c")))
    assert [r.key for r in refs] == ["a/b.jpg", "a/c/d.PNG", "b/e.webp", "c/d.PNG"]


def test_what_is_not_there_is_the_jobs_fault(tree: Path) -> None:
    """Neither a missing folder nor an empty glob passes for an empty corpus."""
    for url in (f"{tree}/nothing", f"{tree}/*.bmp"):
        with pytest.raises(JobError, match=r"source\.urls"):
            list(FilesSource((url,)).list())


def test_a_broken_link_is_listed_and_not_found(tree: Path) -> None:
    """Its neighbours are listed; it goes to quarantine."""
    (tree / "gone.jpg").symlink_to(tree / "nowhere")
    refs = check_source(FilesSource((str(tree),)), bad=frozenset({"gone.jpg"}))
    gone = next(ref for ref in refs if ref.key == "gone.jpg")
    with pytest.raises(AssetError) as caught:
        FilesSource((str(tree),)).open(gone)
    assert (gone.size_bytes, caught.value.reason) == (-1, Reason.NOT_FOUND)


def test_a_name_that_is_not_utf8_is_listed_and_opens(tmp_path: Path) -> None:
    """Its key and uri are text all the same."""
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.jpg")).write_bytes(b"1")
    assert [ref.key for ref in check_source(FilesSource((str(tmp_path),)))] == ["%FF.jpg"]


def test_a_file_that_changed_since_is_refused(tree: Path) -> None:
    """Its size is not the one that was listed."""
    source = FilesSource((str(tree),))
    ref = check_source(source)[0]
    Path(ref.uri).write_bytes(b"longer than it was before")
    with pytest.raises(AssetError) as caught:
        source.open(ref)
    assert (caught.value.reason, caught.value.stage) == (Reason.CHANGED, "fetch")


def test_a_pipe_or_a_folder_is_unreadable_and_never_waited_for(tmp_path: Path) -> None:
    """Opening a named pipe would block for ever."""
    os.mkfifo(tmp_path / "pipe.jpg")
    for uri in (tmp_path / "pipe.jpg", tmp_path):
        with pytest.raises(AssetError) as caught:
            FilesSource((str(tmp_path),)).open(AssetRef("k", str(uri)))
        assert caught.value.reason == Reason.UNREADABLE


def test_sha256_versions_ignore_times(tree: Path) -> None:
    """Touching a file changes its mtime version and not its content version."""
    source = FilesSource((str(tree),), version="sha256")
    before = check_source(source), check_source(FilesSource((str(tree),)))
    os.utime(tree / "a.jpg", (1, 1))
    assert check_source(source) == before[0]
    assert check_source(FilesSource((str(tree),))) != before[1]


def test_an_fsspec_url_lists_the_same_keys(tree: Path) -> None:
    """The in-memory filesystem gives what the disk gives."""
    root = f"memory://{uuid.uuid4().hex}"
    local = check_source(FilesSource((str(tree),)))
    for ref in local:
        fsspec.filesystem("memory").pipe(f"{root}/{ref.key}", Path(ref.uri).read_bytes())
    remote = check_source(FilesSource((root,)))
    assert [(r.key, r.size_bytes) for r in remote] == [(r.key, r.size_bytes) for r in local]
    fsspec.filesystem("memory").rm(remote[0].uri)
    with pytest.raises(AssetError) as caught:
        FilesSource((root,)).open(remote[0])
    assert caught.value.reason == Reason.NOT_FOUND


def test_braces_expand_with_their_zeros() -> None:
    """As in WebDataset's shard names."""
    assert list(braces("x-{008..010}.{a,b}")) == [
        f"x-{n}.{e}" for n in ("008", "009", "010") for e in "ab"
    ]
