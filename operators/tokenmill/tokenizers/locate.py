"""Where a checkpoint file is: local, on the Hugging Face hub, or on any fsspec URL (cached)."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import re
import tempfile
from pathlib import Path

import fsspec

from tokenmill_schemas.canonical import digest_bytes
from tokenmill_schemas.errors import CheckpointError, TransientError

RANDOM = "random:"
INDEX = ".index.json"
_HF = re.compile(r"hf://(?P<repo>[^/@]+/[^/@]+)(@(?P<revision>[^/]+))?/(?P<file>.+)")
_CHUNK_BYTES = 8 * 2**20


def local_file(name: str) -> Path:
    """Return the local path of a checkpoint file, downloaded first where it is remote.

    Downloads from the hub lie in its own cache, others in ``$XDG_CACHE_HOME/tokenmill``, under
    a key that changes with the remote file.

    Raises:
        CheckpointError: there is no such file.
        TransientError: the remote place did not answer.
    """
    if name.startswith("hf://"):
        return _from_hub(name)
    if "://" in name and not name.startswith("file://"):
        return _from_url(name)
    path = Path(name.removeprefix("file://")).expanduser()
    if not path.is_file():
        raise CheckpointError(f"there is no checkpoint file {name}")
    return path


def checkpoint_digest(checkpoint: str, *, select: tuple[str, ...] = ()) -> str:
    """Return the sha256 (hex) of a checkpoint's bytes, or of its text for ``random:SEED``.

    A checkpoint of several files is the digest of its files' digests, in the index's order.

    Raises:
        CheckpointError: there is no such file.
        TransientError: a remote place did not answer.
    """
    if checkpoint.startswith(RANDOM):
        return hashlib.sha256(checkpoint.encode()).hexdigest()
    digests = [
        file_digest(local_file(name)) for name in checkpoint_files(checkpoint, select=select)
    ]
    return (
        digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()
    )


def checkpoint_files(checkpoint: str, *, select: tuple[str, ...] = ()) -> list[str]:
    """Return the names of the files that hold the keys with a prefix of ``select``, or all keys.

    One file, or those that a ``*.index.json`` lists.

    Raises:
        CheckpointError: there is no such index.
        TransientError: a remote place did not answer.
    """
    if not checkpoint:
        raise CheckpointError("name a checkpoint: a path, a URL, hf://owner/repo/file or random:0")
    if not checkpoint.endswith(INDEX):
        return [checkpoint]
    try:
        placed: dict[str, str] = json.loads(local_file(checkpoint).read_bytes())["weight_map"]
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{checkpoint} is no index of a sharded checkpoint") from error
    chosen = {file for key, file in placed.items() if key.startswith(select)} if select else set()
    folder = checkpoint[: -len(checkpoint.rpartition("/")[2])]
    return [folder + file for file in sorted(chosen or set(placed.values()))]


def file_digest(path: Path) -> str:
    """Return the sha256 (hex) of a file, computed once per process for a file that stays as is."""
    stat = path.stat()
    return _digest(path, stat.st_size, stat.st_mtime_ns)


@functools.lru_cache(maxsize=64)
def _digest(path: Path, _size_bytes: int, _mtime_ns: int) -> str:
    with path.open("rb") as file:
        return digest_bytes(iter(lambda: file.read(_CHUNK_BYTES), b""))


def cache_folder() -> Path:
    """Return the folder of downloaded checkpoints (it may not exist yet)."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "tokenmill" / "checkpoints"


def _from_hub(name: str) -> Path:
    parts = _HF.fullmatch(name)
    if parts is None:
        raise CheckpointError(f"{name!r} is not of the form hf://owner/repo[@revision]/file")
    from huggingface_hub import errors, hf_hub_download

    wrong = (
        errors.EntryNotFoundError,
        errors.RepositoryNotFoundError,
        errors.RevisionNotFoundError,
        errors.HFValidationError,
    )
    try:
        found = hf_hub_download(parts["repo"], parts["file"], revision=parts["revision"])
    except errors.LocalEntryNotFoundError as error:
        raise TransientError(f"{name} is not in the cache, and the hub did not answer") from error
    except wrong as error:
        raise CheckpointError(f"{name} is not there, or not for this account: {error}") from error
    except OSError as error:
        raise TransientError(f"{name}: the hub did not answer: {error}") from error
    return Path(found)


def _from_url(name: str) -> Path:
    path: str
    try:
        filesystem, path = fsspec.core.url_to_fs(name)
        # The key holds the remote file's version, so that a replaced file is fetched anew.
        key = hashlib.sha256(f"{name} {filesystem.ukey(path)}".encode()).hexdigest()
        target = cache_folder() / key[:32] / path.rpartition("/")[2]
        if not target.is_file():
            _download(filesystem, path, target)
    except FileNotFoundError as error:
        raise CheckpointError(f"there is no checkpoint file {name}") from error
    except (ValueError, ImportError) as error:
        raise CheckpointError(f"{name} cannot be opened: {error}") from error
    except OSError as error:
        raise TransientError(f"{name} could not be fetched: {error}") from error
    return target


def _download(filesystem: fsspec.AbstractFileSystem, path: str, target: Path) -> None:
    """Fetch to a name of our own, then rename: another process never sees half a file."""
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, partial = tempfile.mkstemp(dir=target.parent, prefix=".partial-")
    os.close(handle)
    try:
        filesystem.get_file(path, partial)
        Path(partial).replace(target)
    finally:
        with contextlib.suppress(FileNotFoundError):
            Path(partial).unlink()
