"""Storage: a folder of immutable files, local or on any fsspec URL."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Entry:
    """One file below a storage's root; ``modified`` is by the storage's clock, epoch seconds."""

    path: str
    size_bytes: int
    modified: float = 0.0


class Storage(Protocol):
    """What stores need of a disk or an object store. Paths are relative to the root."""

    @property
    def uri(self) -> str:
        """The root, without credentials."""
        ...

    def read(self, path: str, start: int = 0, stop: int | None = None) -> bytes:
        """Return a file's bytes, or the half-open range ``[start, stop)`` of them.

        Raises:
            FileNotFoundError: there is no such file.
            TransientError: the storage failed after its retries.
        """
        ...

    def create(self, path: str, data: bytes) -> None:
        """Create a file that must not exist yet, all of it or nothing, durably.

        Raises:
            FileExistsError: somebody else's file of that name is there.
        """
        ...

    def create_from(self, path: str, local: Path) -> None:
        """Create a file from a local one, which is moved or deleted; equal bytes may be there.

        Raises:
            FileExistsError: a file of that name and another size is there.
        """
        ...

    def list(self, prefix: str) -> Iterator[Entry]:
        """Yield the files below a folder, sorted by path; none if there is no such folder."""
        ...

    def size(self, path: str) -> int | None:
        """Return a file's size in bytes, None if there is no such file."""
        ...

    def exists(self, path: str) -> bool:
        """Whether a file of that name is there."""
        ...

    def delete(self, path: str) -> None:
        """Delete a file; no error if it is gone."""
        ...

    def local(self, path: str) -> Path | None:
        """Return the local path of a file for memory mapping, or None on an object store."""
        ...
