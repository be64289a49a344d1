"""The JSON files of a store (snapshots, tags, receipts) read back, or told to be damaged."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, TypeVar

from tokenmill_infra.storage.storage import Storage
from tokenmill_schemas.errors import CorruptShardError

T = TypeVar("T")


def read_record(storage: Storage, path: str, parse: Callable[[Any], T]) -> T:
    """Return what ``parse`` makes of a JSON file.

    Raises:
        FileNotFoundError: there is no such file.
        CorruptShardError: it is damaged: no JSON, or a key is missing or of a wrong type.
        StoreError: ``parse`` refused it.
    """
    return parse_record(storage, path, storage.read(path), parse)


def parse_record(storage: Storage, path: str, data: bytes, parse: Callable[[Any], T]) -> T:
    """Return what ``parse`` makes of the bytes ``data`` of a JSON file.

    Raises:
        CorruptShardError: it is damaged: no JSON, or a key is missing or of a wrong type.
        StoreError: ``parse`` refused it.
    """
    try:
        return parse(json.loads(data))
    except KeyError as error:
        raise _damaged(storage, path, f"no key {error}") from error
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise _damaged(storage, path, str(error)) from error


def _damaged(storage: Storage, path: str, why: str) -> CorruptShardError:
    return CorruptShardError(f"{path} is damaged: {why}", uri=storage.uri)
