"""What a report says of the checks before a commit: the round trip by shard, and entropies."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tokenmill_pipelines.checks import METRICS, Checks, Moved, group, limit_of, said
from tokenmill_pipelines.report import charts, text
from tokenmill_schemas.entropy import Entropy
from tokenmill_schemas.limits import LimitsConfig

#: Shards, the worst first, that are listed with their samples.
LISTED = 5


@dataclass(frozen=True, slots=True)
class Quality:
    """The section: facts and chart of the round trip, its worst shards, and a row per entropy.

    A shard is its path, its mean, and its samples with their figures. An entropy is the stream,
    what it is of, bits per id and different ids of this run and before it, and by how much it
    moved.
    """

    facts: tuple[tuple[str, str], ...]
    chart: charts.Chart | None
    worst: tuple[tuple[str, str, str], ...]
    entropies: tuple[tuple[str, ...], ...]
    before: str
    limit: str


def quality(checks: Checks, limits: LimitsConfig) -> Quality:
    """Return what the section shows."""
    drift = limits.max_entropy_drift
    return Quality(
        facts=_facts(checks, limits) if checks.metric else (),
        chart=_chart(checks, limits) if checks.means else None,
        worst=tuple(
            (shard.path, said(checks.metric, mean), _samples(checks.metric, shard.figures))
            for mean, shard in checks.means[:LISTED]
        ),
        entropies=tuple(_row(moved) for moved in checks.moved),
        before=f"snapshot {checks.base}" if checks.base else "before",
        limit=f"; limits.max_entropy_drift is {drift:g} bits" if drift else "",
    )


def _samples(metric: str, figures: tuple[tuple[str, float], ...]) -> str:
    ordered = sorted(figures, key=lambda one: one[1])
    return ", ".join(f"{name} {said(metric, value)}" for name, value in ordered)


def line(checks: Checks, limits: LimitsConfig) -> str:
    """Return the round trip in one line, "" where nothing was measured."""
    return ", ".join(f"{label} {value}" for label, value in _facts(checks, limits))


def _facts(checks: Checks, limits: LimitsConfig) -> tuple[tuple[str, str], ...]:
    if checks.mean is None:
        return ()
    key, name, _ = METRICS[checks.metric]
    limit = limit_of(limits, checks.metric)
    samples = sum(len(shard.figures) for shard in checks.shards)
    means = [mean for mean, _ in checks.means]
    middle = float(np.median(means))
    passed = sum(shard.passed_over for shard in checks.shards)
    facts = [
        (f"mean {name}", said(checks.metric, checks.mean)),
        ("of", f"{text.count(samples)} samples in {text.count(len(means))} shards"),
        ("worst shard", said(checks.metric, means[0])),
        ("median shard", said(checks.metric, middle)),
        ("best shard", said(checks.metric, means[-1])),
        (f"limits.{key}", f"{limit:g}" if limit else "none"),
    ]
    return (*facts, *([("too large to check", f"{text.count(passed)} views")] if passed else []))


def _chart(checks: Checks, limits: LimitsConfig) -> charts.Chart:
    key, name, _ = METRICS[checks.metric]
    limit, means = limit_of(limits, checks.metric), [mean for mean, _ in checks.means]
    line = limit or float(np.mean(means))
    label = f"limits.{key} = {limit:g}" if limit else "mean of the shards"
    return charts.heights(
        means, line, (label, "shards, the worst first", f"mean {name} of a shard")
    )


def _row(moved: Moved) -> tuple[str, ...]:
    drift = moved.drift_bits
    return (
        moved.stream,
        group(moved.size),
        *_figures(moved.now),
        *_figures(moved.before),
        "unknown" if drift is None else f"{drift:+.3f}",
    )


def _figures(found: Entropy) -> tuple[str, str]:
    if not found.groups:
        return "unknown", ""
    error = f" ± {found.error_bits:.3f}" if found.error_bits else ""
    return f"{found.mean_bits:.3f}{error}", f"{found.mean_ids:,.1f}" if found.ids else ""


def entropy_lines(checks: Checks) -> list[tuple[str, str]]:
    """Return for each stream and size what it is and its entropies, in words."""
    found = []
    for moved in checks.moved:
        if moved.now.groups:
            drift = moved.drift_bits
            past = "" if drift is None else f", {moved.before.mean_bits:.3f} before ({drift:+.3f})"
            text_ = f"{moved.now.mean_bits:.3f} bits an id{past}"
            found.append((f"{moved.stream} in {group(moved.size)}", text_))
    return found
