"""What several runs say goes to one place, so each of their lines names its job."""

from __future__ import annotations

import json
import os
import sys
from typing import TextIO, cast

from tokenmill_infra.observe import JsonObserver, Observer, PlainObserver
from tokenmill_pipelines.flows.settings import JSON_LINES


class LabelledStream:
    """Writes lines with their job's name."""

    def __init__(self, stream: TextIO, label: str, *, as_json: bool) -> None:
        self._stream = stream
        self._head = f'{{"job": {json.dumps(label)}, ' if as_json else f"{label}: "
        self._cut = int(as_json)

    def write(self, text: str) -> int:
        """Write a line, or the end of one."""
        return self._stream.write(self._head + text[self._cut :] if text.strip() else text)

    def flush(self) -> None:
        """Flush the stream."""
        self._stream.flush()


def named_observer(name: str) -> Observer:
    """Return an observer whose lines name the job, as JSON if `tokenmill serve` was asked to."""
    as_json = bool(os.environ.get(JSON_LINES))
    stream = cast("TextIO", LabelledStream(sys.stderr, name, as_json=as_json))
    return JsonObserver(stream) if as_json else PlainObserver(stream)
