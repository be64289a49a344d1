"""Storage on an object store, or on anything else that fsspec reaches.

Exclusive create is a conditional put (S3's ``If-None-Match: *``). A client repeats a put whose
reply was lost, and then finds its own object in the way, so a refused create reads the object back:
equal bytes are ours. What must have one winner has to hold something of its writer in its bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

from tokenmill_infra.storage.paths import checked, without_credentials
from tokenmill_infra.storage.remote import connect, path_of
from tokenmill_infra.storage.retry import Retry, is_denied, is_lost_race
from tokenmill_infra.storage.storage import Entry
from tokenmill_schemas.errors import StoreError

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class ObjectStorage:
    """Keys below a URL; holds no connection, so it pickles and may be shared by threads."""

    address: str = field(repr=False)
    options: dict[str, Any] = field(default_factory=dict, repr=False, hash=False)
    retry: Retry = field(default_factory=Retry)

    @property
    def uri(self) -> str:
        """The URL, without credentials."""
        return without_credentials(self.address)

    def read(self, path: str, start: int = 0, stop: int | None = None) -> bytes:
        """Return an object's bytes, or the half-open range ``[start, stop)`` of them.

        Raises:
            FileNotFoundError: there is no such object.
            TransientError: the storage failed after its retries.
            StoreError: access was denied.
        """
        if stop is not None and stop <= start:
            return b""
        key, fs = self._key(path), self._fs
        limits = {} if start == 0 and stop is None else {"start": start, "end": stop}
        return bytes(self._call(lambda: fs.cat_file(key, **limits), f"reading {path}"))

    def create(self, path: str, data: bytes) -> None:
        """Create an object that must not exist yet.

        Raises:
            FileExistsError: an object of that key and other bytes is there.
            ValueError: ``data`` is empty, for which the condition is not kept everywhere.
            TransientError: the storage failed after its retries.
            StoreError: access was denied.
        """
        if not data:
            raise ValueError(f"{path}: an object store cannot create an empty file exclusively")
        key, fs = self._key(path), self._fs
        try:
            self._call(lambda: fs.pipe_file(key, data, mode="create"), f"creating {path}")
        except OSError as error:
            if not is_lost_race(error):
                raise
            if self._bytes_of(path) != data:
                raise FileExistsError(f"{self.uri}/{path} is there already") from error

    def create_from(self, path: str, local: Path) -> None:
        """Upload a local file, in parts if it is large, and delete it.

        An object of that key and size is taken for an earlier, unacknowledged try of ours.

        Raises:
            FileExistsError: an object of that key and another size is there.
            TransientError: the storage failed after its retries.
            StoreError: access was denied.
        """
        key, fs, size = self._key(path), self._fs, local.stat().st_size
        try:
            # Asked first because the condition is checked only when a long upload ends.
            if (found := self.size(path)) is None:
                put = lambda: fs.put_file(str(local), key, mode="create")  # noqa: E731
                self._call(put, f"uploading {path}")
                found = size
        except OSError as error:
            if not is_lost_race(error):
                raise
            found = self.size(path)
        if found != size:
            raise FileExistsError(f"{self.uri}/{path} is there, of {found} bytes, not {size}")
        local.unlink()

    def list(self, prefix: str) -> Iterator[Entry]:
        """Yield the objects below a folder, sorted by path; none if there is no such folder."""
        fs, root = self._fs, path_of(self.address)
        folder = f"{root}/{prefix.strip('/')}".rstrip("/")
        fs.invalidate_cache()
        found = self._call(lambda: _find(fs, folder), f"listing {prefix}")
        for name in sorted(found):
            if found[name]["type"] == "file" and name.startswith(f"{folder}/"):
                info = found[name]
                yield Entry(name[len(root) + 1 :], int(info["size"]), _modified(info))

    def size(self, path: str) -> int | None:
        """Return an object's size in bytes, None if there is no such object."""
        key, fs = self._key(path), self._fs
        try:
            info = self._call(lambda: fs.info(key), f"looking up {path}")
        except FileNotFoundError:
            return None
        return int(info["size"]) if info["type"] == "file" else None

    def exists(self, path: str) -> bool:
        """Whether an object of that key is there."""
        return self.size(path) is not None

    def delete(self, path: str) -> None:
        """Delete an object; no error if it is gone."""
        key, fs = self._key(path), self._fs
        try:
            self._call(lambda: fs.rm_file(key), f"deleting {path}")
        except FileNotFoundError:
            return

    def local(self, path: str) -> Path | None:
        """Return None: an object has no local path."""
        checked(path)
        return None

    @property
    def _fs(self) -> Any:
        return connect(self.address, self.options)

    def _key(self, path: str) -> str:
        return f"{path_of(self.address)}/{checked(path)}"

    def _bytes_of(self, path: str) -> bytes | None:
        try:
            return self.read(path)
        except FileNotFoundError:
            return None

    def _call(self, function: Callable[[], T], what: str) -> T:
        try:
            return self.retry.call(function, what=f"{what} in {self.uri}")
        except Exception as error:
            if not is_denied(error):
                raise
            raise StoreError(
                f"{what}: access denied ({type(error).__name__}); check the credentials in the "
                "environment and what they allow",
                uri=self.uri,
            ) from error


def _find(fs: Any, folder: str) -> dict[str, dict[str, Any]]:
    try:
        found: dict[str, dict[str, Any]] = fs.find(folder, detail=True)
    except FileNotFoundError:
        return {}
    return found


def open_objects(uri: str, options: Mapping[str, Any]) -> ObjectStorage:
    """Return the storage at an fsspec URL.

    Raises:
        JobError: the URL's filesystem is not installed or an option is wrong.
    """
    address = uri if uri.endswith("://") else uri.rstrip("/")
    storage = ObjectStorage(address, dict(options))
    connect(storage.address, storage.options)
    return storage


def _modified(info: Mapping[str, Any]) -> float:
    """Return when an object was written, by its storage's clock; 0.0 where that is not told."""
    told = (info.get(name) for name in ("LastModified", "mtime", "updated", "created"))
    when = next((value for value in told if value is not None), 0.0)
    return when.timestamp() if isinstance(when, datetime) else float(when)
