"""A storage in memory that has no local paths, counts what is read of it and may spoil it.

It stands for an object store where a test wants to see every request, and none to leave the
process.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tokenmill_infra.storage.storage import Entry


@dataclass(slots=True)
class RangeStorage:
    """Files by path; ``reads`` are the requests so far: path, first byte, the one after the last.

    ``spoil``, if given, makes the bytes that come back of a request out of those that are stored;
    ``delay_s`` is what each request takes.
    """

    files: dict[str, bytes]
    delay_s: float = 0.0
    spoil: Callable[[str, int, bytes], bytes] | None = None
    reads: list[tuple[str, int, int]] = field(default_factory=list)
    at_once: int = 0
    most_at_once: int = 0
    uri: str = "remote"
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @classmethod
    def of(cls, folder: Path, *, delay_s: float = 0.0) -> RangeStorage:
        """Return a storage with copies of all files below a folder."""
        paths = [path for path in folder.rglob("*") if path.is_file()]
        return cls({str(p.relative_to(folder)): p.read_bytes() for p in paths}, delay_s)

    def read(self, path: str, start: int = 0, stop: int | None = None) -> bytes:
        """Return a file's bytes, or a range of them.

        Raises:
            FileNotFoundError: there is no such file.
        """
        if path not in self.files:
            raise FileNotFoundError(path)
        data = self.files[path][start:stop]
        with self._lock:
            self.reads.append((path, start, start + len(data)))
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
        time.sleep(self.delay_s)
        with self._lock:
            self.at_once -= 1
        return data if self.spoil is None else self.spoil(path, start, data)

    def read_bytes(self, path: str = "") -> int:
        """Return how many bytes were read of the files whose path begins with ``path``."""
        return sum(stop - start for p, start, stop in self.reads if p.startswith(path))

    def local(self, path: str) -> Path | None:  # noqa: ARG002  (as storages have it)
        """Return None: nothing is local."""
        return None

    def list(self, prefix: str) -> Iterator[Entry]:
        """Yield the files below a folder, sorted by path."""
        found = sorted(p for p in self.files if p.startswith(f"{prefix}/".lstrip("/")))
        return (Entry(path, len(self.files[path])) for path in found)

    def size(self, path: str) -> int | None:
        """Return a file's size in bytes, None if there is no such file."""
        return len(self.files[path]) if path in self.files else None

    def exists(self, path: str) -> bool:
        """Whether a file of that name is there."""
        return path in self.files

    def create(self, path: str, data: bytes) -> None:
        """Create a file that must not exist yet.

        Raises:
            FileExistsError: it does.
        """
        with self._lock:
            if path in self.files:
                raise FileExistsError(path)
            self.files[path] = data

    def create_from(self, path: str, local: Path) -> None:
        """Create a file from a local one, which is deleted.

        Raises:
            FileExistsError: a file of that name and other bytes is there.
        """
        data = local.read_bytes()
        if self.files.get(path, data) != data:
            raise FileExistsError(path)
        self.files[path] = data
        local.unlink()

    def delete(self, path: str) -> None:
        """Delete a file; no error if it is gone."""
        self.files.pop(path, None)
