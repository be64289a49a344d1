"""What Megatron-Energon wants to know of a folder of tars, as ``energon prepare`` would write it.

    .nv-meta/.info.json      samples of every tar; .info.yaml the same, for older versions
    .nv-meta/split.yaml      which tars are train, val and test
    .nv-meta/dataset.yaml    what a sample is: a "crude" one, a dict that the user's cooker reads
    .nv-meta/index.sqlite    where every sample and member lies, for joins and access by key
    .nv-meta/index.uuid      tells this index from others

Written from the project's documentation and the meaning of its files
(github.com/NVIDIA/Megatron-Energon, ``flavors/webdataset``); JSON is YAML.
"""

from __future__ import annotations

import json
import sqlite3
import uuid
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tokenmill.export.indexes import Member
from tokenmill_schemas.canonical import digest

FOLDER = ".nv-meta"
SPLITS = ("train", "val", "test")

_TABLES = """
CREATE TABLE samples (
  tar_file_id INTEGER NOT NULL, sample_key TEXT NOT NULL UNIQUE, sample_index INTEGER NOT NULL,
  byte_offset INTEGER, byte_size INTEGER);
CREATE TABLE sample_parts (
  tar_file_id INTEGER, sample_index INTEGER, part_name TEXT,
  content_byte_offset INTEGER, content_byte_size INTEGER);
"""
_INDEXES = """
CREATE INDEX idx_samples_by_tar_and_idx ON samples (tar_file_id, sample_index);
CREATE INDEX idx_sample_parts_seq
  ON sample_parts (tar_file_id, sample_index, content_byte_offset);
CREATE INDEX idx_sample_parts_full ON sample_parts
  (tar_file_id, sample_index, part_name, content_byte_offset, content_byte_size);
"""


class EnergonIndex:
    """Collects what there is to know of the tars; rows go to an SQLite file in ``folder``."""

    def __init__(self, folder: Path, split: str) -> None:
        self._path = folder / "index.sqlite"
        self._split = split
        self._counts: dict[str, int] = {}
        self._database = sqlite3.connect(self._path, isolation_level=None)
        # The file is new and moved when it is whole: what would guard it only costs time.
        self._database.executescript("PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF; BEGIN;")
        for statement in _TABLES.split(";"):
            self._database.execute(statement)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._database.close()

    def add(self, tar: int, index: int, members: Sequence[Member]) -> None:
        """Add sample ``index`` of a tar; its members are adjacent."""
        last = members[-1]
        start = members[0].position
        stop = last.data + last.size + -last.size % 512
        row = (tar, members[0].key, index, start, stop - start)
        self._database.execute("INSERT INTO samples VALUES (?, ?, ?, ?, ?)", row)
        parts = ((tar, index, m.extension, m.data, m.size) for m in members)
        self._database.executemany("INSERT INTO sample_parts VALUES (?, ?, ?, ?, ?)", parts)

    def finish(self, name: str, samples: int) -> None:
        """Add a finished tar."""
        self._counts[name] = samples

    def documents(self, facts: Any) -> Iterator[tuple[str, bytes]]:
        """Yield path and bytes of all files but the index; its id follows from ``facts``."""
        info = {"energon_version": "tokenmill", "shard_counts": self._counts}
        index_id = uuid.UUID(digest([facts, self._counts])[:32])
        parts: dict[str, list[str]] = {name: [] for name in (*SPLITS, self._split)}
        parts[self._split] = list(self._counts)
        yield f"{FOLDER}/split.yaml", _document({"split_parts": parts, "exclude": []})
        kind = {"__module__": "megatron.energon", "__class__": "CrudeWebdataset"}
        yield f"{FOLDER}/dataset.yaml", _document(kind)
        yield f"{FOLDER}/index.uuid", str(index_id).encode()
        for name in (".info.yaml", ".info.json"):
            yield f"{FOLDER}/{name}", _document(info)

    def finished(self) -> tuple[str, Path]:
        """Return where the index goes, and its finished local file."""
        with closing(self._database):
            for statement in _INDEXES.split(";"):
                self._database.execute(statement)
            self._database.execute("COMMIT")
        return f"{FOLDER}/index.sqlite", self._path


def _document(value: Any) -> bytes:
    return json.dumps(value, indent=2).encode() + b"\n"
