"""Observing a run: hop names and metrics, log events, progress.

An `Observer` is handed to what runs and told what happens; nothing here is global and nothing is
set up at import. `choose` picks the one that fits where its lines go.
"""

from __future__ import annotations

from typing import TextIO

from tokenmill_infra.observe.hops import HOP_NAMES, HOPS, Hop, bottleneck
from tokenmill_infra.observe.observer import (
    JsonObserver,
    Observer,
    PlainObserver,
    SilentObserver,
)

__all__ = [
    "HOPS",
    "HOP_NAMES",
    "Hop",
    "JsonObserver",
    "Observer",
    "PlainObserver",
    "SilentObserver",
    "bottleneck",
    "choose",
]


def choose(*, json: bool, stream: TextIO) -> Observer:
    """Return JSON lines if asked, bars on a terminal where rich is installed, else plain lines."""
    if json:
        return JsonObserver(stream)
    if stream.isatty():
        try:
            from tokenmill_infra.observe.bars import RichObserver  # rich is slow to import
        except ImportError:
            return PlainObserver(stream)
        return RichObserver(stream)
    return PlainObserver(stream)
