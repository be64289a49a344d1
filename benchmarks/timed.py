"""A tokenizer that notes when each of its batches was done; otherwise it is the one inside.

Every process that loads it appends JSON lines to a file of its own: wall time, samples, and the CPU
seconds of the process so far. The first line, of no samples, is the end of the load.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tokenmill.tokenizers import open_tokenizer
from tokenmill.tokenizers.base import Encoder, Tokenizer, Tokens
from tokenmill.views.base import ViewKind
from tokenmill_schemas.resources import Resources
from tokenmill_schemas.tokens import TokenSpec


@dataclass(frozen=True, slots=True)
class Timed:
    """The tokenizer ``inner`` with ``options``; every process appends to a file in ``log``."""

    inner: str
    options: dict[str, Any] = field(default_factory=dict)
    log: str = ""

    @property
    def tokenizer(self) -> Tokenizer:
        """The one inside."""
        return open_tokenizer(self.inner, **self.options)

    @property
    def identity(self) -> dict[str, Any]:
        """The inner one's."""
        return self.tokenizer.identity

    @property
    def takes(self) -> tuple[ViewKind, ...]:
        """The inner one's."""
        return self.tokenizer.takes

    @property
    def resources(self) -> Resources:
        """The inner one's."""
        return self.tokenizer.resources

    @property
    def default_view(self) -> dict[str, Any]:
        """The inner one's."""
        return self.tokenizer.default_view

    @property
    def can_decode(self) -> bool:
        """No: the report, which is not measured, would show what was decoded."""
        return False

    def spec(self, shape: Any, /) -> TokenSpec:
        """Return the inner one's."""
        return self.tokenizer.spec(shape)

    def load(self, device: str = "cpu") -> TimedEncoder:
        """Load the inner one."""
        return TimedEncoder(self.tokenizer.load(device), Path(self.log) / f"{os.getpid()}.jsonl")


class TimedEncoder:
    """Appends a line after the load and after every batch."""

    def __init__(self, encoder: Encoder, file: Path) -> None:
        self._encoder, self._file = encoder, file
        file.parent.mkdir(parents=True, exist_ok=True)
        self._note(0)

    def _note(self, count: int) -> None:
        with self._file.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps([time.time(), count, time.process_time()]) + "\n")

    def preprocess(self, views: Any) -> Any:
        """As the inner one."""
        return self._encoder.preprocess(views)

    def encode(self, inputs: Any) -> Tokens:
        """As the inner one, and a line in the log."""
        tokens = self._encoder.encode(inputs)
        self._note(len(next(iter(tokens.values()))))
        return tokens

    def decode(self, tokens: Mapping[str, Any]) -> Any:
        """As the inner one."""
        return self._encoder.decode(tokens)

    def close(self) -> None:
        """As the inner one."""
        self._encoder.close()


def steady_rate(log: Path) -> float:
    """Return samples per second from the end of the first batch to the end of the last."""
    lines = [line for file in log.glob("*.jsonl") for line in file.read_text().splitlines()]
    batches = sorted((when, count) for when, count, _ in map(json.loads, lines) if count)
    if len(batches) < 2:
        return float("nan")
    return float(sum(count for _, count in batches[1:]) / (batches[-1][0] - batches[0][0]))


def loaded_cpu_s(log: Path) -> dict[int, float]:
    """Return, by process, the CPU seconds that it had used when its model was loaded."""
    return {
        int(file.stem): float(json.loads(file.read_text().splitlines()[0])[2])
        for file in log.glob("*.jsonl")
    }


def ready_at(log: Path) -> float:
    """Return when the first model was loaded, by `time.time`."""
    return min(float(json.loads(f.read_text().splitlines()[0])[0]) for f in log.glob("*.jsonl"))
