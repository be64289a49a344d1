import io
import subprocess
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from tokenmill.shards.jsonrow import check_json_types, from_json, to_json
from tokenmill.shards.ustar import global_comment, header, npy_header, read_global_comment
from tokenmill.shards.webdataset import WebDatasetShardReader, WebDatasetShardWriter
from tokenmill.testing.shards import sample_batch, sample_layout
from tokenmill_schemas.arrow import ShardLayout
from tokenmill_schemas.errors import CorruptShardError
from tokenmill_schemas.tokens import Axis, Stream, TokenSpec


def _write(path: Path, rows: int = 21) -> pa.RecordBatch:
    layout = sample_layout("raw")
    batch = sample_batch(layout, rows)
    writer = WebDatasetShardWriter(path, layout, batch_rows=8)
    writer.write(batch)
    writer.close()
    return batch


def test_tarfile_and_tar_list_the_members_without_complaint(tmp_path: Path) -> None:
    """The archive is what standard tools expect: no warning, nobody's name, no time."""
    _write(tmp_path / "a.tar", rows=3)
    with tarfile.open(tmp_path / "a.tar") as tar:
        members = tar.getmembers()
        assert tar.pax_headers["comment"].startswith("tokenmill {")
    names = [*(f"{s.name}.npy" for s in sample_layout("raw").spec.streams), "json"]
    assert [m.name for m in members] == [f"{r:09d}.{n}" for r in range(3) for n in names]
    assert {(m.mtime, m.uid, m.gid, m.uname, m.mode) for m in members} == {(0, 0, 0, "", 0o644)}
    done = subprocess.run(["tar", "-tf", str(tmp_path / "a.tar")], capture_output=True, check=True)
    assert done.stdout.decode().split() == [m.name for m in members]
    assert done.stderr == b""


def test_headers_equal_those_of_the_standard_library() -> None:
    """Our ustar header is tarfile's for the same facts."""
    info = tarfile.TarInfo("000000007.image.npy")
    info.size = 640
    assert header(info.name, 640) == info.tobuf(tarfile.USTAR_FORMAT)
    with pytest.raises(ValueError, match="does not fit a ustar header"):
        header("x" * 101, 1)


@pytest.mark.parametrize("size", [1, 80, 87, 88, 89, 985, 986, 987, 5000])
def test_a_comment_of_any_length_is_read_back(size: int) -> None:
    """The record's length counts its own digits, also where their number changes."""
    block = global_comment("x" * size)
    length = int(block[124:135], 8)
    assert read_global_comment(block[512 : 512 + length]) == "x" * size
    with pytest.raises(ValueError, match="expected a pax comment"):
        read_global_comment(block[512 : 511 + length])


@pytest.mark.parametrize(
    ("dtype", "shape"), [("u1", (5,)), ("<u2", (16, 16)), ("<f4", ()), ("<f2", (0, 3))]
)
def test_npy_headers_are_read_by_numpy(dtype: str, shape: tuple[int, ...]) -> None:
    """The header is a multiple of 64 bytes and says type and shape."""
    array = np.ones(shape, dtype)
    data = npy_header(dtype, shape) + array.tobytes()
    assert len(npy_header(dtype, shape)) % 64 == 0
    assert np.array_equal(np.load(io.BytesIO(data), allow_pickle=False), array)


def test_verify_and_open_find_what_was_changed(tmp_path: Path) -> None:
    """A flipped header byte, another array type and an id out of range are all named."""
    path = tmp_path / "a.tar"
    _write(path)
    data = path.read_bytes()
    start = data.index(b"000000004.image.npy")
    for where, message in (
        (start + 101, "wrong checksum"),
        (start, r"expected member b'000000004\.image\.npy'"),
        (start + 512 + 24, r"sample 4: image\.npy is not"),
        (start + 512 + 129, r"values must be in \[0, 1024\)"),
    ):
        changed = bytearray(data)
        changed[where] ^= 0x10
        path.write_bytes(changed)
        with pytest.raises(CorruptShardError, match=message):
            WebDatasetShardReader(path).verify()


def test_values_that_json_cannot_tell_are_refused_before_writing(tmp_path: Path) -> None:
    """A map column and an odd stream name fail when the shard is started, and leave no file."""
    spec = TokenSpec((Stream("image", "index", (Axis("n", 1),), vocab_sizes=(2,)),))
    layout = ShardLayout(spec, "raw", pa.schema([("m", pa.map_(pa.string(), pa.int8()))]))
    with pytest.raises(ValueError, match=r"column 'm': .* has no JSON form"):
        WebDatasetShardWriter(tmp_path / "a.tar", layout, batch_rows=1)
    odd = TokenSpec((Stream("Image.v2", "index", (Axis("n", 1),), vocab_sizes=(2,)),))
    with pytest.raises(ValueError, match=r"streams \['Image\.v2'\]"):
        WebDatasetShardWriter(tmp_path / "a.tar", ShardLayout(odd), batch_rows=1)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "array",
    [
        pa.array([1, None, -5], pa.date32()),
        pa.array([1, None], pa.timestamp("ns", "UTC")),
        pa.array([1, None], pa.duration("s")),
        pa.array([3, 4], pa.time32("ms")),
        pa.array(["1.50", None], pa.string()).cast(pa.decimal128(9, 2)),
        pa.array([{"x": 1.5, "y": [b"\xff", None]}, None]),
        pa.array([[1.0, None], [2.0, 3.0]], pa.list_(pa.float32(), 2)),
        pa.array([0.1, float("inf"), None], pa.float32()),
        pa.array([2**64 - 1], pa.uint64()),
    ],
    ids=lambda array: str(array.type),
)
def test_every_type_survives_json(array: pa.Array) -> None:
    """Value for value, nulls among them."""
    check_json_types(pa.schema([("column", array.type)]))
    assert from_json(to_json(array), array.type) == array
