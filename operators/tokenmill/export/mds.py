"""MosaicML Streaming (MDS), written by its own library, ``mosaicml-streaming``.

A sample has an array for each stream and ``json`` with all other columns. Arrays of fixed shape
are stored without a header (``ndarray:uint16:16,16``), others with one.
"""

from __future__ import annotations

import importlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from tokenmill.export.base import FILE_BYTES, Target, check_file_bytes, nothing, put_folder
from tokenmill.export.samples import Samples, plain_dtype, tokens_and_json
from tokenmill_schemas.errors import JobError
from tokenmill_schemas.tokens import Stream


@dataclass(frozen=True, slots=True)
class MdsExporter:
    """Writes MDS shards of at most ``file_bytes``."""

    file_bytes: int = FILE_BYTES
    again: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_file_bytes(self.file_bytes)

    def write(self, samples: Samples, target: Target) -> int:
        """Write all samples and return how many.

        Raises:
            JobError: the library is not installed, there are no samples, or one has no tokens.
        """
        try:
            streaming = importlib.import_module("streaming")
        except ImportError as error:
            text = f"mds needs the library mosaicml-streaming: {error}"
            raise JobError(text, path="format") from error
        with target.folder() as folder:
            rows = self._write(streaming, samples, folder / "mds")
            put_folder(target, folder / "mds", last="index.json")
        return rows

    def _write(self, streaming: Any, samples: Samples, folder: Path) -> int:
        columns = {s.name: _encoding(s) for s in samples.layout.spec.streams} | {"json": "json"}
        rows = 0
        with streaming.MDSWriter(
            out=str(folder), columns=columns, size_limit=self.file_bytes
        ) as out:
            for tokens, document in tokens_and_json(samples):
                empty = [name for name, array in tokens.items() if not array.size]
                if empty:
                    raise JobError(f"MDS stores no empty arrays: {empty[0]} of {document!r:.80}")
                out.write({**tokens, "json": json.loads(document)})
                rows += 1
        if not rows:
            raise nothing()
        return rows


PLUGIN = MdsExporter


def _encoding(stream: Stream) -> str:
    dtype = plain_dtype(stream)
    if not stream.is_fixed:
        return f"ndarray:{dtype}"
    return f"ndarray:{dtype}:{','.join(map(str, stream.shape))}"
