"""LitData, written by its own library, ``litdata``.

A sample is a dict with an array for each stream, and ``json``, the JSON text of all other columns.
"""

from __future__ import annotations

import importlib
import json
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, ClassVar

from tokenmill.export.base import FILE_BYTES, Target, check_file_bytes, nothing, put_folder
from tokenmill.export.samples import Samples, tokens_and_json
from tokenmill_schemas.errors import JobError


@dataclass(frozen=True, slots=True)
class LitDataExporter:
    """Writes chunks of at most ``file_bytes``."""

    file_bytes: int = FILE_BYTES
    again: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_file_bytes(self.file_bytes)

    def write(self, samples: Samples, target: Target) -> int:
        """Write all samples and return how many.

        Raises:
            JobError: the library is not installed, or there are no samples.
        """
        try:
            writers = importlib.import_module("litdata.streaming.writer")
        except ImportError as error:
            raise JobError(f"litdata needs the library litdata: {error}", path="format") from error
        with target.folder() as folder:
            writer = writers.BinaryWriter(str(folder / "litdata"), chunk_bytes=self.file_bytes)
            rows = _write(writer, samples)
            _date(folder / "litdata" / "index.json", samples.version.snapshot.created_at)
            put_folder(target, folder / "litdata", last="index.json")
        return rows


PLUGIN = LitDataExporter


def _write(writer: Any, samples: Samples) -> int:
    rows = 0
    for tokens, document in tokens_and_json(samples):
        writer[rows] = {**tokens, "json": document.decode()}
        rows += 1
    if not rows:
        raise nothing()
    writer.done()
    writer.merge()
    return rows


def _date(index: Path, created_at: str) -> None:
    """Put the version's time in place of the clock's: equal versions give equal bytes."""
    value = json.loads(index.read_text())
    value["updated_at"] = str(datetime.fromisoformat(created_at).timestamp())
    index.write_text(json.dumps(value, sort_keys=True))
