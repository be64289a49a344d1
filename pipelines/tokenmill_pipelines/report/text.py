"""Numbers as people read them."""

from __future__ import annotations

import math


def count(value: float) -> str:
    """Return a count with thousands apart, shortened from a million on: ``12,345``, ``1.23 M``."""
    for limit, suffix in ((1e12, "T"), (1e9, "G"), (1e6, "M")):
        if value >= limit:
            return f"{value / limit:.3g} {suffix}" if value < 999.5 * limit else f"{value:,.0f}"
    return f"{value:,.0f}"


def size(value: float) -> str:
    """Return a number of bytes in decimal units: ``1.23 MB``."""
    for limit, suffix in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if value >= limit:
            return f"{value / limit:.3g} {suffix}"
    return f"{value:.0f} B"


def rate(value: float) -> str:
    """Return a rate with three digits: ``0.012``, ``12.3``, ``12,345``, ``1.23 M``."""
    if value <= 0:
        return "0"
    return count(value) if value >= 100 else f"{value:.3g}"


def duration(seconds: float) -> str:
    """Return a duration: ``4.2 ms``, ``0.42 s``, ``42.0 s``, ``3 min 5 s``, ``2 h 10 min``."""
    if 0 < seconds < 0.1:
        return f"{1000 * seconds:.2g} ms"
    if seconds < 10:
        return f"{seconds:.2f} s"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def decibels(value: float | None) -> str:
    """Return a PSNR: ``23.4 dB``, or the infinity sign for equal pictures."""
    if value is None:
        return "none"
    return f"{value:.1f} dB" if math.isfinite(value) else "∞ dB"


def percent(share: float) -> str:
    """Return a share in percent: ``< 0.1 %``, ``0.3 %``, ``42 %``."""
    value = 100 * share
    if 0 < value < 0.1:
        return "< 0.1 %"
    return f"{value:.1f} %" if 0 < value < 10 or 99 < value < 100 else f"{value:.0f} %"
