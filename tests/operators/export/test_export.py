"""What holds for every format: what is shown, the same bytes again, refusals, object stores."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from tests.operators.export.conftest import Made

from tokenmill.export import export, formats, open_exporter
from tokenmill.store import Store
from tokenmill_infra.storage import open_storage
from tokenmill_schemas.errors import JobError, StoreError

#: Those that need no library of others.
OWN = ("delta", "huggingface", "parquet", "webdataset")
SMALL = {"delta": {}, **{name: {"file_bytes": 60_000} for name in OWN[1:]}}


def files(uri: str) -> dict[str, bytes]:
    """All files of a folder or URL, hidden ones too."""
    storage = open_storage(uri)
    if "://" in uri:
        return {entry.path: storage.read(entry.path) for entry in storage.list("")}
    found = (path for path in Path(uri).rglob("*") if path.is_file())
    return {str(path.relative_to(uri)): path.read_bytes() for path in found}


def test_the_formats_are_these() -> None:
    """A module is a format when it says PLUGIN."""
    assert formats() == sorted((*OWN, "litdata", "mds"))
    assert {name for name in formats() if open_exporter(name).again} == {"delta"}


@pytest.mark.parametrize("name", OWN)
def test_the_same_version_gives_the_same_bytes(made: Made, tmp_path: Path, name: str) -> None:
    """Also after the store has grown: the older version is what it was."""
    done = export(made.store.at(1), open_exporter(name, SMALL[name]), str(tmp_path / "one"))
    made.add(3)
    again = export(made.store.at(1), open_exporter(name, SMALL[name]), str(tmp_path / "two"))
    assert files(str(tmp_path / "one")) == files(str(tmp_path / "two"))
    assert (done.samples, done.files, done.bytes) == (again.samples, again.files, again.bytes)
    written = files(str(tmp_path / "one"))
    assert (done.files, done.bytes) == (len(written), sum(map(len, written.values())))


@pytest.mark.parametrize("name", OWN)
def test_a_takedown_and_a_filter_leave_samples_out(made: Made, tmp_path: Path, name: str) -> None:
    """No trace of a hidden sample is in any file, whichever version is exported."""
    made.add(1)
    made.take_down((0, 5), (2, 0))
    out = str(tmp_path / "out")
    done = export(made.store.at(1), name, out, where="sample_id like 's0/%' and safe is not null")
    assert done.samples == len([row for row in range(21) if row % 3 != 1 and row != 5])
    data = b"".join(files(out).values())
    assert b"s0/5.png" not in data
    assert b"s1/0.png" not in data


@pytest.mark.parametrize("name", [name for name in OWN if name != "delta"])
def test_a_place_that_is_taken_is_refused(made: Made, tmp_path: Path, name: str) -> None:
    """Also by an earlier export of the same; nothing there changes."""
    out = str(tmp_path / "out")
    export(made.store.at(), name, out)
    before = files(out)
    with pytest.raises(JobError, match=r"to: .* is not empty; choose a new folder"):
        export(made.store.at(), name, out)
    assert files(out) == before
    with pytest.raises(JobError, match="no sample to export"):
        export(made.store.at(), name, str(tmp_path / "none"), where="asset_key = 'nobody'")
    assert files(str(tmp_path / "none")) == {}


def test_slips_are_refused_before_anything_is_written(made: Made, tmp_path: Path) -> None:
    """Formats, options and filters."""
    out = str(tmp_path / "out")
    for name, options, message in (
        ("parket", {}, r"did you mean 'parquet'\?"),
        ("parquet", {"file_byte": 1}, r"did you mean 'file_bytes'\?"),
        ("parquet", {"file_bytes": 0}, "file_bytes must be positive"),
    ):
        with pytest.raises(JobError, match=message):
            open_exporter(name, options)
    for where, message in (
        ("capture = 'x'", r"did you mean 'caption'\?"),
        ("image = 1", "cannot be compared"),
    ):
        with pytest.raises(JobError, match=message):
            export(made.store.at(), "parquet", out, where=where)
    assert not Path(out).exists()


def test_a_version_without_shards_is_refused(tmp_path: Path) -> None:
    """There are no columns to write."""
    empty = Made(str(tmp_path / "store"))
    empty.add(2)
    hollow = empty.store.at()
    snapshot = hollow.snapshot.__class__(
        **{f: getattr(hollow.snapshot, f) for f in hollow.snapshot.__slots__} | {"segments": ()}
    )
    with pytest.raises(StoreError, match="has no samples"):
        export(hollow.__class__(hollow.store, snapshot), "parquet", str(tmp_path / "out"))


@pytest.mark.s3
@pytest.mark.parametrize("name", OWN)
def test_exports_go_to_object_stores(made: Made, tmp_path: Path, s3_root: str, name: str) -> None:
    """From an object store and to one: the same bytes as on a disk."""
    url = f"{s3_root}/{name}"
    local = export(made.store.at(), open_exporter(name, SMALL[name]), str(tmp_path / "out"))
    remote = export(made.store.at(), open_exporter(name, SMALL[name]), url)
    assert files(url) == files(str(tmp_path / "out"))
    assert (remote.samples, remote.files, remote.bytes) == (local.samples, local.files, local.bytes)
    assert remote.uri == url
    if name != "delta":
        with pytest.raises(JobError, match="not empty"):
            export(made.store.at(), name, url)
    else:
        made.add(2)
        assert export(made.store.at(), name, url).files == 4


@pytest.mark.s3
def test_a_store_on_an_object_store_is_exported(s3_root: str, tmp_path: Path) -> None:
    """Its shards are fetched one at a time."""
    made = Made(f"{s3_root}/store")
    made.add(9, 2)
    store = Store.open(f"{s3_root}/store")
    assert export(store.at(), "webdataset", str(tmp_path / "out")).samples == 11


def test_the_package_imports_no_library_of_a_format() -> None:
    """An exporter's module is imported when it is asked for, its library when it writes."""
    code = (
        "import sys, tokenmill.export.mds, tokenmill.export.litdata, tokenmill.export.delta\n"
        "heavy = {'torch', 'streaming', 'litdata', 'deltalake', 'datasets', 'webdataset'}\n"
        "sys.exit(str(heavy & set(sys.modules)) if heavy & set(sys.modules) else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
