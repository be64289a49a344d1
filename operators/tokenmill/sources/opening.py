"""Opening one asset where its listing says that it lies."""

from __future__ import annotations

import hashlib
import io
import os
import re
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, BinaryIO

from tokenmill.sources.places import local_path, stat_version
from tokenmill_infra.storage.paths import without_credentials
from tokenmill_infra.storage.ranges import open_remote
from tokenmill_infra.storage.remote import connect, path_of
from tokenmill_infra.storage.retry import Retry, code_of, is_denied
from tokenmill_infra.storage.transfer import Transfer
from tokenmill_schemas.asset import AssetRef
from tokenmill_schemas.errors import AssetError, Reason
from tokenmill_schemas.increment import CONTENT

#: Remote objects up to this size are fetched whole, in one stroke; larger ones as they are read.
WHOLE_BYTES = 64 * 2**20
#: What `stat_version` gives, but for files of the first days of 1970: others may look like it then.
STAT_VERSION = re.compile(r"\d+-\d{16,}")


def failure(ref: AssetRef, reason: Reason, message: str) -> AssetError:
    """Return the error of the stage ``fetch`` for ``ref``."""
    return AssetError(
        reason, f"{ref.key}: {message}", uri=without_credentials(ref.uri), stage="fetch"
    )


@contextmanager
def as_asset_errors(ref: AssetRef) -> Iterator[None]:
    """Turn what storage raises into an AssetError; a TransientError passes.

    Raises:
        AssetError: ``not_found`` or ``unreadable``.
    """
    try:
        yield
    except (FileNotFoundError, NotADirectoryError) as error:
        raise failure(ref, Reason.NOT_FOUND, "is not there any more") from error
    except Exception as error:
        if is_denied(error):
            # Without the client's own text, which may quote the request.
            text = f"access denied ({code_of(error) or type(error).__name__})"
        elif isinstance(error, OSError | ValueError):
            text = f"cannot be read: {type(error).__name__}: {error}"
        else:
            raise
        raise failure(ref, Reason.UNREADABLE, text) from error


def open_asset(ref: AssetRef, options: Mapping[str, Any]) -> BinaryIO:
    """Open a whole file, or the byte range that ``ref.locator`` names, seekable.

    Raises:
        AssetError: ``not_found``, ``unreadable``, ``changed`` (of another size than listed), or
            ``truncated`` (a range that ends behind the file).
        TransientError: the storage failed after its retries.
    """
    path = local_path(ref.uri)
    with as_asset_errors(ref):
        if not ref.uri:
            raise failure(ref, Reason.NOT_FOUND, "its listing gives no uri")
        if ref.locator.startswith("bytes="):
            return _open_range(ref, path, options)
        return _open_local(ref, path) if path is not None else _open_remote(ref, options)


def _open_local(ref: AssetRef, path: str) -> BinaryIO:
    # O_NONBLOCK: opening a named pipe would wait for its writer for ever.
    file = os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb")
    try:
        found = os.fstat(file.fileno())
        if not stat.S_ISREG(found.st_mode):
            raise failure(ref, Reason.UNREADABLE, "is not a regular file")
        _check_size(ref, found.st_size)
        if is_modified(ref, found):
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
            _check_content(ref, sha256, modified=True)
            file.seek(0)
    except AssetError:
        file.close()
        raise
    return file


def _check_size(ref: AssetRef, size: int) -> None:
    if ref.size_bytes >= 0 and size != ref.size_bytes:
        text = f"has {size} bytes, was listed with {ref.size_bytes}: list again"
        raise failure(ref, Reason.CHANGED, text)


def is_modified(ref: AssetRef, status: os.stat_result) -> bool:
    """Whether a file is not as old as it was listed, where the listing says how old that is."""
    listed = ref.version.partition(CONTENT)[0]
    return STAT_VERSION.fullmatch(listed) is not None and listed != stat_version(status)


def _check_content(ref: AssetRef, sha256: str, *, modified: bool) -> None:
    """Refuse other bytes than were listed; ``modified`` ones too, if nobody knows what was."""
    listed = ref.version.partition(CONTENT)[2]
    if listed != sha256 if listed else modified:
        text = "its bytes are not those that were listed: list again"
        raise failure(ref, Reason.CHANGED, text)


def checked(ref: AssetRef, data: bytes, status: os.stat_result | None = None) -> BinaryIO:
    """Return an asset's bytes as a stream, if they are those that were listed as far as that shows.

    ``status`` is that of the local file that they come from.

    Raises:
        AssetError: ``changed``.
    """
    modified = status is not None and is_modified(ref, status)
    # What a file's times vouch for need not be hashed again.
    if modified or (status is None and CONTENT in ref.version):
        _check_content(ref, hashlib.sha256(data).hexdigest(), modified=modified)
    return io.BytesIO(data)


def _open_remote(ref: AssetRef, options: Mapping[str, Any]) -> BinaryIO:
    if ref.size_bytes > WHOLE_BYTES:
        return open_remote(ref.uri, options)
    data = _transfer(ref, options).read()
    _check_size(ref, len(data))
    return checked(ref, data)


def _transfer(ref: AssetRef, options: Mapping[str, Any]) -> Transfer:
    what = f"fetching {without_credentials(ref.uri)}"
    return Transfer(connect(ref.uri, options), path_of(ref.uri), Retry(), what)


def _open_range(ref: AssetRef, path: str | None, options: Mapping[str, Any]) -> BinaryIO:
    start, stop = map(int, ref.locator.removeprefix("bytes=").split("-"))
    status = None
    if path is not None:
        with open(path, "rb") as file:  # noqa: PTH123 - a path may hold bytes that are not UTF-8
            status = os.fstat(file.fileno())
            file.seek(start)
            data = file.read(stop - start)
    else:
        data = _transfer(ref, options).read_range(start, stop) if stop > start else b""
    if len(data) != stop - start:
        raise failure(ref, Reason.TRUNCATED, f"{ref.locator} ends behind the file")
    return checked(ref, data, status)
