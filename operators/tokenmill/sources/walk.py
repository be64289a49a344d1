"""Walking a folder in the bytewise order of whole paths, holding one folder's names at a time."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping
from typing import Any

from tokenmill.sources.places import as_job_errors, info_version, local_uri, printable, stat_version
from tokenmill.sources.rows import Row
from tokenmill_infra.storage.paths import without_credentials
from tokenmill_infra.storage.remote import connect, path_of
from tokenmill_infra.storage.retry import Retry
from tokenmill_infra.storage.transfer import list_folder
from tokenmill_schemas.errors import JobError

Place = tuple[int, int]


def walk_local(root: str, suffixes: tuple[str, ...]) -> Iterator[Row]:
    """Yield the regular files below ``root`` that end in ``suffixes`` (lower case).

    Links are followed, but not to a folder that holds them. A link to nothing is listed with size
    -1. ``root`` may be a file, which is listed whatever its suffix.

    Raises:
        JobError: ``root`` is not there, or a folder cannot be read.
    """
    if os.path.isfile(root):  # noqa: PTH113
        yield from _files(os.path.dirname(root), [os.path.basename(root)], "")  # noqa: PTH119, PTH120
        return
    yield from _folder(root, "", suffixes, ())


def _folder(
    folder: str, prefix: str, suffixes: tuple[str, ...], above: tuple[Place, ...]
) -> Iterator[Row]:
    try:
        status = os.stat(folder)  # noqa: PTH116
        place = (status.st_dev, status.st_ino)
        names = [] if place in above else _names(folder, suffixes)
    except OSError as error:
        raise JobError(f"cannot list {folder}: {error.strerror}", path="source.urls") from error
    run: list[str] = []
    for name in names:
        if name.endswith("/"):
            yield from _files(folder, run, prefix)
            run = []
            yield from _folder(
                f"{folder}/{name[:-1]}", f"{prefix}{printable(name)}", suffixes, (*above, place)
            )
        else:
            run.append(name)
    yield from _files(folder, run, prefix)


def _names(folder: str, suffixes: tuple[str, ...]) -> list[str]:
    """Names of the wanted files, and of the folders with a slash behind, sorted bytewise."""
    names = []
    with os.scandir(folder) as entries:
        for entry in entries:
            name = entry.name
            if name.startswith("."):
                continue
            if entry.is_dir():
                names.append(f"{name}/")
            elif name.lower().endswith(suffixes):
                names.append(name)
    # Sorting by code point is sorting by UTF-8 byte, but for names that are not UTF-8.
    names.sort(key=None if all(map(str.isascii, names)) else os.fsencode)
    return names


def _files(folder: str, names: list[str], prefix: str) -> Iterator[Row]:
    for name in names:
        path = f"{folder}/{name}"
        try:
            status = os.stat(path)  # noqa: PTH116
        except OSError:
            yield prefix + printable(name), local_uri(path), "", -1, ""
            continue
        if stat.S_ISREG(status.st_mode):
            size, version = status.st_size, stat_version(status)
            yield prefix + printable(name), local_uri(path), "", size, version


def walk_remote(url: str, options: Mapping[str, Any], suffixes: tuple[str, ...]) -> Iterator[Row]:
    """Yield the files below a URL, one request per folder, in the order of `walk_local`.

    Raises:
        JobError: there is nothing at ``url``.
        TransientError: the storage failed after its retries.
    """
    fs, root = connect(url, options), path_of(url)
    with as_job_errors(url):
        info = Retry().call(lambda: fs.info(root), what=f"listing {without_credentials(url)}")
        if info["type"] == "file":
            yield _remote_row(fs, info, root.rpartition("/")[2])
            return
        yield from _remote_folder(fs, root, "", suffixes)


def _remote_row(fs: Any, info: Mapping[str, Any], key: str) -> Row:
    size = -1 if info.get("size") is None else int(info["size"])
    return key, str(fs.unstrip_protocol(info["name"])), "", size, info_version(info)


def _remote_folder(fs: Any, folder: str, prefix: str, suffixes: tuple[str, ...]) -> Iterator[Row]:
    named = []
    for info in list_folder(fs, folder, retry=Retry(), what=f"listing {folder}"):
        name = str(info["name"]).rstrip("/").rpartition("/")[2]
        is_folder = info["type"] == "directory"
        # Some stores list a folder's own marker object in it.
        if name.startswith(".") or str(info["name"]).rstrip("/") == folder.rstrip("/"):
            continue
        if is_folder or name.lower().endswith(suffixes):
            named.append((f"{name}/" if is_folder else name, info))
    for name, info in sorted(named, key=lambda pair: pair[0].encode()):
        if name.endswith("/"):
            yield from _remote_folder(fs, str(info["name"]), prefix + name, suffixes)
        else:
            yield _remote_row(fs, info, prefix + name)
