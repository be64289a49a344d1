"""Scores: the figures of every judged view, and what they come to together."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from tokenmill.tokenizers.base import Encoder, Tokens
from tokenmill.views.base import Array, ViewKind
from tokenmill.worker.statistics import TokenStatistics
from tokenmill.worker.stream_statistics import BitStatistics, IndexStatistics
from tokenmill_pipelines.judge.items import Coded, Failure, Item, code, failure, items_of
from tokenmill_pipelines.judge.measuring import (
    MEASURES,
    UNITS,
    Measure,
    Values,
    measure,
    units_of,
)
from tokenmill_schemas.arrow import Packing, stored_bits
from tokenmill_schemas.errors import Reason
from tokenmill_schemas.tokens import Stream, TokenSpec

#: What views of no named class are called.
UNNAMED = "unnamed"


@dataclass(frozen=True, slots=True)
class ViewScore:
    """One view's figures; ``units`` are its pixels, cells, points, faces or splats.

    ``packed_bits`` are its tokens' bits as the spec counts them, an id of V in ceil(log2 V);
    ``stored_bits`` what they take in a shard that is not packed.
    """

    key: str
    content: str
    view: str
    values: Values
    units: int
    packed_bits: int
    stored_bits: int

    @property
    def packed_bytes(self) -> int:
        """Whole bytes of the packed tokens."""
        return -(-self.packed_bits // 8)


@dataclass(frozen=True, slots=True)
class Figure:
    """One measure over several views."""

    count: int
    mean: float
    median: float
    lowest: float
    highest: float


@dataclass(frozen=True, slots=True)
class StreamUse:
    """How a stream's ids or codes were used.

    ``entropy_bits`` is of one id or code at one position, from their frequencies alone: exact for
    ids unless ``is_bound``, where it is a lower bound (hashed counts), and of binary codes an upper
    one. It cannot exceed log2 of ``tokens``. ``possible`` and ``used`` are 0 for what is no id;
    ``packed_bits`` are those of one id, code or latent vector.
    """

    name: str
    kind: str
    tokens: int
    possible: int
    used: int
    entropy_bits: float
    is_bound: bool
    packed_bits: int

    @property
    def used_share(self) -> float:
        """Which part of the possible ids was used."""
        return self.used / self.possible if self.possible else 0.0


@dataclass(frozen=True, slots=True)
class Scores:
    """What a tokenizer made of some views.

    ``bits_per_unit`` has the bits per pixel (cell, ...) of tokens that are ``packed``, ``stored``
    without packing, and ``entropy``, what an ideal coder would need that knows the frequencies.
    """

    kind: ViewKind
    views: tuple[ViewScore, ...]
    streams: tuple[StreamUse, ...]
    failures: tuple[Failure, ...] = ()

    @property
    def measures(self) -> tuple[Measure, ...]:
        """The measures that any view has, the main one first."""
        return tuple(
            one for one in MEASURES[self.kind] if any(one.key in v.values for v in self.views)
        )

    @property
    def contents(self) -> tuple[str, ...]:
        """The classes of content, sorted."""
        return tuple(sorted({view.content for view in self.views}))

    def figure(self, key: str, content: str | None = None) -> Figure | None:
        """Return a measure over all views, or over those of one class; None where none has it."""
        values = [
            view.values[key]
            for view in self.views
            if key in view.values and content in (None, view.content)
        ]
        values = [value for value in values if math.isfinite(value)]
        if not values:
            return None
        middle = statistics.median(values)
        return Figure(len(values), statistics.fmean(values), middle, min(values), max(values))

    def mean(self, key: str) -> float:
        """Return the mean of a measure over all views, NaN where none has it."""
        found = self.figure(key)
        return found.mean if found else math.nan

    @property
    def bits_per_unit(self) -> dict[str, float]:
        """Bits per pixel, cell, point, face or splat: ``packed``, ``stored``, ``entropy``."""
        units = max(1, sum(view.units for view in self.views))
        packed = sum(view.packed_bits for view in self.views)
        stored = sum(view.stored_bits for view in self.views)
        entropy = sum(use.tokens * use.entropy_bits for use in self.streams)
        found = {"packed": packed / units, "stored": stored / units}
        coded = all(use.kind != "float" for use in self.streams)
        return found | ({"entropy": entropy / units} if coded else {})

    @property
    def unit(self) -> str:
        """What `bits_per_unit` is per."""
        return UNITS[self.kind]


class Tally:
    """Gathers scores, view by view."""

    def __init__(self, spec: TokenSpec, kind: ViewKind) -> None:
        self.kind: ViewKind = kind
        self._spec = spec
        self._views: list[ViewScore] = []
        self._failures: list[Failure] = []
        self._statistics = TokenStatistics.of(spec)

    def add(self, coded: Coded | Failure) -> ViewScore | None:
        """Count one view; None where it has no score."""
        if isinstance(coded, Failure):
            self._failures.append(coded)
            return None
        item = coded.item
        try:
            values = measure(self.kind, item.data, coded.decoded)
            self._statistics.add(coded.tokens)
        except ValueError as error:
            self._failures.append(failure(item.key, error, Reason.ENCODE_FAILED))
            return None
        score = ViewScore(
            item.key,
            item.content or UNNAMED,
            item.view,
            values,
            units_of(self.kind, item.data),
            token_bits(self._spec, coded.tokens, "bits"),
            token_bits(self._spec, coded.tokens, "raw"),
        )
        self._views.append(score)
        return score

    def scores(self) -> Scores:
        """Return what was gathered so far."""
        found = self._statistics.streams
        uses = tuple(stream_use(s, found[s.name]) for s in self._spec.streams)
        return Scores(self.kind, tuple(self._views), uses, tuple(self._failures))


def token_bits(spec: TokenSpec, tokens: Tokens, packing: Packing) -> int:
    """Return the bits that one view's tokens (a leading axis of one) take."""
    return sum(
        _positions(stream, np.asarray(tokens[stream.name])) * stored_bits(stream, packing)
        for stream in spec.streams
    )


def _positions(stream: Stream, values: Array) -> int:
    return (
        values.size
        // {"index": 1, "bits": stream.width_bits, "float": stream.channels}[stream.kind]
    )


def stream_use(stream: Stream, found: Any) -> StreamUse:
    """Return what the statistics of a stream come to."""
    bits = stored_bits(stream, "bits")
    possible = used = 0
    entropy, bound = 0.0, True
    if isinstance(found, IndexStatistics):
        possible, used = found.vocab, found.distinct
        entropy, bound = found.entropy_bits, not found.is_exact
    elif isinstance(found, BitStatistics):
        entropy = found.entropy_bits
    return StreamUse(stream.name, stream.kind, found.tokens, possible, used, entropy, bound, bits)


def measure_views(
    encoder: Encoder, spec: TokenSpec, views: Iterable[Array | Item], *, kind: ViewKind = "image"
) -> Scores:
    """Return the scores of an encoder on views in memory; neither files nor reports are touched.

    Args:
        encoder: what `Tokenizer.load` gives, or any live encoder with a decoder.
        spec: of its tokens.
        views: arrays as `tokenmill.views.base.ViewKind` says, or `Item` with names and classes.
        kind: of the views.
    """
    tally = Tally(spec, kind)
    for coded in code(encoder, items_of(views)):
        tally.add(coded)
    return tally.scores()
