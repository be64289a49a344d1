"""Parquet: files of one row a sample, tokens as list columns, the token spec in the metadata.

    part-00000.parquet, part-00001.parquet, ...

A stream of shape ``[16, 16]`` is a list of 256 numbers in C order; one of varying shape has its
sizes in ``<stream>.shape``. Nothing is packed, and bfloat16 is widened to float32. The metadata of
the schema has ``tokenmill.spec``, ``tokenmill.fingerprint``, ``tokenmill.number`` and
``tokenmill.content_id``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from tokenmill.export.base import FILE_BYTES, Target, check_file_bytes, nothing
from tokenmill.export.samples import Samples
from tokenmill.export.tables import Tables, described, plain_batches


@dataclass(frozen=True, slots=True)
class ParquetExporter:
    """Writes Parquet files of about ``file_bytes`` before compression."""

    file_bytes: int = FILE_BYTES
    again: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_file_bytes(self.file_bytes)

    def write(self, samples: Samples, target: Target) -> int:
        """Write all samples and return how many.

        Raises:
            JobError: there are none.
        """
        schema = described(samples)
        name = "part-{:05d}.parquet".format
        with Tables(target, schema, name, self.file_bytes) as tables:
            for batch in plain_batches(samples, schema):
                tables.write(batch)
        if not tables.rows:
            raise nothing()
        return sum(tables.rows)


PLUGIN = ParquetExporter
