"""The observer of a terminal: a bar with rate, time left and the hop that limits the rate."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping
from typing import Any, TextIO

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)
from rich.text import Text

from tokenmill_infra.observe.hops import HOP_NAMES, bottleneck
from tokenmill_infra.observe.observer import NOTHING, Clock, line
from tokenmill_infra.observe.pace import Pace


class RichObserver:
    """Draws progress on a terminal.

    Events of hops show as the bar's movement; other events and warnings are lines above it. The
    display lives from the outermost stage's start to its end, so a failed run leaves no cursor
    hidden.
    """

    def __init__(self, stream: TextIO, *, clock: Clock = time.monotonic) -> None:
        self._console = Console(file=stream, highlight=False)
        self._clock = clock
        self._bars: Progress | None = None
        self._tasks: list[tuple[TaskID, Pace]] = []

    @contextlib.contextmanager
    def stage(self, name: str, /) -> Iterator[None]:
        """Show a bar while the stage runs and leave a line with its wall time."""
        start = self._clock()
        self._push(name)
        mark = ("✗", "red")
        try:
            yield
            mark = ("✓", "green")
        finally:
            self._pop()
            wall_s = self._clock() - start
            self._console.print(Text(mark[0], style=mark[1]), name, f"{duration(wall_s)}")

    def _push(self, name: str) -> None:
        if self._bars is None:
            self._bars = Progress(
                SpinnerColumn(),
                TextColumn("{task.description}"),
                BarColumn(bar_width=30),
                TextColumn("{task.fields[done]}"),
                TextColumn("{task.fields[pace]}"),
                TimeElapsedColumn(),
                console=self._console,
                transient=True,
            )
            self._bars.start()
        self._tasks.append((self._bars.add_task(name, total=None, done="", pace=""), Pace()))

    def _pop(self) -> None:
        task, _ = self._tasks.pop()
        if self._bars is not None:
            self._bars.remove_task(task)
            if not self._tasks:
                self._bars.stop()
                self._bars = None

    def progress(
        self,
        done_assets: int,
        total_assets: int,
        *,
        samples: int = 0,
        seconds: Mapping[str, float] = NOTHING,
        threads: Mapping[str, int] = NOTHING,
    ) -> None:
        """Move the innermost stage's bar."""
        if self._bars is None:
            return
        task, pace = self._tasks[-1]
        pace.add(self._clock(), done_assets, samples, seconds)
        self._bars.update(
            task,
            completed=done_assets,
            total=total_assets or None,
            done=f"{done_assets:,}/{total_assets:,}" if total_assets else f"{done_assets:,}",
            pace=describe(pace, total_assets, bottleneck(pace.seconds, threads)),
        )

    def event(self, name: str, /, **facts: Any) -> None:
        """Print the event, unless the bar already shows it."""
        if name not in HOP_NAMES:
            self._console.print(Text(line(name, facts), style="dim"))

    def warn(self, message: str, /, **facts: Any) -> None:
        """Print the warning."""
        self._console.print(Text(line("warning", {"message": message, **facts}), style="yellow"))


def describe(pace: Pace, total_assets: int, limit: str) -> str:
    """Return ``123.4 samples/s · 2 min left · encode limits``, as far as it is known."""
    parts: list[str] = []
    if rate := pace.samples_per_s:
        parts.append(f"{rate:,.1f} samples/s")
    if total_assets and (eta_s := pace.eta_s(total_assets)) is not None:
        parts.append(f"{duration(eta_s)} left")
    if limit:
        parts.append(f"{limit} limits")
    return " · ".join(parts)


def duration(seconds: float) -> str:
    """Return a duration in the units that people use: ``0.42 s``, ``3 min 5 s``, ``2 h 10 min``."""
    if seconds < 60:
        return f"{seconds:.2f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"
