from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from tokenmill.shards import open_shard, read_format
from tokenmill.shards.arrow import ArrowShardReader, ArrowShardWriter, footer_blocks
from tokenmill.shards.columns import make_batch
from tokenmill.shards.gather import ByteRows
from tokenmill.testing.shards import sample_batch, sample_layout
from tokenmill_schemas.arrow import ShardLayout
from tokenmill_schemas.errors import CorruptShardError, JobError, StoreError
from tokenmill_schemas.tokens import Axis, Stream, TokenSpec


def _write(path: Path, rows: int = 21, batch_rows: int = 8) -> pa.RecordBatch:
    layout = sample_layout("raw")
    batch = sample_batch(layout, rows)
    writer = ArrowShardWriter(path, layout, batch_rows=batch_rows)
    writer.write(batch)
    writer.close()
    return batch


def test_every_flipped_byte_of_the_tokens_is_found_by_verify(tmp_path: Path) -> None:
    """The CRC of each record batch covers its buffers; the error names the batch."""
    path = tmp_path / "a.arrow"
    _write(path)
    reader = ArrowShardReader(path)
    reader.verify()
    where = int(reader.offsets("late", np.array([17]))[0])
    data = bytearray(path.read_bytes())
    data[where] ^= 1
    path.write_bytes(data)
    with pytest.raises(CorruptShardError, match=r"a\.arrow: record batch 2: expected crc32"):
        ArrowShardReader(path).verify()


def test_offsets_point_at_the_stored_bytes(tmp_path: Path) -> None:
    """A row's bytes can be read with nothing but its offset and size."""
    path = tmp_path / "a.arrow"
    _write(path)
    reader = ArrowShardReader(path)
    data = path.read_bytes()
    for stream in ("image", "late"):  # "late" stands behind streams of variable shape
        rows = np.arange(21)
        size = reader.row_bytes(stream)
        tokens = reader.take(stream, rows)
        found = [data[o : o + size] for o in reader.offsets(stream, rows).tolist()]
        assert found == [row.tobytes() for row in tokens]


def test_bytes_in_memory_read_like_a_file(tmp_path: Path) -> None:
    """A shard fetched from an object store needs no local file."""
    path = tmp_path / "a.arrow"
    batch = _write(path)
    reader = ArrowShardReader(pa.py_buffer(path.read_bytes()))
    assert reader.columns(["sample_id"], np.arange(21)).column(0) == batch.column("sample_id")
    assert reader.batch_rows == 8


def test_gather_fills_a_slice_of_a_larger_batch(tmp_path: Path) -> None:
    """Rows of several shards meet in one preallocated array."""
    _write(tmp_path / "a.arrow")
    reader = ArrowShardReader(tmp_path / "a.arrow")
    out = np.full((5, 4, 3), 7, np.uint16)
    reader.gather("image", np.array([20, 1]), out[1:3])
    assert np.array_equal(out[1:3], reader.take("image", np.array([20, 1])))
    assert (out[[0, 3, 4]] == 7).all()


def test_the_view_never_reaches_beyond_the_file() -> None:
    """The last row that the overlapping view offers ends with the last byte."""
    data = np.arange(100, dtype=np.uint8)
    rows = ByteRows(data, np.array([4, 52]), 16, 16)
    assert rows.take(np.array([84, 4]), np.dtype(np.uint8))[0].tolist() == list(range(84, 100))
    with pytest.raises(IndexError):
        rows.take(np.array([100]), np.dtype(np.uint8))


def test_a_given_up_shard_leaves_nothing(tmp_path: Path) -> None:
    """Neither the file nor its unfinished bytes stay behind."""
    layout = sample_layout("raw")
    writer = ArrowShardWriter(tmp_path / "a.arrow", layout, batch_rows=4)
    writer.write(sample_batch(layout, 9))
    writer.discard()
    assert list(tmp_path.iterdir()) == []


def test_bytes_under_nulls_and_neighbouring_bits_do_not_show(tmp_path: Path) -> None:
    """Rows that are equal as values give equal files, whatever lay in the unused memory."""
    spec = TokenSpec((Stream("image", "index", (Axis("n", 1),), vocab_sizes=(2,)),))
    extras = pa.schema([pa.field("score", pa.int32()), pa.field("safe", pa.bool_())])
    layout = ShardLayout(spec, "raw", extras)
    for name, junk, flag in (("a", 1, True), ("b", 2, False)):
        validity = pa.array([True, False, True]).buffers()[1]
        values = pa.py_buffer(np.array([5, junk, 6], np.int32))
        columns = {
            "sample_id": list("xyz"),
            "asset_key": list("xyz"),
            "score": pa.Array.from_buffers(pa.int32(), 3, [validity, values]),
            "safe": pa.array([True, False, True, *[flag] * 900]).slice(0, 3),
        }
        writer = ArrowShardWriter(tmp_path / f"{name}.arrow", layout, batch_rows=3)
        writer.write(make_batch(layout, {"image": np.ones((3, 1), int)}, columns))
        writer.close()
    assert (tmp_path / "a.arrow").read_bytes() == (tmp_path / "b.arrow").read_bytes()


def test_the_footer_is_read_as_pyarrow_reads_it(tmp_path: Path) -> None:
    """Block positions lead to the messages themselves."""
    _write(tmp_path / "a.arrow")
    data = np.fromfile(tmp_path / "a.arrow", np.uint8)
    blocks = footer_blocks(data)
    assert len(blocks) == 3
    for block in blocks:
        message = pa.ipc.read_message(data[block["offset"] :].tobytes())
        assert message.type == "record batch"
        assert message.body.size == block["body"]


def test_a_plain_arrow_file_is_not_a_shard(tmp_path: Path) -> None:
    """Only files that carry a layout are read; the error says so."""
    path = tmp_path / "a.arrow"
    with pa.ipc.new_file(str(path), pa.schema([("a", pa.int32())])) as writer:
        writer.write_batch(pa.record_batch({"a": pa.array([1], pa.int32())}))
    with pytest.raises(CorruptShardError, match="expected a tokenmill layout"):
        ArrowShardReader(path)


def test_the_suffix_says_which_format_to_open(tmp_path: Path) -> None:
    """`open_shard` needs no more than the path."""
    _write(tmp_path / "a.arrow")
    assert open_shard(tmp_path / "a.arrow").rows == 21
    with pytest.raises(StoreError, match=r"no shard format ends in '\.npz'"):
        open_shard(tmp_path / "a.npz")


def test_dictionary_columns_and_empty_batches_are_refused(tmp_path: Path) -> None:
    """What would make bytes depend on history cannot be written."""
    coded = pa.schema([pa.field("label", pa.dictionary(pa.int8(), pa.string()))])
    layout = ShardLayout(sample_layout("raw").spec, "raw", coded)
    with pytest.raises(ValueError, match=r"\['label'\] are dictionary-encoded"):
        ArrowShardWriter(tmp_path / "a.arrow", layout, batch_rows=4)
    with pytest.raises(ValueError, match="batch_rows must be positive"):
        ArrowShardWriter(tmp_path / "a.arrow", sample_layout("raw"), batch_rows=0)
    with pytest.raises(JobError, match="unknown kind"):
        read_format("parquet")
    assert list(tmp_path.iterdir()) == []
