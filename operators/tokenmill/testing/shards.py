"""The contract of a shard format, as checks that any format can be run through.

    for check in CHECKS:
        check(MyFormat(), tmp_path)

A check raises `AssertionError`. They need no test framework, so that formats kept outside this
project can use them.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tokenmill.shards.base import ShardFormat, ShardReader
from tokenmill.shards.columns import decode_stream, make_batch
from tokenmill_schemas.arrow import IMAGE_VIEW_FIELDS, Packing, ShardLayout
from tokenmill_schemas.errors import CorruptShardError
from tokenmill_schemas.tokens import Axis, Stream, TokenSpec

Array = npt.NDArray[Any]
PACKINGS: tuple[Packing, ...] = ("raw", "bits")

#: Every kind of stream: grids, pyramids, product codes, several widths, bits, floats of all types,
#: variable shapes, and a fixed stream behind a variable one.
SPEC = TokenSpec(
    (
        Stream("image", "index", (Axis("h", 4), Axis("w", 3)), vocab_sizes=(1024,)),
        Stream("wide", "index", (Axis("n", 5),), vocab_sizes=(2**18,)),
        Stream("depth", "index", (Axis("n", 3), Axis("depth", 2)), vocab_sizes=(16, 300)),
        Stream("code", "bits", (Axis("h", 2), Axis("w", 2)), width_bits=18),
        Stream("latent", "float", (Axis("n", 2),), channels=4, dtype="float16"),
        Stream("brain", "float", (Axis("n", 2),), channels=3, dtype="bfloat16"),
        Stream("mesh", "index", (Axis("n"), Axis("coord", 3)), vocab_sizes=(128,)),
        Stream("voxel", "float", (Axis("n"),), channels=2, dtype="float32"),
        Stream("late", "index", (Axis("n", 7),), vocab_sizes=(2,)),
    )
)

#: Companion columns whose values are hard to carry: nulls, texts, NaN, nested and binary values.
EXTRAS = pa.schema(
    [
        *IMAGE_VIEW_FIELDS,
        pa.field("caption", pa.string()),
        pa.field("score", pa.float32()),
        pa.field("count", pa.int64()),
        pa.field("thumbnail", pa.binary()),
        pa.field("taken", pa.timestamp("us")),
        pa.field("tags", pa.list_(pa.string())),
        pa.field("safe", pa.bool_()),
    ]
)


def sample_layout(packing: Packing) -> ShardLayout:
    """Return a layout with every kind of stream and of companion column."""
    return ShardLayout(SPEC, packing, EXTRAS)


def sample_batch(layout: ShardLayout, rows: int, seed: int = 0) -> pa.RecordBatch:
    """Return ``rows`` rows of random values of ``layout``, which has `EXTRAS`."""
    rng = np.random.default_rng(seed)
    tokens = {stream.name: _random_tokens(stream, rows, rng) for stream in layout.spec.streams}
    return make_batch(layout, tokens, _random_extras(rows))


def check_round_trip(shard_format: ShardFormat, folder: Path) -> None:
    """What is written is read: layout, row count, every column's values and all streams."""
    for packing, rows in itertools.product(PACKINGS, (0, 1, 8, 21)):
        layout = sample_layout(packing)
        batch = sample_batch(layout, rows)
        reader = _written(shard_format, folder / f"{packing}{rows}", [batch], layout)
        _same(reader.layout, layout, "layout")
        _same(reader.rows, rows, "rows")
        read = list(reader.batches())
        _same([b.num_rows for b in read], [8] * (rows // 8) + [rows % 8] * (rows % 8 > 0), "sizes")
        table = pa.Table.from_batches(read, schema=layout.schema)
        _same(_comparable(table), _comparable(pa.Table.from_batches([batch])), "rows")
        reader.close()


def check_bytes_do_not_tell_chunks(shard_format: ShardFormat, folder: Path) -> None:
    """The same rows give the same bytes, however they were cut into batches on the way."""
    for packing in PACKINGS:
        layout = sample_layout(packing)
        whole = sample_batch(layout, 30)
        for index, cuts in enumerate(([30], [1] * 30, [7, 16, 7], [8, 8, 8, 6], [29, 1])):
            path = folder / f"{packing}.chunks{index}"
            _written(shard_format, path, _cut(whole, cuts), layout).close()
            first = (folder / f"{packing}.chunks0").read_bytes()
            _same(path.read_bytes() == first, True, f"bytes of chunks {cuts}")


def check_take(shard_format: ShardFormat, folder: Path) -> None:
    """`take` keeps the order of rows and allows repeats, for every stream of fixed shape."""
    wanted = np.array([20, 0, 3, 3, 8, 7, 20, 19, 16, 15], np.int64)
    for packing in PACKINGS:
        layout = sample_layout(packing)
        batch = sample_batch(layout, 21)
        reader = _written(shard_format, folder / f"{packing}.take", [batch], layout)
        for stream in layout.spec.streams:
            if stream.is_fixed:
                expected = np.asarray(decode_stream(batch, stream, packing))
                taken = reader.take(stream.name, wanted)
                _same(taken.dtype, np.dtype(stream.storage_dtype), stream.name)
                np.testing.assert_array_equal(taken, expected[wanted], stream.name)
                _same(taken.flags.writeable, True, "take owns its memory")
                nothing = reader.take(stream.name, wanted[:0])
                _same(nothing.shape, (0, *stream.shape), "empty take")
        _raises(IndexError, reader.take, "image", np.array([21]))
        _raises(IndexError, reader.take, "image", np.array([-1]))
        _raises(KeyError, reader.take, "no such", wanted)
        _raises(ValueError, reader.take, "mesh", wanted)


def check_columns(shard_format: ShardFormat, folder: Path) -> None:
    """`columns` gives any columns at any rows in their order, variable streams among them."""
    wanted = np.array([17, 2, 2, 0, 20, 9], np.int64)
    for packing in PACKINGS:
        layout = sample_layout(packing)
        batch = sample_batch(layout, 21)
        reader = _written(shard_format, folder / f"{packing}.columns", [batch], layout)
        names = ["caption", "mesh", "mesh.shape", "sample_id", "view.box", "taken"]
        found = reader.columns(names, wanted)
        expected = batch.select(names).take(pa.array(wanted))
        _same(found.to_pylist(), expected.to_pylist(), "columns")
        _same(reader.columns(["caption"], wanted[:0]).num_rows, 0, "rows of none")
        _raises(KeyError, reader.columns, ["no such"], wanted)
        _raises(IndexError, reader.columns, ["caption"], np.array([21]))


def check_cut_files_are_refused(shard_format: ShardFormat, folder: Path) -> None:
    """A file that is cut off anywhere, or is no shard at all, cannot be opened."""
    layout = sample_layout("raw")
    path = folder / "whole"
    _written(shard_format, path, [sample_batch(layout, 21)], layout).close()
    data = path.read_bytes()
    cuts = {*range(0, len(data), 997), *range(len(data) - 24, len(data)), 1, 8, 511, 512, 513}
    cuts |= set(range(0, len(data), 512))
    for cut in sorted(cuts):
        _refused(shard_format, folder / "cut", data[:cut])
    _refused(shard_format, folder / "foreign", b"\x89PNG\r\n\x1a\n" * 500)
    _refused(shard_format, folder / "zeros", bytes(10240))
    _refused(shard_format, folder / "longer", data + b"tail")


def check_wrong_rows_are_refused(shard_format: ShardFormat, folder: Path) -> None:
    """A writer refuses rows of other columns and leaves no file before it is closed."""
    layout = sample_layout("raw")
    path = folder / "unfinished"
    writer = shard_format.writer(path, layout, batch_rows=8)
    _raises(ValueError, writer.write, pa.record_batch({"other": [1]}))
    writer.write(sample_batch(layout, 20))
    _same(path.exists(), False, "file before close")
    writer.close()
    _same(shard_format.reader(path).rows, 20, "rows after close")


CHECKS: tuple[Callable[[ShardFormat, Path], None], ...] = (
    check_round_trip,
    check_bytes_do_not_tell_chunks,
    check_take,
    check_columns,
    check_cut_files_are_refused,
    check_wrong_rows_are_refused,
)


def _written(
    shard_format: ShardFormat, path: Path, batches: list[pa.RecordBatch], layout: ShardLayout
) -> ShardReader:
    writer = shard_format.writer(path, layout, batch_rows=8)
    for batch in batches:
        writer.write(batch)
    writer.close()
    return shard_format.reader(path)


def _random_tokens(stream: Stream, rows: int, rng: np.random.Generator) -> list[Array]:
    shapes = [
        tuple(int(rng.integers(0, 6)) if size is None else size for size in stream.shape)
        for _ in range(rows)
    ]
    if stream.kind == "float":
        kind = "float32" if stream.dtype == "bfloat16" else stream.dtype
        return [rng.standard_normal(shape).astype(kind) for shape in shapes]
    tops = stream.vocab_sizes if stream.kind == "index" else (2,)
    return [rng.integers(0, np.array(tops), shape, dtype=np.int64) for shape in shapes]


def _random_extras(rows: int) -> dict[str, list[Any]]:
    scores = (0.1, None, float("nan"), float("-inf"), -0.0)
    return {
        "sample_id": [f"käse/{i}#0" for i in range(rows)],
        "asset_key": [f"käse/{i}" for i in range(rows)],
        "view.index": [i % 3 for i in range(rows)],
        "view.name": ["centre"] * rows,
        "view.box": [[0.1 * i, 0.0, 1.0 / 3, 64.5] for i in range(rows)],
        "view.size": [[256, i] for i in range(rows)],
        "view.flip": [i % 3 == 0 for i in range(rows)],
        "caption": [
            (None, "", 'a "quoted"\nline', "\N{SNOWMAN} \u2028")[i % 4] for i in range(rows)
        ],
        "score": [scores[i % len(scores)] for i in range(rows)],
        "count": [(None, 2**63 - 1, -(2**63))[i % 3] for i in range(rows)],
        "thumbnail": [(b"\x00\xff" * i, None)[i % 2] for i in range(rows)],
        "taken": [(None, 1_700_000_000_000_000 + i)[i % 2] for i in range(rows)],
        "tags": [(None, [], ["a", None, "b"])[i % 3] for i in range(rows)],
        "safe": [(True, None, False)[i % 3] for i in range(rows)],
    }


def _cut(batch: pa.RecordBatch, sizes: list[int]) -> list[pa.RecordBatch]:
    ends = np.cumsum(sizes)
    return [batch.slice(end - size, size) for end, size in zip(ends, sizes, strict=True)]


def _comparable(table: pa.Table) -> str:
    """Values as text, so that NaN equals NaN and -0.0 differs from 0.0."""
    return repr(table.to_pylist())


def _refused(shard_format: ShardFormat, path: Path, data: bytes) -> None:
    path.write_bytes(data)
    _raises(CorruptShardError, shard_format.reader, path)


def _same(got: object, want: object, what: str) -> None:
    if got != want:
        raise AssertionError(f"{what}: expected {want!r}, got {got!r}")


def _raises(kind: type[Exception], call: Callable[..., object], *args: Any) -> None:
    try:
        call(*args)
    except kind:
        return
    raise AssertionError(f"{call} must refuse {args!r} with {kind.__name__}")
