"""Content hashes, and what they and the times of files say of bytes that were listed."""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tokenmill.sources.base import Source
from tokenmill.sources.files import FilesSource
from tokenmill.sources.hashing import PIECE_ASSETS, content_hash, content_hasher
from tokenmill.sources.parquet import ParquetSource
from tokenmill.sources.tars import TarsSource
from tokenmill_schemas.asset import DUPLICATE, AssetRef, refs_of
from tokenmill_schemas.errors import AssetError, Reason
from tokenmill_schemas.increment import CONTENT

Bytes = dict[str, bytes]


def files(root: Path, held: Bytes) -> Source:
    """A folder."""
    for name, data in held.items():
        (root / name).write_bytes(data)
    return FilesSource((str(root),))


def table(root: Path, held: Bytes) -> Source:
    """A table that holds them."""
    rows = pa.table({"key": list(held), "png": list(held.values())})
    pq.write_table(rows, root / "t.parquet")
    return ParquetSource((str(root / "t.parquet"),), key="key", bytes="png")


def tar(root: Path, held: Bytes) -> Source:
    """An archive of them."""
    with tarfile.open(root / "t.tar", "w") as archive:
        for name, data in held.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return TarsSource((str(root / "t.tar"),))


KINDS = pytest.mark.parametrize("write", [files, table, tar])
Write = Callable[[Path, Bytes], Source]


def listed(source: Source) -> dict[str, AssetRef]:
    """The refs of a source by the last part of their keys."""
    refs = (ref for batch in source.list() for ref in refs_of(batch))
    return {ref.key.rpartition("/")[2].removesuffix(".png"): ref for ref in refs}


def refused(source: Source, ref: AssetRef) -> bool:
    """Whether opening an asset says that it changed since it was listed."""
    # On a thread of its own: a thread that has a table open goes on reading the old one.
    with ThreadPoolExecutor(1) as pool:
        error = pool.submit(lambda: source.open(ref).close()).exception()
    if isinstance(error, AssetError) and error.reason is Reason.CHANGED:
        return True
    if error is not None:
        raise error
    return False


@KINDS
def test_bytes_that_changed_since_are_refused(write: Write, tmp_path: Path) -> None:
    """Of equal size too: by the file's time, or by their hash where that is known."""
    source = write(tmp_path, {"a.png": b"old a", "b.png": b"old b"})
    refs = listed(source)
    hashed = {
        name: replace(ref, version=f"{ref.version}{CONTENT}{content_hash(source, ref)}")
        for name, ref in refs.items()
    }
    assert not any(refused(source, ref) for ref in [*refs.values(), *hashed.values()])
    source = write(tmp_path, {"a.png": b"old a", "b.png": b"new b"})
    assert not any(refused(source, ref) for ref in listed(source).values())
    assert refused(source, refs["b"])
    assert refused(source, hashed["b"])
    assert not refused(source, hashed["a"]), "the same bytes in a file that was written again"


def test_a_version_that_is_no_files_time_refuses_nothing(tmp_path: Path) -> None:
    """A listing may call its versions as it likes."""
    source = files(tmp_path, {"a.png": b"12345"})
    ref = listed(source)["a"]
    for version in ("", "etag", "5-2024", "2024-11-22", "1234567890123456"):
        assert not refused(source, replace(ref, version=version))
    assert refused(source, replace(ref, version="5-1700000000000000000"))


@KINDS
def test_hashes_are_those_of_the_bytes_in_the_order_of_the_rows(
    write: Write, tmp_path: Path
) -> None:
    """On several threads, with more assets than one takes at a time."""
    held = {f"{i:04d}.png": b"%d" % i * 3 for i in range(2 * PIECE_ASSETS + 7)}
    source = write(tmp_path, held)
    told: list[int] = []
    with content_hasher(source, modalities={"image"}, threads=3, tell=told.append) as content:
        found = [sha256 for batch in source.list() for sha256 in content(batch)]
    assert found == [hashlib.sha256(data).hexdigest() for data in held.values()]
    assert told == [PIECE_ASSETS, PIECE_ASSETS, 7]


def test_only_what_will_be_read_is_hashed(tmp_path: Path) -> None:
    """Other modalities, repeated keys and what is not there have no hash."""
    source = files(tmp_path, {"a.png": b"a", "b.mp4": b"b", "c.png": b"c", "d.png": b"d"})
    (batch,) = source.list()
    locators = pa.array(["", "", DUPLICATE, ""])
    batch = batch.set_column(2, batch.schema.field(2), locators)
    (tmp_path / "d.png").unlink()
    told: list[int] = []
    with content_hasher(source, modalities={"image"}, threads=1, tell=told.append) as content:
        assert content(batch) == [hashlib.sha256(b"a").hexdigest(), "", "", ""]
