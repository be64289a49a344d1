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

from tokenmill_infra.storage.options import options_for
from tokenmill_infra.storage.paths import checked, without_credentials
from tokenmill_infra.storage.remote import connect, path_of
from tokenmill_infra.storage.retry import Retry, code_of, is_denied, is_lost_race
from tokenmill_infra.storage.storage import Entry
from tokenmill_infra.storage.transfer import Transfer, list_below
from tokenmill_schemas.errors import StoreError, TransientError
from tokenmill_schemas.secrets import environment_of, scheme_of

T = TypeVar("T")

#: Options of S3 for which a request is another one than its signed address says.
UNSIGNED_OPTIONS = ("anon", "requester_pays", "s3_additional_kwargs")


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
        transfer = self._transfer(path, "reading")
        whole = start == 0 and stop is None
        return self._told(transfer.read if whole else lambda: transfer.read_range(start, stop))

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
        transfer = self._transfer(path, "creating")
        put = lambda: transfer.fs.pipe_file(transfer.key, data, mode="create")  # noqa: E731
        try:
            self._told(lambda: transfer.call(put))
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
        transfer, size = self._transfer(path, "uploading"), local.stat().st_size
        try:
            # Asked first because the condition is checked only when a long upload ends.
            if (found := self.size(path)) is None:
                self._told(lambda: transfer.upload(local))
                found = size
        except OSError as error:
            if not is_lost_race(error):
                raise
            found = self.size(path)
            if found is None:
                raise TransientError(f"{transfer.what}: it was there and is gone") from error
        if found != size:
            raise FileExistsError(f"{self.uri}/{path} is there, of {found} bytes, not {size}")
        local.unlink()

    def list(self, prefix: str) -> Iterator[Entry]:
        """Yield the objects below a folder, sorted by path; none if there is no such folder."""
        fs, root = self._fs, path_of(self.address)
        folder = f"{root}/{prefix.strip('/')}".rstrip("/")
        what = f"listing {prefix} in {self.uri}"
        listing = lambda: list(list_below(fs, folder, retry=self.retry, what=what))  # noqa: E731
        # Sorted here, because not every server lists in the order of whole paths.
        for info in sorted(self._told(listing), key=lambda info: str(info["name"])):
            name = str(info["name"])
            if info["type"] == "file" and name.startswith(f"{folder}/"):
                yield Entry(name[len(root) + 1 :], int(info["size"]), _modified(info))

    def size(self, path: str) -> int | None:
        """Return an object's size in bytes, None if there is no such object."""
        try:
            return self._told(self._transfer(path, "looking up").size)
        except (FileNotFoundError, IsADirectoryError):
            return None

    def exists(self, path: str) -> bool:
        """Whether an object of that key is there."""
        return self.size(path) is not None

    def delete(self, path: str) -> None:
        """Delete an object; no error if it is gone."""
        transfer = self._transfer(path, "deleting")
        try:
            self._told(lambda: transfer.call(lambda: transfer.fs.rm_file(transfer.key)))
        except FileNotFoundError:
            return

    def local(self, path: str) -> Path | None:
        """Return None: an object has no local path."""
        checked(path)
        return None

    def signed(self, path: str, seconds: int) -> str | None:
        """Return an address by which the object is read with plain HTTP, as long as told.

        None where that cannot be, or would not be what the client does: without credentials, and
        with certificates or headers of the user's own.
        """
        transfer = self._transfer(path, "signing")
        special = [self.options.get(name) for name in UNSIGNED_OPTIONS]
        special.append("verify" in self.options.get("client_kwargs", {}))
        if not transfer.in_parts or any(special):
            return None
        try:
            return str(transfer.fs.sign(transfer.key, expiration=seconds))
        except Exception as error:
            if not is_denied(error):
                raise
            return None

    @property
    def _fs(self) -> Any:
        return connect(self.address, self.options)

    def _transfer(self, path: str, doing: str) -> Transfer:
        key = f"{path_of(self.address)}/{checked(path)}"
        return Transfer(self._fs, key, self.retry, f"{doing} {path} in {self.uri}")

    def _bytes_of(self, path: str) -> bytes | None:
        try:
            return self.read(path)
        except FileNotFoundError:
            return None

    def _told(self, request: Callable[[], T]) -> T:
        """Make a request; that it was denied is said without a client's own text.

        Raises:
            StoreError: access was denied, or there is no such bucket.
        """
        try:
            return request()
        except Exception as error:
            code = code_of(error)
            if code == "NoSuchBucket":
                text = "there is no such bucket; make it, or look at the name and the endpoint"
                raise StoreError(text, uri=self.uri) from error
            if not is_denied(error):
                raise
            kind = code or type(error).__name__
            raise StoreError(
                f"access denied ({kind}); check {environment_of(scheme_of(self.address))} in the "
                "environment, what they allow, and this machine's clock",
                uri=self.uri,
            ) from error


def open_objects(uri: str, options: Mapping[str, Any]) -> ObjectStorage:
    """Return the storage at an fsspec URL.

    Raises:
        JobError: the URL's filesystem is not installed or an option is wrong.
    """
    address = uri if uri.endswith("://") else uri.rstrip("/")
    storage = ObjectStorage(address, options_for(address, options))
    connect(storage.address, storage.options)
    return storage


def _modified(info: Mapping[str, Any]) -> float:
    """Return when an object was written, by its storage's clock; 0.0 where that is not told."""
    told = (info.get(name) for name in ("LastModified", "mtime", "updated", "created"))
    when = next((value for value in told if value is not None), 0.0)
    return when.timestamp() if isinstance(when, datetime) else float(when)
