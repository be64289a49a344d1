"""The verdict: everything that a report says, as data and as a JSON document."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from tokenmill.views.base import Array, ViewKind
from tokenmill_pipelines.judge.codecs import EqualBytes, Point
from tokenmill_pipelines.judge.curves import PerturbedCurve
from tokenmill_pipelines.judge.faces import FaceScore
from tokenmill_pipelines.judge.items import Failure, Item
from tokenmill_pipelines.judge.measuring import MEASURES, Measure
from tokenmill_pipelines.judge.scores import Figure, Scores, StreamUse, ViewScore
from tokenmill_pipelines.judge.texts import TextScore

FORMAT = "tokenmill-judge"
#: Raised when a key of the document changes its meaning or goes.
VERSION = 1
#: Significant digits of figures: further ones differ between machines' ways of summing.
DIGITS = 6


@dataclass(frozen=True, slots=True)
class Shown:
    """A view in the report's contact sheet: ``place`` is worst, middle or best."""

    place: str
    item: Item
    decoded: Array
    values: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Judged:
    """One tokenizer's part of a verdict; ``not_measured`` says of each part left out why."""

    name: str
    identity: Mapping[str, Any]
    tokens_per_view: float
    scores: Scores
    equal_bytes: tuple[EqualBytes, ...] = ()
    prefixes: tuple[Point, ...] = ()
    perturbed: tuple[PerturbedCurve, ...] = ()
    text: TextScore | None = None
    faces: FaceScore | None = None
    not_measured: Mapping[str, str] = field(default_factory=dict)
    shown: tuple[Shown, ...] = ()
    seconds: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a judgement found: ``codecs`` has a curve for each codec, ``assets`` counts.

    ``listed`` assets are of the modalities that the view reads, ``chosen`` of them were judged, and
    ``failures`` gave no view.
    """

    judged: tuple[Judged, ...]
    codecs: Mapping[str, tuple[Point, ...]]
    view: Mapping[str, Any]
    kind: ViewKind
    listed: int
    chosen: int
    failures: tuple[Failure, ...]
    settings: Mapping[str, Any]
    data: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def measures(self) -> tuple[Measure, ...]:
        """The measures of this kind of view that any tokenizer has."""
        there = {one.key for judged in self.judged for one in judged.scores.measures}
        return tuple(one for one in MEASURES[self.kind] if one.key in there)

    @property
    def failed(self) -> bool:
        """Whether any asset, or any view in any tokenizer, could not be judged."""
        return bool(self.failures) or any(one.scores.failures for one in self.judged)

    def to_json(self) -> dict[str, Any]:
        """Return the document; equal inputs differ in ``environment`` and ``seconds`` alone."""
        return {
            "format": FORMAT,
            "version": VERSION,
            "data": self.data,
            "kind": self.kind,
            "view": _plain(self.view),
            "settings": _plain(self.settings),
            "assets": {
                "listed": self.listed,
                "chosen": self.chosen,
                "without_views": [asdict(one) for one in self.failures],
            },
            "tokenizers": [_judged(one) for one in self.judged],
            "codecs": {name: _points(points) for name, points in self.codecs.items()},
            "environment": dict(self.environment),
        }


def _judged(judged: Judged) -> dict[str, Any]:
    scores = judged.scores
    return {
        "name": judged.name,
        "identity": _plain(judged.identity),
        "views": len(scores.views),
        "failures": [asdict(one) for one in scores.failures],
        "tokens_per_view": _round(judged.tokens_per_view),
        "figures": _figures(scores, None),
        "by_content": {
            name: {"views": _count(scores, name), **_figures(scores, name)}
            for name in scores.contents
        },
        f"bits_per_{scores.unit}": {k: _round(v) for k, v in scores.bits_per_unit.items()},
        "streams": [_stream(use) for use in scores.streams],
        "equal_bytes": [_equal(one) for one in judged.equal_bytes],
        "prefixes": _points(judged.prefixes),
        "perturbed": [_curve(one) for one in judged.perturbed],
        "text": _rounded(asdict(judged.text)) if judged.text else None,
        "faces": _rounded(asdict(judged.faces)) if judged.faces else None,
        "not_measured": dict(judged.not_measured),
        "each": [_view(one) for one in scores.views],
        "seconds": {name: round(value, 3) for name, value in judged.seconds.items()},
    }


def _count(scores: Scores, content: str) -> int:
    return sum(view.content == content for view in scores.views)


def _figures(scores: Scores, content: str | None) -> dict[str, Any]:
    found: dict[str, Figure | None]
    found = {one.key: scores.figure(one.key, content) for one in MEASURES[scores.kind]}
    return {key: _rounded(asdict(value)) for key, value in found.items() if value is not None}


def _stream(use: StreamUse) -> dict[str, Any]:
    return _rounded(asdict(use) | {"used_share": use.used_share})


def _view(view: ViewScore) -> dict[str, Any]:
    return {
        "key": view.key,
        "view": view.view,
        "content": view.content,
        **_rounded(view.values),
        "packed_bytes": view.packed_bytes,
    }


def _equal(one: EqualBytes) -> dict[str, Any]:
    row = asdict(one)
    return _rounded({k: v for k, v in row.items() if k != "values"} | row["values"])


def _points(points: tuple[Point, ...]) -> list[dict[str, Any]]:
    return [
        _rounded({"setting": p.setting, "bits_per_unit": p.bits_per_unit, **p.values})
        for p in points
    ]


def _curve(curve: PerturbedCurve) -> dict[str, Any]:
    return {
        "mode": curve.mode,
        "how": curve.how,
        "features": curve.features,
        "points": _points(curve.points),
    }


def _rounded(row: Mapping[str, Any]) -> dict[str, Any]:
    return {key: _round(value) for key, value in row.items()}


def _round(value: Any) -> Any:
    """Return a number with `DIGITS` significant digits; what is no finite number is null."""
    if not isinstance(value, float):
        return value
    return float(f"{value:.{DIGITS}g}") if math.isfinite(value) else None


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    return value
