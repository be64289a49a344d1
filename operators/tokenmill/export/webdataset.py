"""WebDataset tars, with the indexes of Megatron-Energon and NVIDIA DALI beside them.

    shard-000000.tar            <key>.<stream>.npy for each stream, <key>.json with all else
    shard-000000.tar.idx        for Energon: where each sample begins
    shard-000000.idx            for DALI: where each member's data begins (``index_paths``)
    .nv-meta/                   for Energon: counts, split, dataset type, index of all samples
    tokenmill.json              the token spec and the version that this is an export of

Keys are the number of the sample in the export, unique over all tars. Tokens are unpacked; bfloat16
is widened to float32. Nothing is pickled. The layouts of the indexes are described in
`tokenmill.export.indexes`.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy.typing as npt

from tokenmill.export.base import FILE_BYTES, Target, check_file_bytes, nothing
from tokenmill.export.energon import EnergonIndex
from tokenmill.export.indexes import Member, dali_index, energon_index
from tokenmill.export.samples import Samples, tokens_and_json
from tokenmill.shards.members import check_stream_names
from tokenmill.shards.ustar import END, header, npy_header
from tokenmill_schemas.canonical import canonical_json
from tokenmill_schemas.errors import JobError

Files = list[tuple[str, bytes]]


@dataclass(frozen=True, slots=True)
class WebDatasetExporter:
    """Writes tars of at most ``file_bytes``, or of one sample; Energon sees them as ``split``."""

    split: str = "train"
    file_bytes: int = FILE_BYTES
    again: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_file_bytes(self.file_bytes)

    def write(self, samples: Samples, target: Target) -> int:
        """Write all samples and return how many.

        Raises:
            JobError: there are none, or a column or stream has no form in a tar.
        """
        _check(samples, self.split)
        with target.folder() as folder, EnergonIndex(folder, self.split) as index:
            tars = _Tars(target, index, self.file_bytes)
            with tars.stack:
                for tokens, document in tokens_and_json(samples):
                    tars.add(_files(tokens, document))
                tars.finish()
            if not tars.count:
                raise nothing()
            target.put("tokenmill.json", canonical_json(samples.facts) + b"\n")
            target.put_file(*index.finished())
            for path, data in index.documents(samples.facts):
                target.put(path, data)
        return tars.count


PLUGIN = WebDatasetExporter


def _check(samples: Samples, split: str) -> None:
    if not split.isidentifier():
        raise JobError(f"{split!r} is no name of a split", path="format.split")
    try:
        check_stream_names(samples.layout)
    except ValueError as error:
        raise JobError(str(error), path="format") from error


def _files(tokens: Mapping[str, npt.NDArray[Any]], document: bytes) -> Files:
    """Return the members of a sample: suffix and data."""
    members = [
        (f"{name}.npy", npy_header(array.dtype.str, array.shape) + array.tobytes())
        for name, array in tokens.items()
    ]
    return [*members, ("json", document)]


class _Tars:
    """The tar on its way, and the count of all samples."""

    def __init__(self, target: Target, index: EnergonIndex, file_bytes: int) -> None:
        self.stack = ExitStack()
        self.count = 0
        self._target, self._index, self._file_bytes = target, index, file_bytes
        self._tars = 0
        self._tar: _Tar | None = None

    def add(self, files: Files) -> None:
        """Append a sample, to another tar if this one is full."""
        blocks = [(f"{self.count:09d}.{suffix}", data) for suffix, data in files]
        size = sum(512 + len(data) + -len(data) % 512 for _, data in blocks)
        if self._tar and self._tar.position + size + len(END) > self._file_bytes:
            self.finish()
        if self._tar is None:
            self._tar = _Tar(self.stack.enter_context(self._target.folder()))
        members = self._tar.add(blocks)
        self._index.add(self._tars, len(self._tar.samples) - 1, members)
        self.count += 1

    def finish(self) -> None:
        """Publish the tar and its indexes, if there is one."""
        if self._tar is None:
            return
        name = f"shard-{self._tars:06d}"
        local, samples = self._tar.finish(), self._tar.samples
        self._target.put_file(f"{name}.tar", local)
        self._target.put(f"{name}.tar.idx", energon_index(samples, self._tar.position))
        self._target.put(f"{name}.idx", dali_index(samples))
        self._index.finish(f"{name}.tar", len(samples))
        self._tars += 1
        self._tar = None
        self.stack.close()


class _Tar:
    """One tar in a local folder; ``samples`` has the members of each sample."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "shard.tar"
        self._file = self._path.open("wb")
        self.position = 0
        self.samples: list[list[Member]] = []

    def add(self, files: Files) -> list[Member]:
        """Append a sample and return its members."""
        members: list[Member] = []
        for name, data in files:
            members.append(Member(name, self.position, len(data)))
            self._file.write(header(name, len(data)) + data + bytes(-len(data) % 512))
            self.position = self._file.tell()
        self.samples.append(members)
        return members

    def finish(self) -> Path:
        """End the archive and return its path."""
        self._file.write(END)
        self._file.close()
        return self._path
