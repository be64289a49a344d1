"""What an exporter is, and the place that it writes to."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Protocol

from tokenmill.export.samples import Samples
from tokenmill_infra.storage import scratch
from tokenmill_infra.storage.storage import Storage
from tokenmill_schemas.errors import JobError

#: Files are cut at this size, unless an export says otherwise.
FILE_BYTES = 256 * 2**20


@dataclass(frozen=True, slots=True)
class Exported:
    """What an export wrote: ``samples`` of version ``number`` in ``files`` of ``bytes`` in all."""

    format: str
    uri: str
    number: int
    samples: int
    files: int
    bytes: int


@dataclass(slots=True)
class Target:
    """The folder that an export writes to; counts what it is given."""

    storage: Storage
    files: int = 0
    written_bytes: int = 0

    def put(self, path: str, data: bytes) -> None:
        """Create a small file.

        Raises:
            JobError: there is one of that name.
        """
        with self.folder() as folder:
            local = folder / "file"
            local.write_bytes(data)
            self.put_file(path, local)

    def put_file(self, path: str, local: Path) -> None:
        """Create a file from a finished local one, which is gone afterwards.

        Raises:
            JobError: there is one of that name and another size.
        """
        size = local.stat().st_size
        try:
            self.storage.create_from(path, local)
        except FileExistsError as error:
            text = f"{path} is in {self.storage.uri} already: is another export at work there?"
            raise JobError(text, path="to") from error
        self.files += 1
        self.written_bytes += size

    @contextmanager
    def folder(self) -> Iterator[Path]:
        """Give an empty local folder for files on their way, removed at the end."""
        with scratch(self.storage) as folder:
            yield folder


class Exporter(Protocol):
    """A format of exports; a module of this package whose ``PLUGIN`` names the class.

    ``again`` says whether it can write where an earlier export lies.
    """

    again: ClassVar[bool]

    def write(self, samples: Samples, target: Target) -> int:
        """Write all samples and return how many.

        Raises:
            JobError: they have no form in this format, or there are none.
        """
        ...


def check_file_bytes(file_bytes: int) -> None:
    """Check the size that files are cut at.

    Raises:
        ValueError: it is no size.
    """
    if file_bytes < 1:
        raise ValueError(f"file_bytes must be positive, got {file_bytes}")


def nothing() -> JobError:
    """Return the error for an export without samples."""
    return JobError("there is no sample to export: all are hidden or filtered out", path="where")


def put_folder(target: Target, folder: Path, *, last: str) -> None:
    """Move the files of a flat folder to the target, the one named ``last`` at the end."""
    for path in sorted(folder.iterdir(), key=lambda path: (path.name == last, path.name)):
        target.put_file(path.name, path)
