"""Token statistics, gathered while encoding: codebook use, entropy, moments of latents.

Actors fill a `TokenStatistics` per unit, receipts carry its JSON, and the report merges them, so
that nobody reads a store twice to know how its codebook is used. Merging in any order gives the
same counts (and moments up to rounding).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy.typing as npt

from tokenmill.worker.stream_statistics import (
    BitStatistics,
    FloatStatistics,
    IndexStatistics,
    StreamStatistics,
)
from tokenmill_schemas.tokens import Stream, TokenSpec


class TokenStatistics:
    """The statistics of all streams of a unit, or of a run; one thread fills it."""

    def __init__(self, streams: Mapping[str, StreamStatistics] | None = None) -> None:
        self.streams: dict[str, StreamStatistics] = dict(streams or {})

    @classmethod
    def of(cls, spec: TokenSpec) -> TokenStatistics:
        """Return empty statistics for the streams of ``spec``."""
        return cls({stream.name: _empty(stream) for stream in spec.streams})

    def add(self, tokens: Mapping[str, npt.NDArray[Any]]) -> None:
        """Count a batch: one array ``[B, *stream shape]`` per stream.

        Raises:
            ValueError: an id is outside its stream's vocabulary.
        """
        for name, values in tokens.items():
            self.streams[name].add(values)

    def merge(self, other: TokenStatistics) -> None:
        """Add another part's statistics; streams that only it has are taken over.

        Raises:
            ValueError: a stream differs in kind or size.
        """
        for name, part in other.streams.items():
            mine = self.streams.get(name)
            if mine is None:
                self.streams[name] = _from_json(part.to_json())
            elif mine.kind != part.kind:
                raise ValueError(f"stream {name!r} is {mine.kind} here and {part.kind} there")
            else:
                mine.merge(part)

    def to_json(self) -> dict[str, Any]:
        """Return a JSON value from which `from_json` makes equal statistics."""
        return {name: stream.to_json() for name, stream in self.streams.items()}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> TokenStatistics:
        """Return what `to_json` wrote; an empty mapping (a unit of rejects only) has no streams."""
        return cls({name: _from_json(part) for name, part in value.items()})


def merged(parts: Iterable[Mapping[str, Any]]) -> TokenStatistics:
    """Return the statistics of all ``parts``, each as `TokenStatistics.to_json` wrote it."""
    whole = TokenStatistics()
    for part in parts:
        whole.merge(TokenStatistics.from_json(part))
    return whole


def _empty(stream: Stream) -> StreamStatistics:
    if stream.kind == "index":
        return IndexStatistics(stream.vocab_sizes)
    if stream.kind == "bits":
        return BitStatistics(stream.width_bits)
    return FloatStatistics(stream.channels)


def _from_json(value: Mapping[str, Any]) -> StreamStatistics:
    if value["kind"] == IndexStatistics.kind:
        return IndexStatistics.from_json(value)
    if value["kind"] == BitStatistics.kind:
        return BitStatistics.from_json(value)
    return FloatStatistics.from_json(value)
