"""Storage on a local or mounted filesystem.

A file appears under its name by ``os.link`` from a finished temporary file: linking is atomic and
fails when the name is taken, also over NFS, where ``O_EXCL`` with later writes would show halves.
Temporary files lie in a hidden folder, locked while their process lives, so that what a killed one
left is swept; `LocalStorage.list` skips all names with a leading dot.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tokenmill_infra.storage.locked import locked_folder, sweep
from tokenmill_infra.storage.paths import checked
from tokenmill_infra.storage.storage import Entry

#: The folder of temporary files.
SCRATCH = ".scratch"
#: What ``link`` says between filesystems, and on those that have no hard links.
NO_LINK = {errno.EXDEV, errno.EPERM, errno.ENOTSUP, errno.EMLINK}


@dataclass(frozen=True, slots=True)
class LocalStorage:
    """A folder; it and its subfolders are made when the first file is created in them."""

    root: Path

    @property
    def uri(self) -> str:
        """The folder's absolute path."""
        return str(self.root)

    def read(self, path: str, start: int = 0, stop: int | None = None) -> bytes:
        """Return a file's bytes, or the half-open range ``[start, stop)`` of them.

        Raises:
            FileNotFoundError: there is no such file.
        """
        with (self.root / checked(path)).open("rb") as file:
            file.seek(start)
            return file.read() if stop is None else file.read(max(0, stop - start))

    def create(self, path: str, data: bytes) -> None:
        """Create a file that must not exist yet, all of it or nothing, durably.

        Raises:
            FileExistsError: a file of that name is there.
        """
        final = self.root / checked(path)
        make_folder(final.parent)
        with locked_folder(self.root / SCRATCH) as folder:
            temporary = folder / "new"
            with temporary.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            _place(temporary, final)
        _sync_folder(final.parent)

    def create_from(self, path: str, local: Path) -> None:
        """Create a file by linking a local one, which is gone afterwards.

        A file of that name and size is taken for an earlier, unacknowledged try of ours.

        Raises:
            FileExistsError: a file of that name and another size is there.
        """
        final = self.root / checked(path)
        make_folder(final.parent)
        try:
            _sync_file(local)
            _place(local, final)
        except FileExistsError:
            if final.stat().st_size != local.stat().st_size:
                raise
        local.unlink()
        _sync_folder(final.parent)

    def list(self, prefix: str) -> Iterator[Entry]:
        """Yield the files below a folder, sorted by path; none if there is no such folder."""
        folder = prefix.strip("/")
        yield from _walk(self.root / folder, f"{folder}/" if folder else "")

    def size(self, path: str) -> int | None:
        """Return a file's size in bytes, None if there is no such file."""
        try:
            found = (self.root / checked(path)).stat()
        except (FileNotFoundError, NotADirectoryError):
            return None
        return found.st_size if stat.S_ISREG(found.st_mode) else None

    def exists(self, path: str) -> bool:
        """Whether a file of that name is there."""
        return (self.root / checked(path)).is_file()

    def delete(self, path: str) -> None:
        """Delete a file; no error if it is gone."""
        (self.root / checked(path)).unlink(missing_ok=True)

    def local(self, path: str) -> Path | None:
        """Return the file's path."""
        return self.root / checked(path)


def _walk(folder: Path, prefix: str) -> Iterator[Entry]:
    try:
        with os.scandir(folder) as found:
            entries = [entry for entry in found if not entry.name.startswith(".")]
    except (FileNotFoundError, NotADirectoryError):
        return
    # A folder sorts as "name/", so that the whole listing is in the order of its full paths.
    for entry in sorted(entries, key=lambda e: f"{e.name}/" if e.is_dir() else e.name):
        if entry.is_dir():
            yield from _walk(Path(entry.path), f"{prefix}{entry.name}/")
        elif (stat := _stat(entry)) is not None:
            yield Entry(prefix + entry.name, stat.st_size, stat.st_mtime)


def _stat(entry: os.DirEntry[str]) -> os.stat_result | None:
    """Size and time of a file, or None if it was deleted since its folder was read."""
    try:
        return entry.stat()
    except FileNotFoundError:
        return None


def _place(local: Path, final: Path) -> None:
    """Give a finished file its name, by way of a copy beside it where links do not reach."""
    try:
        _link(local, final)
    except OSError as error:
        if error.errno not in NO_LINK:
            raise
        beside = final.parent / SCRATCH
        sweep(beside)
        with locked_folder(beside) as folder:
            temporary = folder / "new"
            shutil.copyfile(local, temporary)
            _sync_file(temporary)
            _link(temporary, final)


def _link(source: Path, final: Path) -> None:
    try:
        os.link(source, final)
    except FileExistsError:
        # NFS may lose the reply to a link that was made and send it again.
        if not final.samefile(source):
            raise


def make_folder(folder: Path) -> None:
    """Make a folder and those above it, durably; no error if it is there."""
    if folder.is_dir():
        return
    make_folder(folder.parent)
    folder.mkdir(exist_ok=True)
    _sync_folder(folder.parent)


def _sync_file(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync_folder(folder: Path) -> None:
    """Make the names in ``folder`` durable: fsync of a file does not cover its own name."""
    _sync_file(folder)
