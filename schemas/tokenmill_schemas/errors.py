"""The exception tree, split by who must act.

    TokenmillError
    ├── JobError              mend the job file or the command (exit code 2)
    │   └── CheckpointError   mend the checkpoint or the variant that names it
    ├── AssetError            skip this asset and record it in quarantine
    ├── QualityError          look at what was made: it breaks a limit (exit code 4)
    ├── TransientError        try again later; nothing is wrong with the request
    └── StoreError            look at the store
        ├── ConflictError       another commit came first
        ├── CorruptShardError   bytes on disk are not the bytes that were committed
        ├── FingerprintError    tokens or shards of two kinds would be mixed
        ├── FormatVersionError  written by a newer format
        └── SnapshotNotFoundError

Every error says what was asked, what was got and what to do, carries its facts as attributes, and
survives pickling (Ray sends errors between processes).
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any


class Reason(StrEnum):
    """Why an asset has no samples; stored in the quarantine table."""

    NOT_FOUND = "not_found"
    UNREADABLE = "unreadable"
    EMPTY = "empty"
    TOO_MANY_BYTES = "too_many_bytes"
    TOO_MANY_PIXELS = "too_many_pixels"
    UNKNOWN_FORMAT = "unknown_format"
    TRUNCATED = "truncated"
    CORRUPT = "corrupt"
    UNSUPPORTED = "unsupported"
    CHANGED = "changed"
    DEADLINE = "deadline"
    TOO_MUCH_MEMORY = "too_much_memory"
    DECODE_FAILED = "decode_failed"
    KILLED_WORKER = "killed_worker"
    ENCODE_FAILED = "encode_failed"
    DUPLICATE_KEY = "duplicate_key"
    TOO_SMALL = "too_small"
    NO_BUCKET = "no_bucket"
    OTHER_MODALITY = "other_modality"
    OTHER_CONTENT = "other_content"
    NO_VIDEO = "no_video"
    TOO_SHORT = "too_short"
    TOO_LONG = "too_long"
    TOO_MANY_FACES = "too_many_faces"
    TOO_MANY_POINTS = "too_many_points"
    NO_GEOMETRY = "no_geometry"
    NON_MANIFOLD = "non_manifold"


def _rebuild(
    cls: type[TokenmillError], args: tuple[Any, ...], state: dict[str, Any]
) -> TokenmillError:
    error = cls.__new__(cls, *args)
    error.args = args
    error.__dict__.update(state)
    return error


class TokenmillError(Exception):
    """Base of every error that this library raises on purpose."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.args, self.__dict__)


class JobError(TokenmillError):
    """The job cannot run as written; ``path`` is the dotted key at fault, if one is."""

    def __init__(self, message: str, *, path: str = "") -> None:
        super().__init__(f"{path}: {message}" if path else message)
        self.path = path


class CheckpointError(JobError):
    """A checkpoint lacks keys, has wrong shapes, or cannot be read safely."""


class AssetError(TokenmillError):
    """One asset cannot be tokenized; its neighbours go on."""

    def __init__(self, reason: Reason, message: str, *, uri: str = "", stage: str = "") -> None:
        super().__init__(message)
        self.reason = reason
        self.uri = uri
        self.stage = stage


class QualityError(TokenmillError):
    """What a run made breaks a limit on its quality; nothing was committed, and it is kept."""


class TransientError(TokenmillError):
    """A request failed for a passing reason after all its retries."""


class StoreError(TokenmillError):
    """Something is wrong with a store; ``uri`` names it."""

    def __init__(self, message: str, *, uri: str = "") -> None:
        super().__init__(f"{uri}: {message}" if uri else message)
        self.uri = uri


class ConflictError(StoreError):
    """Two commits cannot both hold; ``asked`` and ``found`` are snapshot numbers."""

    def __init__(self, message: str, *, uri: str = "", asked: int = -1, found: int = -1) -> None:
        super().__init__(message, uri=uri)
        self.asked = asked
        self.found = found


class CorruptShardError(StoreError):
    """A file is missing or damaged: its bytes are not those that were written."""


class FingerprintError(StoreError):
    """Samples of another fingerprint or layout were offered; mixed, they would spoil a training."""


class FormatVersionError(StoreError):
    """The store was written by a format version that this library does not know."""


class SnapshotNotFoundError(StoreError):
    """No snapshot answers to the reference that was asked for."""
