"""Write: rows to a verified shard in the store, and the receipt that makes it count."""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from tokenmill.shards import read_format
from tokenmill.shards.columns import stored_shapes
from tokenmill.store import Store, paths
from tokenmill_infra.storage import scratch
from tokenmill_schemas.arrow import ShardLayout
from tokenmill_schemas.errors import CorruptShardError
from tokenmill_schemas.job import ShardsConfig
from tokenmill_schemas.shapes import encode_shapes


@dataclass(frozen=True, slots=True)
class Written:
    """A shard that lies in the store, or nothing (``path`` "") when there were no rows.

    ``shapes`` are those of its samples, as a `tokenmill_schemas.snapshot.Receipt` has them.
    """

    path: str = ""
    sha256: str = ""
    bytes: int = 0
    shapes: str = ""


def write_shard(
    store: Store, rows: pa.RecordBatch, layout: ShardLayout, *, unit_id: str, config: ShardsConfig
) -> Written:
    """Spool ``rows`` as a shard, read it back, and move it into the store.

    Raises:
        CorruptShardError: what was read back is not what was written.
    """
    if rows.num_rows == 0:
        return Written()
    shard_format = read_format(config.format)
    with scratch(store.storage) as folder:
        file = folder / f"{unit_id}.{shard_format.suffix}"
        writer = shard_format.writer(file, layout, batch_rows=config.batch_rows)
        writer.write(rows)
        writer.close()
        _check(file, rows.num_rows, layout, config)
        with file.open("rb") as stream:
            sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
        size = file.stat().st_size
        path = paths.shard_file(unit_id, sha256, shard_format.suffix)
        store.storage.create_from(path, file)
    shapes = encode_shapes(layout.spec, stored_shapes(layout.spec, rows))
    return Written(path, sha256, size, base64.b64encode(shapes).decode())


def _check(file: Path, rows: int, layout: ShardLayout, config: ShardsConfig) -> None:
    reader = read_format(config.format).reader(file)
    try:
        if reader.rows != rows or reader.layout.spec != layout.spec:
            raise CorruptShardError(f"wrote {rows} rows and read back {reader.rows}", uri=str(file))
    finally:
        reader.close()
