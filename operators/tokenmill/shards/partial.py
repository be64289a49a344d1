"""A file that is whole or not there: written beside its path, flushed to disk, then renamed."""

from __future__ import annotations

import os
from pathlib import Path
from types import TracebackType
from typing import Self


class PartialFile:
    """A new binary file at ``path`` that nobody sees before `close`.

    Until then its bytes are in ``<path>.partial``. Leaving its ``with`` block by an exception
    deletes them.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._partial = path.with_name(path.name + ".partial")
        self.file = self._partial.open("wb")

    def close(self) -> None:
        """Flush to disk and put the file in its place; a second call does nothing."""
        if self.file.closed:
            return
        self.file.flush()
        os.fsync(self.file.fileno())
        self.file.close()
        self._partial.replace(self._path)

    def discard(self) -> None:
        """Delete what was written; nothing happens after `close`."""
        if not self.file.closed:
            self.file.close()
            self._partial.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.discard()
