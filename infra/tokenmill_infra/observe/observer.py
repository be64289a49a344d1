"""What an observer is, and the two that need no library: lines for people, JSON for machines."""

from __future__ import annotations

import contextlib
import datetime
import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from types import MappingProxyType
from typing import Any, Protocol, TextIO

from tokenmill_infra.observe.hops import bottleneck
from tokenmill_infra.observe.pace import Pace

Clock = Callable[[], float]
NOTHING: Mapping[str, Any] = MappingProxyType({})


class Observer(Protocol):
    """Is told what a run does. One thread tells it; it never fails the run."""

    def stage(self, name: str, /) -> AbstractContextManager[None]:
        """Mark the start and the end (or the failure) of a stage and time it."""
        ...

    def progress(
        self,
        done_assets: int,
        total_assets: int,
        *,
        samples: int = 0,
        seconds: Mapping[str, float] = NOTHING,
        threads: Mapping[str, int] = NOTHING,
    ) -> None:
        """Say how far the run is; call it as often as you like.

        ``total_assets`` is 0 while it is unknown. ``samples`` and ``seconds`` (thread-seconds per
        hop) count from the start of the run; ``threads`` says how many threads each hop has.
        """
        ...

    def event(self, name: str, /, **facts: Any) -> None:
        """Say that something happened; ``name`` is a hop's where a hop did it."""
        ...

    def warn(self, message: str, /, **facts: Any) -> None:
        """Say what somebody should look at, though the run goes on."""
        ...


@contextlib.contextmanager
def timed(emit: Callable[..., None], name: str, clock: Clock = time.monotonic) -> Iterator[None]:
    """Emit the event ``name`` at the start and the end of a block, with its wall time."""
    emit(name, state="start")
    start = clock()
    try:
        yield
    except BaseException as error:
        emit(name, state="failed", wall_s=clock() - start, error=type(error).__name__)
        raise
    emit(name, state="end", wall_s=clock() - start)


class SilentObserver:
    """Says nothing."""

    def stage(self, name: str, /) -> AbstractContextManager[None]:
        """Do nothing."""
        del name
        return contextlib.nullcontext()

    def progress(self, done_assets: int, total_assets: int, **facts: Any) -> None:
        """Do nothing."""

    def event(self, name: str, /, **facts: Any) -> None:
        """Do nothing."""

    def warn(self, message: str, /, **facts: Any) -> None:
        """Do nothing."""


class _LineObserver:
    """Writes one line per event; progress at most every ``every_s`` seconds, and when done."""

    def __init__(
        self, stream: TextIO, *, every_s: float = 5.0, clock: Clock = time.monotonic
    ) -> None:
        self._stream = stream
        self._every_s = every_s
        self._clock = clock
        self._pace = Pace()
        self._said_at = float("-inf")
        self._said = (-1, -1)

    def stage(self, name: str, /) -> AbstractContextManager[None]:
        return timed(self.event, name, self._clock)

    def progress(
        self,
        done_assets: int,
        total_assets: int,
        *,
        samples: int = 0,
        seconds: Mapping[str, float] = NOTHING,
        threads: Mapping[str, int] = NOTHING,
    ) -> None:
        now = self._clock()
        self._pace.add(now, done_assets, samples, seconds)
        if not self._due(now, done_assets, total_assets):
            return
        facts: dict[str, Any] = {"done": done_assets}
        if total_assets:
            facts |= {"total": total_assets, "eta_s": self._pace.eta_s(total_assets)}
        facts |= {"samples": samples, "samples_per_s": self._pace.samples_per_s}
        facts["bottleneck"] = bottleneck(self._pace.seconds, threads)
        self.event("progress", **{k: v for k, v in facts.items() if v not in (None, "")})

    def _due(self, now: float, done: int, total: int) -> bool:
        finished = done == total and (done, total) != self._said
        if not finished and now - self._said_at < self._every_s:
            return False
        self._said_at, self._said = now, (done, total)
        return True

    def event(self, name: str, /, **facts: Any) -> None:
        self._write(line(name, facts))

    def warn(self, message: str, /, **facts: Any) -> None:
        self._write(line("warning", {"message": message, **facts}))

    def _write(self, text: str) -> None:
        # A reader who has gone (a closed pipe) must not stop hours of work.
        with contextlib.suppress(OSError, ValueError):
            print(text, file=self._stream, flush=True)


class PlainObserver(_LineObserver):
    """Writes lines for people and log collectors: local time, event, ``key=value`` facts."""


class JsonObserver(_LineObserver):
    """Writes one JSON object a line: ``time`` (RFC 3339, UTC), ``event``, and the facts."""

    def event(self, name: str, /, **facts: Any) -> None:
        """Write the event as JSON."""
        stamp = datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")
        value = {"time": stamp, "event": name} | {k: v for k, v in facts.items() if k != "event"}
        self._write(json.dumps(value, default=str, ensure_ascii=False))

    def warn(self, message: str, /, **facts: Any) -> None:
        """Write the warning as JSON."""
        self.event("warning", message=message, **facts)


def line(name: str, facts: Mapping[str, Any]) -> str:
    """Return ``12:34:56 name key=value ...``; values with spaces or quotes are JSON strings."""
    stamp = datetime.datetime.now().astimezone().strftime("%H:%M:%S")
    return " ".join([stamp, name, *(f"{key}={_value(value)}" for key, value in facts.items())])


def _value(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.1f}" if abs(value) >= 100 else f"{value:.3g}"
    text = str(value)
    plain = text and text.isprintable() and not set(text) & set(' "=')
    return text if plain else json.dumps(text, ensure_ascii=False)
