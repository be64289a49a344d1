"""Fashion-MNIST (Xiao, Rasul and Vollgraf, arXiv:1708.07747): IDX files to one Parquet listing."""

from __future__ import annotations

import gzip
import io
import shutil
import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from tokenmill_schemas.errors import JobError

CLASSES = ("T-shirt/top", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker",
           "bag", "ankle boot")  # fmt: skip
SPLITS = {"train": "train", "test": "t10k"}
ROWS_PER_GROUP = 5000

#: ``image`` holds PNG bytes.
SCHEMA = pa.schema(
    [
        pa.field("key", pa.string(), nullable=False),
        pa.field("image", pa.binary(), nullable=False),
        pa.field("label", pa.int32(), nullable=False),
        pa.field("caption", pa.string(), nullable=False),
        pa.field("split", pa.string(), nullable=False),
    ]
)


def arrange(unpacked: Path, out: Path) -> int:
    """Write ``listing.parquet`` with a PNG, label and class name per picture."""
    folder = unpacked / "usr/share/datasets/fashion-mnist"
    shutil.copy(unpacked / "usr/share/doc/dataset-fashion-mnist/copyright", out / "copyright")
    rows = 0
    with pq.ParquetWriter(out / "listing.parquet", SCHEMA) as writer:
        for batch in _batches(folder):
            writer.write_batch(batch)
            rows += batch.num_rows
    return rows


def _batches(folder: Path) -> Iterator[pa.RecordBatch]:
    for split, prefix in SPLITS.items():
        images = read_idx(folder / f"{prefix}-images-idx3-ubyte.gz")
        labels = read_idx(folder / f"{prefix}-labels-idx1-ubyte.gz")
        for start in range(0, len(images), ROWS_PER_GROUP):
            stop = min(start + ROWS_PER_GROUP, len(images))
            columns = {
                "key": [f"{split}/{number:05d}" for number in range(start, stop)],
                "image": [png(image) for image in images[start:stop]],
                "label": labels[start:stop].tolist(),
                "caption": [CLASSES[label] for label in labels[start:stop]],
                "split": [split] * (stop - start),
            }
            yield pa.RecordBatch.from_pydict(columns, schema=SCHEMA)


def read_idx(path: Path) -> npt.NDArray[np.uint8]:
    """Return the array of a gzipped IDX file of unsigned bytes.

    Raises:
        JobError: the file is not of that form.
    """
    data = gzip.decompress(path.read_bytes())
    zero, kind, dimensions = struct.unpack_from(">HBB", data)
    shape = struct.unpack_from(f">{dimensions}I", data, 4)
    start = 4 + 4 * dimensions
    if zero or kind != 0x08 or len(data) - start != int(np.prod(shape)):
        raise JobError(f"{path.name} is not an IDX file of unsigned bytes")
    return np.frombuffer(data, np.uint8, offset=start).reshape(shape)


def png(image: npt.NDArray[np.uint8]) -> bytes:
    """Return ``uint8[H, W]`` as the bytes of a grey PNG."""
    out = io.BytesIO()
    Image.fromarray(image).save(out, "PNG")
    return out.getvalue()
