"""URLs of sources: local paths and fsspec URLs, braces and globs, and what a file's version is."""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import PurePosixPath
from typing import Any, BinaryIO, cast
from urllib.parse import quote, unquote_to_bytes

from tokenmill_infra.storage.paths import without_credentials
from tokenmill_infra.storage.ranges import open_remote
from tokenmill_infra.storage.remote import connect, path_of
from tokenmill_infra.storage.retry import Retry, code_of, is_denied
from tokenmill_schemas.errors import JobError
from tokenmill_schemas.secrets import environment_of, scheme_of

BRACES = re.compile(r"\{([^{}]*)\}")
RANGE = re.compile(r"(\d+)\.\.(\d+)")
MAGIC = re.compile(r"[*?\[]")
ETAGS = ("ETag", "etag", "md5Hash", "content_md5")
TIMES = ("LastModified", "last_modified", "updated", "mtime", "created")


def local_path(uri: str) -> str | None:
    """Return the local path that ``uri`` names (``file://`` is percent-decoded), or None."""
    if uri.startswith("file://"):
        return os.fsdecode(unquote_to_bytes(uri.removeprefix("file://")))
    return None if "://" in uri else uri


def local_uri(path: str) -> str:
    """Return a uri for a local path: itself, or a ``file://`` URL if its name is not UTF-8."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return "file://" + quote(os.fsencode(path))
    return path


def printable(name: str) -> str:
    """Return ``name`` as UTF-8 text: bytes that are none are shown as ``%XX``."""
    return re.sub("[\udc80-\udcff]", lambda m: f"%{ord(m[0]) - 0xDC00:02X}", name)


def braces(url: str) -> Iterator[str]:
    """Expand ``{000..123}`` (zeros kept) and ``{a,b}`` in ``url``, left to right."""
    found = BRACES.search(url)
    if found is None:
        yield url
        return
    for choice in _choices(found[1]):
        yield from braces(url[: found.start()] + choice + url[found.end() :])


def _choices(text: str) -> list[str]:
    span = RANGE.fullmatch(text)
    if span is None:
        return text.split(",")
    return [str(n).zfill(len(span[1])) for n in range(int(span[1]), int(span[2]) + 1)]


def is_glob(url: str) -> bool:
    """Whether ``url`` has a wildcard."""
    return MAGIC.search(url) is not None


def glob_root(url: str) -> str:
    """Return the longest folder of ``url`` that has no wildcard."""
    parts = url.split("/")
    first = next(i for i, part in enumerate(parts) if MAGIC.search(part))
    return "/".join(parts[:first]) or "/"


def expand(urls: tuple[str, ...], options: Mapping[str, Any]) -> list[str]:
    """Return the files that ``urls`` name: braces and globs expanded, each glob's files sorted.

    Raises:
        JobError: nothing is named, or a glob matches nothing.
    """
    files: list[str] = []
    for url in itertools.chain.from_iterable(map(braces, urls)):
        found = _glob(url, options) if is_glob(url) else [url]
        if not found:
            raise JobError(f"{without_credentials(url)} matches no file", path="source.urls")
        files += found
    if not files:
        raise JobError("names nothing to list", path="source.urls")
    return files


def _glob(url: str, options: Mapping[str, Any]) -> list[str]:
    import fsspec

    path = local_path(url)
    if path is not None:
        return sorted(fsspec.filesystem("file").glob(path))
    fs, what = connect(url, options), f"listing {without_credentials(url)}"
    with as_job_errors(url):
        found = Retry().call(lambda: fs.glob(path_of(url)), what=what)
    return sorted(fs.unstrip_protocol(name) for name in found)


def stems(urls: list[str]) -> list[str]:
    """Return a short distinct name per URL: its last part up to the first dot, numbered if taken.

    The numbers follow the order of ``urls``, so that the same job gives the same names.
    """
    seen: dict[str, int] = {}
    names = []
    for url in urls:
        stem = printable(PurePosixPath(url.rstrip("/")).name.split(".")[0]) or "root"
        seen[stem] = seen.get(stem, 0) + 1
        names.append(stem if seen[stem] == 1 else f"{stem}-{seen[stem]}")
    return names


def stat_version(stat: os.stat_result) -> str:
    """Return the version of a local file: its size and its modification time in ns."""
    return f"{stat.st_size}-{stat.st_mtime_ns}"


def info_version(info: Mapping[str, Any]) -> str:
    """Return the version of a remote file: its etag, or else its size and modification time."""
    for name in ETAGS:
        if info.get(name):
            return str(info[name]).strip('"')
    time = next((info[name] for name in TIMES if info.get(name)), "")
    return f"{info.get('size', -1)}-{time}"


def size_and_version(url: str, options: Mapping[str, Any]) -> tuple[int, str]:
    """Return the size in bytes and the version of a file that must be there.

    Raises:
        JobError: there is no such file, or it may not be read.
    """
    path = local_path(url)
    with as_job_errors(url):
        if path is not None:
            stat = os.stat(path)  # noqa: PTH116 - paths are strings here: a million of them
            return stat.st_size, stat_version(stat)
        fs, shown = connect(url, options), without_credentials(url)
        info = Retry().call(lambda: fs.info(path_of(url)), what=f"reading {shown}")
        return int(info["size"] or -1), info_version(info)


def open_file(url: str, options: Mapping[str, Any], *, compression: str | None = None) -> BinaryIO:
    """Open a listing or an archive for reading; ``compression`` "infer" goes by its suffix.

    Raises:
        JobError: there is no such file, or it may not be read.
    """
    from fsspec.compression import compr
    from fsspec.core import get_compression

    path = local_path(url)
    with as_job_errors(url):
        stream = open(path, "rb") if path is not None else open_remote(url, options)  # noqa: PTH123, SIM115
        kind = get_compression(url, compression)
        return stream if kind is None else cast("BinaryIO", compr[kind](stream, mode="r"))


@contextmanager
def as_job_errors(url: str) -> Iterator[None]:
    """Turn what storage raises about a place that a job names into a JobError.

    Raises:
        JobError: it is not there, or may not be or cannot be read.
    """
    shown = without_credentials(url)
    try:
        yield
    except FileNotFoundError as error:
        raise JobError(f"there is nothing at {shown}", path="source.urls") from error
    except Exception as error:
        if is_denied(error):
            kind = code_of(error) or type(error).__name__
            text = f"access to {shown} was denied ({kind})"
            advice = f"check {environment_of(scheme_of(url))} in the environment"
            text += f"; {advice}" if local_path(url) is None else ""
        elif isinstance(error, OSError):
            text = f"cannot read {shown}: {error}"
        else:
            raise
        raise JobError(text, path="source.urls") from error
