"""Where a checkpoint file is: local, on the Hugging Face hub, or on any fsspec URL (cached)."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib
import importlib.util
import json
import logging
import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

import fsspec

from tokenmill_infra.storage.paths import without_credentials
from tokenmill_infra.storage.remote import connect, path_of
from tokenmill_infra.storage.retry import Retry, code_of, is_denied
from tokenmill_infra.storage.transfer import Transfer
from tokenmill_schemas.canonical import digest_bytes
from tokenmill_schemas.errors import CheckpointError, JobError, TransientError
from tokenmill_schemas.secrets import environment_of, scheme_of

RANDOM = "random:"
INDEX = ".index.json"
_HF = re.compile(r"hf://(?P<repo>[^/@]+/[^/@]+)(@(?P<revision>[^/]+))?/(?P<file>.+)")
_CHUNK_BYTES = 8 * 2**20
#: The key of a job that every error here is about.
PATH = "tokenizer.checkpoint"

#: For all of them; tests replace it.
RETRY = Retry()


class UnreachableError(CheckpointError):
    """A checkpoint is not on this machine and the hub that has it did not answer."""


def local_file(name: str) -> Path:
    """Return the local path of a checkpoint file, downloaded first where it is remote.

    Downloads from the hub lie in its own cache, others in ``$XDG_CACHE_HOME/tokenmill``, under
    a key that changes with the remote file.

    Raises:
        CheckpointError: there is no such file; `UnreachableError` if the hub did not answer.
        TransientError: another remote place did not answer.
    """
    if name.startswith("hf://"):
        return _from_hub(name)
    if "://" in name and not name.startswith("file://"):
        return _from_url(name)
    path = Path(name.removeprefix("file://")).expanduser()
    if not path.is_file():
        raise CheckpointError(f"there is no checkpoint file {name}", path=PATH)
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
        text = "name a checkpoint: a path, a URL, hf://owner/repo/file or random:0"
        raise CheckpointError(text, path=PATH)
    if not checkpoint.endswith(INDEX):
        return [checkpoint]
    try:
        placed: dict[str, str] = json.loads(local_file(checkpoint).read_bytes())["weight_map"]
    except (ValueError, KeyError, TypeError) as error:
        text = f"{checkpoint} is no index of a sharded checkpoint"
        raise CheckpointError(text, path=PATH) from error
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
        text = f"{name!r} is not of the form hf://owner/repo[@revision]/file"
        raise CheckpointError(text, path=PATH)
    from huggingface_hub import errors

    wrong = (
        errors.EntryNotFoundError,
        errors.RepositoryNotFoundError,
        errors.RevisionNotFoundError,
        errors.HFValidationError,
    )
    try:
        with _quiet_hub():
            return _download_from_hub(parts["repo"], parts["file"], parts["revision"])
    except errors.LocalEntryNotFoundError as error:
        raise _unreachable(name) from error
    except wrong as error:
        text = f"{name} is not there, or not for this account: {error}"
        raise CheckpointError(text, path=PATH) from error
    except _network_errors() as error:
        raise _unreachable(name) from error


def _download_from_hub(repo: str, file: str, revision: str | None) -> Path:
    import huggingface_hub as hub

    if not isinstance(hub.try_to_load_from_cache(repo, file, revision=revision), str):
        # One question of our own first: the download would ask six times, for half a minute.
        hub.get_hf_file_metadata(hub.hf_hub_url(repo, file, revision=revision), timeout=10)
    return Path(hub.hf_hub_download(repo, file, revision=revision))


def _unreachable(name: str) -> UnreachableError:
    return UnreachableError(
        f"{name} is not in the cache, and the hub did not answer; name a local file, or copy a "
        "cache that has it to HF_HOME (HF_HUB_OFFLINE=1 then asks nobody)",
        path=PATH,
    )


def _network_errors() -> tuple[type[Exception], ...]:
    """What no answer looks like, which depends on the HTTP library that the hub's client has."""
    there = [name for name in ("httpx2", "httpx") if importlib.util.find_spec(name)]
    return (OSError, *(importlib.import_module(name).TransportError for name in there))


@contextlib.contextmanager
def _quiet_hub() -> Iterator[None]:
    """Keep the hub's client from logging each try: what comes of them is an error of ours."""
    log = logging.getLogger("huggingface_hub")
    before = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(before)


def _from_url(name: str) -> Path:
    shown = without_credentials(name)
    try:
        transfer = _transfer(name)
        # The key holds the remote file's version, so that a replaced file is fetched anew.
        version = transfer.call(lambda: transfer.fs.ukey(transfer.key))
        key = hashlib.sha256(f"{name} {version}".encode()).hexdigest()
        target = cache_folder() / key[:32] / transfer.key.rpartition("/")[2]
        if not target.is_file():
            _download(transfer, target)
    except FileNotFoundError as error:
        raise CheckpointError(f"there is no checkpoint file {shown}", path=PATH) from error
    except (JobError, ValueError, ImportError) as error:
        raise CheckpointError(f"{shown} cannot be opened: {error}", path=PATH) from error
    except Exception as error:
        if is_denied(error):
            kind = code_of(error) or type(error).__name__
            advice = f"check {environment_of(scheme_of(name))} in the environment"
            text = f"access to {shown} was denied ({kind}); {advice}"
            raise CheckpointError(text, path=PATH) from error
        if isinstance(error, OSError):
            raise TransientError(f"{shown} could not be fetched: {error}") from error
        raise
    return target


def _transfer(name: str) -> Transfer:
    what = f"fetching {without_credentials(name)}"
    if "::" in name:  # one filesystem inside another, such as a file of a remote zip
        filesystem, path = fsspec.core.url_to_fs(name)
        return Transfer(filesystem, path, RETRY, what)
    return Transfer(connect(name, {}), path_of(name), RETRY, what)


def _download(transfer: Transfer, target: Path) -> None:
    """Fetch to a name of our own, then rename: another process never sees half a file."""
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, partial = tempfile.mkstemp(dir=target.parent, prefix=".partial-")
    os.close(handle)
    try:
        transfer.download(Path(partial))
        Path(partial).replace(target)
    finally:
        with contextlib.suppress(FileNotFoundError):
            Path(partial).unlink()
