"""A reader of Arrow shards made of pyarrow, numpy and the words of schemas/FORMAT.md alone."""

import json
import math
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest

from tokenmill.shards.arrow import ArrowFormat
from tokenmill.shards.columns import make_batch
from tokenmill.testing.shards import SPEC, sample_batch, sample_layout

Array = npt.NDArray[Any]

SPEC_NAMES = {stream.name for stream in SPEC.streams}


def _storage_type(stream: dict[str, Any]) -> str:
    if stream["kind"] == "bits":
        return "u1"
    if stream["kind"] == "float":
        return {"float16": "<f2", "bfloat16": "<u2", "float32": "<f4"}[stream["dtype"]]
    top = max(stream["vocab_sizes"]) - 1
    return next(f"<u{size}" for size in (1, 2, 4, 8) if top < 256**size)


def _width(stream: dict[str, Any], packing: str) -> int:
    """Return k, or 0 when the stream is not packed."""
    if stream["kind"] == "bits":
        return 1
    if stream["kind"] == "index" and packing == "bits":
        return max(1, int(max(stream["vocab_sizes"]) - 1).bit_length())
    return 0


def _unpack(row: bytes, k: int, count: int) -> list[int]:
    bits = int.from_bytes(row, "little")
    return [(bits >> (i * k)) & ((1 << k) - 1) for i in range(count)]


def _shape(stream: dict[str, Any], row: dict[str, Any]) -> tuple[int, ...]:
    sizes = [axis["size"] for axis in stream["axes"]]
    tail = {"index": [], "bits": [stream["width_bits"]], "float": [stream["channels"]]}
    if None in sizes:
        return tuple(row[f"{stream['name']}.shape"])
    return tuple(sizes + tail[stream["kind"]])


def read_shard(path: Path) -> list[dict[str, Any]]:
    """Return every row of a shard, its streams as arrays of their storage type."""
    reader = pa.ipc.open_file(path.read_bytes())
    metadata = reader.schema.metadata
    if int(metadata[b"tokenmill.format_version"]) != 1:
        raise ValueError("this reader knows version 1")
    packing = metadata[b"tokenmill.packing"].decode()
    streams = json.loads(metadata[b"tokenmill.spec"])["streams"]
    rows = [
        row for b in range(reader.num_record_batches) for row in reader.get_batch(b).to_pylist()
    ]
    for row in rows:
        for stream in streams:
            shape, k = _shape(stream, row), _width(stream, packing)
            values = row[stream["name"]]
            if k:
                values = _unpack(values, k, math.prod(shape))
            row[stream["name"]] = np.array(values, _storage_type(stream)).reshape(shape)
    return rows


def _tokens(rows: int) -> dict[str, list[Array]]:
    rng = np.random.default_rng(3)
    tokens: dict[str, list[Array]] = {}
    for stream in SPEC.streams:
        shapes = [tuple(n % 4 if s is None else s for s in stream.shape) for n in range(rows)]
        if stream.kind == "float":
            kind = "uint16" if stream.dtype == "bfloat16" else stream.dtype
            tokens[stream.name] = [rng.integers(0, 99, shape).astype(kind) for shape in shapes]
        else:
            tops = np.array(stream.vocab_sizes or (2,))
            tokens[stream.name] = [rng.integers(0, tops, shape) for shape in shapes]
    return tokens


@pytest.mark.parametrize("packing", ["raw", "bits"])
def test_the_format_page_is_enough_to_read_an_arrow_shard(packing: str, tmp_path: Path) -> None:
    """All kinds of streams, fixed and variable, raw and packed, and the companion columns."""
    layout = sample_layout("bits" if packing == "bits" else "raw")
    names = [f.name for f in layout.schema if f.name.partition(".")[0] not in SPEC_NAMES]
    extras = sample_batch(layout, 11).select(names)
    tokens = _tokens(11)
    writer = ArrowFormat().writer(tmp_path / "a.arrow", layout, batch_rows=4)
    writer.write(make_batch(layout, tokens, extras))
    writer.close()
    rows = read_shard(tmp_path / "a.arrow")
    assert [row["sample_id"] for row in rows] == extras.column("sample_id").to_pylist()
    assert [row["caption"] for row in rows] == extras.column("caption").to_pylist()
    for name, arrays in tokens.items():
        for row, array in zip(rows, arrays, strict=True):
            assert row[name].shape == array.shape
            assert np.array_equal(row[name], array)


def test_batches_have_one_size_no_compression_and_a_checksum(tmp_path: Path) -> None:
    """What the page promises about record batches."""
    layout = sample_layout("raw")
    writer = ArrowFormat().writer(tmp_path / "a.arrow", layout, batch_rows=4)
    writer.write(sample_batch(layout, 11))
    writer.close()
    data = pa.py_buffer((tmp_path / "a.arrow").read_bytes())
    reader = pa.ipc.open_file(data)
    found = [reader.get_batch_with_custom_metadata(i) for i in range(3)]
    assert [f.batch.num_rows for f in found] == [4, 4, 3]
    for batch, metadata in found:
        crc = 0
        for column in batch.columns:
            for buffer in column.buffers():
                crc = zlib.crc32(buffer or b"", crc)
        assert metadata[b"tokenmill.crc32"].decode() == f"{crc:08x}"
        # Uncompressed buffers are views of the file itself.
        first = batch.column("image").buffers()[-1]
        assert data.address <= first.address < data.address + data.size
