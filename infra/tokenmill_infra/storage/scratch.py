"""Scratch folders: where a shard is spooled before `Storage.create_from` takes it."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tokenmill_infra.storage.local import SCRATCH, make_folder
from tokenmill_infra.storage.locked import locked_folder, sweep
from tokenmill_infra.storage.storage import Storage


@contextmanager
def scratch(storage: Storage | None = None) -> Iterator[Path]:
    """Give an empty folder for files on their way into ``storage``, removed at the end.

    In a local storage it lies inside the root, hidden, so that files move by linking; for an object
    store, and for files that no storage will get, it lies in the machine's temporary folder.
    """
    parent = storage.local(SCRATCH) if storage is not None else None
    if parent is not None:
        make_folder(parent.parent)
    else:
        # The user's id in the name: the temporary folder is shared between users.
        parent = Path(tempfile.gettempdir()) / f"tokenmill-scratch-{os.getuid()}"
    sweep(parent)
    with locked_folder(parent) as folder:
        yield folder


def sweep_scratch(storage: Storage) -> None:
    """Remove what killed processes left of files on their way into a local storage.

    Every `scratch` does so before; this is for those who may have nothing to write.
    """
    parent = storage.local(SCRATCH)
    if parent is not None:
        sweep(parent)
