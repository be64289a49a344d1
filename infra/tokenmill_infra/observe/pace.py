"""How fast a run goes now: rates over a sliding window, so that they follow a change."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping


class Pace:
    """Remembers the last ``window_s`` seconds of totals and says their rates.

    Work done before the first total (a resumed run starts with some) counts for no rate. Units
    finish in bursts, so the window is wide, and it always spans at least the last two totals.
    """

    def __init__(self, window_s: float = 120.0) -> None:
        self._window_s = window_s
        self._points: deque[tuple[float, int, int, dict[str, float]]] = deque()

    def add(self, now: float, assets: int, samples: int, seconds: Mapping[str, float]) -> None:
        """Take the totals at time ``now`` (seconds of a monotonic clock)."""
        points = self._points
        if points and assets < points[-1][1]:
            points.clear()  # another stage began to count
        points.append((now, assets, samples, dict(seconds)))
        while len(points) > 2 and now - points[1][0] >= self._window_s:
            points.popleft()

    @property
    def assets_per_s(self) -> float | None:
        """Assets per second, None while unknown."""
        return self._rate(1)

    @property
    def samples_per_s(self) -> float | None:
        """Samples per second, None while unknown."""
        return self._rate(2)

    @property
    def seconds(self) -> dict[str, float]:
        """Thread-seconds per hop within the window; of the whole run until two totals differ."""
        if not self._points:
            return {}
        first, last = self._points[0][3], self._points[-1][3]
        recent = {hop: spent - first.get(hop, 0.0) for hop, spent in last.items()}
        return recent if any(spent > 0 for spent in recent.values()) else dict(last)

    def eta_s(self, total_assets: int) -> float | None:
        """Seconds until ``total_assets`` are done at this rate, None while unknown."""
        rate = self.assets_per_s
        return (total_assets - self._points[-1][1]) / rate if rate else None

    def _rate(self, index: int) -> float | None:
        if len(self._points) < 2:
            return None
        first, last = self._points[0], self._points[-1]
        passed = last[0] - first[0]
        grown = float(last[index]) - float(first[index])  # type: ignore[arg-type]  # index is 1 or 2
        return grown / passed if passed > 0 and grown > 0 else None
