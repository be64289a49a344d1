"""Curves of a tokenizer itself: over prefixes of its tokens, and over the share of wrong ids."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from tokenmill.measures import frechet_distance
from tokenmill.tokenizers.base import Encoder, Tokens
from tokenmill.views.base import Array, ViewKind
from tokenmill_pipelines.judge.codecs import Point, mean_values
from tokenmill_pipelines.judge.features import Features, Floats
from tokenmill_pipelines.judge.items import FAILURES, Coded, as_view
from tokenmill_pipelines.judge.measuring import Original, Values, units_of
from tokenmill_pipelines.judge.perturbing import Mode, Perturbation
from tokenmill_pipelines.judge.scores import token_bits
from tokenmill_pipelines.judge.settings import Settings
from tokenmill_schemas.tokens import TokenSpec

#: Kinds whose decoders take any ids; others' are sequences with a grammar.
PERTURBED: tuple[ViewKind, ...] = ("image", "clip", "voxels", "points")
FRECHET = "frechet"


@dataclass(frozen=True, slots=True)
class PerturbedCurve:
    """A perturbed-latent curve; a point's ``setting`` is the share of ids that are replaced.

    ``features`` names what the points' ``frechet`` is a distance on, "" without one.
    """

    mode: Mode
    how: str
    features: str
    points: tuple[Point, ...]


@dataclass(slots=True)
class _Gathered:
    """What is known of one point of a curve so far."""

    rates: list[float] = field(default_factory=list)
    values: list[Values] = field(default_factory=list)
    features: list[Floats] = field(default_factory=list)


class PerturbedTally:
    """Gathers perturbed-latent curves."""

    def __init__(
        self,
        encoder: Encoder,
        spec: TokenSpec,
        *,
        kind: ViewKind,
        settings: Settings,
        features: Features,
        levels: Mapping[str, tuple[int, ...]],
    ) -> None:
        self._encoder = encoder
        self._spec = spec
        self._kind: ViewKind = kind
        self._rates = tuple(sorted(set(settings.rates)))
        self._features = features if kind == "image" else None
        self._change = Perturbation(encoder, spec, levels=levels, seed=settings.seed)
        able = kind in PERTURBED and bool(self._change.modes)
        self._points: dict[tuple[Mode, float], _Gathered] = {
            (mode, rate): _Gathered()
            for mode in (self._change.modes if able else ())
            for rate in self._rates
        }
        self._originals: list[Floats] = []
        self.failed = ""

    @property
    def why_not(self) -> str:
        """Why there is no curve, "" if there is one."""
        if self._kind not in PERTURBED:
            return f"tokens of {self._kind} views are sequences with a grammar"
        if not self._points:
            return "the tokens are continuous"
        return self.failed

    def add(self, coded: Coded, original: Original) -> None:
        """Perturb, decode and measure one view at every rate."""
        if self.why_not:
            return
        if self._features:
            self._originals.append(self._features.of(original.data))
        for (mode, rate), gathered in self._points.items():
            key = f"{coded.item.key}/{coded.item.view}"
            tokens = self._change.apply(coded.tokens, mode, rate, key=key)
            self._add(tokens, original, gathered)

    def _add(self, tokens: Tokens, original: Original, gathered: _Gathered) -> None:
        try:
            decoded = _decoded(self._encoder, tokens, original.data)
            values = original.compare(decoded)
        except FAILURES as error:
            self.failed = f"its decoder refuses changed ids: {error}"
            return
        bits = token_bits(self._spec, tokens, "bits") / units_of(self._kind, original.data)
        gathered.rates.append(bits)
        gathered.values.append(values)
        if self._features:
            gathered.features.append(self._features.of(decoded))

    def curves(self) -> tuple[PerturbedCurve, ...]:
        """Return a curve for each way of perturbing."""
        if self.why_not:
            return ()
        found = []
        for mode in self._change.modes:
            rows = [(rate, self._points[mode, rate]) for rate in self._rates]
            points = tuple(self._point(rate, row) for rate, row in rows if row.values)
            name = self._features.name if self._features else ""
            found.append(PerturbedCurve(mode, self._change.how(mode), name, points))
        return tuple(found)

    def _point(self, rate: float, row: _Gathered) -> Point:
        values = mean_values(row.values)
        if row.features and sum(map(len, row.features)) >= 2:
            originals, changed = np.concatenate(self._originals), np.concatenate(row.features)
            values[FRECHET] = frechet_distance(originals, changed)
        return Point(rate, float(np.mean(row.rates)), values)


class PrefixTally:
    """Gathers the curve over prefixes of streams that decode from any of them."""

    def __init__(
        self, encoder: Encoder, spec: TokenSpec, *, kind: ViewKind, settings: Settings
    ) -> None:
        self._encoder = encoder
        self._spec = spec
        self._kind: ViewKind = kind
        able = len(spec.streams) == 1 and spec.streams[0].min_prefix > 0
        self._stream = spec.streams[0] if able else None
        self._lengths = settings.prefixes
        self._points: dict[int, _Gathered] = {}
        self.failed = ""

    @property
    def why_not(self) -> str:
        """Why there is no curve, "" if there is one."""
        return self.failed if self._stream else "no prefix of the tokens decodes"

    def add(self, coded: Coded, original: Original) -> None:
        """Decode and measure every prefix of one view's tokens that is not longer than they are."""
        if self._stream is None or self.failed:
            return
        values = np.asarray(coded.tokens[self._stream.name])
        whole = values.shape[1]
        for length in sorted({*self._lengths, whole}):
            if not self._stream.min_prefix <= length <= whole:
                continue
            tokens = {self._stream.name: values[:, :length]}
            try:
                found = original.compare(_decoded(self._encoder, tokens, original.data))
            except FAILURES as error:
                self.failed = f"its decoder refuses a prefix of {length}: {error}"
                return
            gathered = self._points.setdefault(length, _Gathered())
            bits = token_bits(self._spec, tokens, "bits") / units_of(self._kind, coded.item.data)
            gathered.rates.append(bits)
            gathered.values.append(found)

    def points(self) -> tuple[Point, ...]:
        """Return the curve, from few tokens to many; none where any of it failed."""
        return (
            ()
            if self.failed
            else tuple(
                Point(length, float(np.mean(row.rates)), mean_values(row.values))
                for length, row in sorted(self._points.items())
            )
        )


def _decoded(encoder: Encoder, tokens: Tokens, original: Array) -> Array:
    return as_view(np.asarray(encoder.decode(tokens)[0]), original)
