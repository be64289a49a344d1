"""The plots of a verdict."""

from __future__ import annotations

from collections.abc import Iterator

from tokenmill_pipelines.judge.curves import FRECHET
from tokenmill_pipelines.judge.measuring import Measure
from tokenmill_pipelines.judge.verdict import Judged, Verdict
from tokenmill_pipelines.report.plots import Line, Plot, Series

#: Told apart on light and on dark ground, and by people who see fewer colours.
TOKENIZERS = ("#c2571a", "#2f7fb0", "#3d8f57", "#9a57a8", "#b09a1d", "#6b6f76")
CODECS: dict[str, tuple[str, str, Line]] = {
    "jpeg": ("JPEG", "#8a8f96", "solid"),
    "webp": ("WebP", "#8a8f96", "dashed"),
    "avif": ("AVIF", "#8a8f96", "dotted"),
}
#: Codecs' curves are drawn to so many times the highest rate of a tokenizer: beyond is no news.
REACH = 6.0


def plots(verdict: Verdict) -> list[Plot]:
    """Return every plot that a verdict has data for."""
    found = [_rate_distortion(verdict, one) for one in verdict.measures] if verdict.codecs else []
    if not found and any(one.prefixes for one in verdict.judged):
        found = [_rate_distortion(verdict, one) for one in verdict.measures]
    if any(one.perturbed for one in verdict.judged):
        found += [_perturbed(verdict, one) for one in verdict.measures[:2]]
        if verdict.kind == "image":
            found.append(_frechet(verdict))
    return [plot for plot in found if plot.series]


def _rate_distortion(verdict: Verdict, measure: Measure) -> Plot:
    unit = verdict.judged[0].scores.unit
    return Plot(
        f"rate_distortion_{measure.key}",
        f"{measure.label} over bits per {unit}",
        f"bits per {unit}, mean",
        _axis(measure),
        tuple(_rate_series(verdict, measure)),
        log_x=True,
    )


def _axis(measure: Measure) -> str:
    return f"{measure.label}, {measure.unit}" if measure.unit else measure.label


def _rate_series(verdict: Verdict, measure: Measure) -> Iterator[Series]:
    reach = REACH * max(one.scores.bits_per_unit["packed"] for one in verdict.judged)
    for number, judged in enumerate(verdict.judged):
        colour = TOKENIZERS[number % len(TOKENIZERS)]
        point = judged.scores.bits_per_unit["packed"], judged.scores.mean(measure.key)
        curve = tuple((p.bits_per_unit, p.values[measure.key]) for p in judged.prefixes)
        yield Series(judged.name, curve or (point,), colour, radius=3.5 if curve else 5.5)
    for name, points in verdict.codecs.items():
        label, colour, line = CODECS[name]
        kept = [p for p in points if p.bits_per_unit <= reach or p is points[0]]
        pairs = tuple(
            (p.bits_per_unit, p.values[measure.key]) for p in kept if measure.key in p.values
        )
        yield Series(label, pairs, colour, line, radius=2.0)


def _perturbed(verdict: Verdict, measure: Measure) -> Plot:
    return Plot(
        f"perturbed_{measure.key}",
        f"{measure.label} over the share of ids that are replaced",
        "ids replaced, %",
        _axis(measure),
        tuple(_perturbed_series(verdict, measure.key)),
    )


def _frechet(verdict: Verdict) -> Plot:
    return Plot(
        "perturbed_frechet",
        "Frechet distance over the share of ids that are replaced",
        "ids replaced, %",
        "Frechet distance (not FID)",
        tuple(_perturbed_series(verdict, FRECHET)),
    )


def _perturbed_series(verdict: Verdict, key: str) -> Iterator[Series]:
    for number, judged in enumerate(verdict.judged):
        colour = TOKENIZERS[number % len(TOKENIZERS)]
        for curve in judged.perturbed:
            line: Line = "solid" if curve.mode == "near" else "dashed"
            pairs = tuple((100 * p.setting, p.values[key]) for p in curve.points if key in p.values)
            if pairs:
                yield Series(_label(verdict, judged, curve.mode), pairs, colour, line)


def _label(verdict: Verdict, judged: Judged, mode: str) -> str:
    word = f"{mode} ids"
    return word if len(verdict.judged) == 1 else f"{judged.name}, {word}"
