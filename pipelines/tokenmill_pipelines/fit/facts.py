"""What a fit's page and its model card both say, in the same words and figures."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from tokenmill_pipelines.fit.record import FitRecord
from tokenmill_pipelines.fit.trying import PartTrial, Shown
from tokenmill_pipelines.fit.weights import job_digest
from tokenmill_pipelines.judge.measuring import MEASURES, UNITS, Measure
from tokenmill_pipelines.judge.scores import Scores
from tokenmill_pipelines.report import text
from tokenmill_schemas.tokens import Stream

Facts = list[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Table:
    """A table; the first ``words`` columns are text, the others figures."""

    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    words: int = 1


def tiles(record: FitRecord) -> list[tuple[str, str, str]]:
    """Return the page's figures: label, value, and a remark."""
    progress, batch = record.progress, record.job.batch
    part = record.trial.parts[0]
    measure = MEASURES[record.trial.kind][0]
    figure = part.scores.figure(measure.key)
    mean = measure.text(figure.mean) if figure else "-"
    bits = part.scores.bits_per_unit["packed"]
    return [
        (f"{measure.label}, held out", mean, f"{part.name}, {len(part.scores.views)} of them"),
        ("bits spent", f"{bits:.4g}", f"a {part.scores.unit}"),
        ("loss", f"{record.loss:.3f}", f"from {record.first_loss:.3f}"),
        ("steps", text.count(progress.step), f"of {batch.size} samples"),
        ("parameters", text.count(record.network.parameters), _learned(record)),
        ("weights", text.size(record.weights.size_bytes), "float16"),
        ("time", text.duration(record.wall_s), f"{text.duration(record.cpu_s)} of processors"),
        ("samples/s", text.rate(_rate(record)), threads_text(record)),
    ]


def _learned(record: FitRecord) -> str:
    network = record.network
    if network.learned == network.parameters:
        return "all learned here"
    return f"{text.count(network.learned)} learned here"


def _rate(record: FitRecord) -> float:
    return record.samples / record.wall_s if record.wall_s else 0.0


def what(record: FitRecord) -> Facts:
    """Return what the weights are of: tokenizer, tokens, network, file."""
    options = {k: v for k, v in record.job.tokenizer.options.items() if k != "checkpoint"}
    chosen = ", ".join(f"{k} = {v}" for k, v in options.items() if not isinstance(v, dict))
    network, weights = record.network, record.weights
    facts = [
        ("tokenizer", record.job.tokenizer.kind + (f", {chosen}" if chosen else "")),
        ("tokens", "; ".join(stream_text(stream) for stream in record.trial.spec.streams)),
        ("network", settings_text(network.architecture)),
        ("parameters", f"{network.parameters:,}, {_learned(record)}"),
        ("file", f"{weights.path}, {weights.size_bytes:,} bytes, float16"),
        ("sha256", weights.sha256),
    ]
    return [*facts, *([("licence", record.job.licence)] if record.job.licence else [])]


def stream_text(stream: Stream) -> str:
    """Return a stream as people read it: ``image: 32 x 32 ids below 64,000 (15.97 bits each)``."""
    sizes = " x ".join(str(axis.size or axis.name) for axis in stream.axes)
    if stream.kind != "index":
        return f"{stream.name}: {sizes} {stream.kind}"
    ids = stream.vocab_sizes[0]
    words = f"{stream.name}: {sizes} ids below {ids:,} ({math.log2(ids):.2f} bits each)"
    return words + (f", of which the first {stream.min_prefix} decode" if stream.min_prefix else "")


def settings_text(settings: dict[str, Any]) -> str:
    """Return settings in one line: ``widths 64 160, depth 2``."""
    return ", ".join(
        f"{name.replace('_', ' ')} {_value(value)}" for name, value in settings.items()
    )


def _value(value: Any) -> str:
    if isinstance(value, dict):
        return f"({settings_text(value)})"
    if isinstance(value, tuple | list):
        return " ".join(map(_value, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def how(record: FitRecord) -> Facts:
    """Return how the weights were learned."""
    job, optimiser = record.job, record.job.optimiser
    step = "constant" if optimiser.final_lr == 1 else f"to {optimiser.final_lr:g} of it as a cosine"
    arithmetic = f"{job.machine.autocast} convolutions, float32 weights"
    if job.machine.autocast == "float32":
        arithmetic = "float32"
    return [
        ("shown", _shown(record)),
        ("loss", loss_text(record)),
        ("optimiser", f"AdamW, rate {optimiser.lr:g} after {optimiser.warmup} steps, then {step}"),
        ("averaged", f"weights, keeping {optimiser.ema:g} a step"),
        ("steps", f"{record.progress.step:,} of {job.batch.size} samples, seed {job.seed}"),
        ("arithmetic", f"{arithmetic}, {job.machine.device}, {threads_text(record)}"),
        ("wall time", text.duration(record.wall_s)),
        ("processor time", text.duration(record.cpu_s)),
        ("processor", record.environment.get("processor", "")),
        ("torch", record.environment.get("torch", "")),
        ("job's sha256", job_digest(job)),
    ]


def loss_text(record: FitRecord) -> str:
    """Return the terms of the loss: ``1 psnr + 0.3 ssim``."""
    terms = ((name, value) for name, value in asdict(record.job.loss).items() if value)
    return " + ".join(f"{value:g} {name}" for name, value in terms)


def threads_text(record: FitRecord) -> str:
    """Return how many threads there were, in words."""
    threads = record.job.machine.threads
    return f"{threads} thread{'s' * (threads != 1)}"


def _shown(record: FitRecord) -> str:
    batch = record.job.batch
    if record.trial.kind == "voxels":
        cut = f"cuts of {batch.side} cells a side about an occupied one, smaller volumes whole"
        return f"{cut}, in all 48 positions of a cube"
    low, high = batch.short_side
    cut = f"cuts of {batch.side} x {batch.side} pixels as of pictures of {low} to {high} a side"
    if record.trial.kind == "clip":
        paces = " or ".join(map(str, batch.paces))
        cut = f"{batch.frames} frames, every {paces}, in {cut}; a camera moves over pictures"
    return f"{cut}; {batch.recoloured:.0%} recoloured"


def data_table(record: FitRecord) -> Table:
    """Return what was learned from, part by part, with packages and their versions."""
    head = ("part", "packages", "of a batch", "learned from", "held out")
    rows = [
        (
            origin.name,
            ", ".join(origin.packages),
            text.percent(origin.share),
            f"{origin.learned:,}",
            f"{origin.held_out:,}",
        )
        for origin in record.origins
    ]
    return Table(head, tuple(rows), words=2)


def licence_table(record: FitRecord) -> Table:
    """Return the licences of the assets, counted part by part."""
    rows = [
        (origin.name, licence, f"{learned:,}", f"{held_out:,}")
        for origin in record.origins
        for licence, learned, held_out in origin.licences
    ]
    return Table(("part", "licence", "learned from", "held out"), tuple(rows), words=2)


def score_table(record: FitRecord) -> Table:
    """Return the figures of held-out assets, part by part, and what they cost."""
    kind = record.trial.kind
    measures = measures_of(record)
    first = measures[0].label
    head = ("part", "assets", first, "median", "lowest", *(one.label for one in measures[1:]))
    costs = (f"bits a {UNITS[kind]}", "entropy", "ids used")
    rows = [
        (
            part.name,
            str(len(part.scores.views)),
            *_first(part.scores, measures[0]),
            *(_mean(part.scores, one) for one in measures[1:]),
            *_costs(part.scores),
        )
        for part in record.trial.parts
    ]
    return Table((*head, *costs), tuple(rows))


def measures_of(record: FitRecord) -> tuple[Measure, ...]:
    """Return the measures that any part has, the main one in any case."""
    kind = record.trial.kind
    found = {one.key for part in record.trial.parts for one in part.scores.measures}
    return tuple(one for n, one in enumerate(MEASURES[kind]) if one.key in found or n == 0)


def _first(scores: Scores, measure: Measure) -> tuple[str, str, str]:
    figure = scores.figure(measure.key)
    if figure is None:
        return "-", "-", "-"
    mean, median, lowest = map(measure.text, (figure.mean, figure.median, figure.lowest))
    return mean, median, lowest


def _mean(scores: Scores, measure: Measure) -> str:
    figure = scores.figure(measure.key)
    return measure.text(figure.mean if figure else None)


def _costs(scores: Scores) -> tuple[str, str, str]:
    bits, use = scores.bits_per_unit, scores.streams[0]
    used = f"{use.used:,} of {use.possible:,}" if use.possible else "-"
    return f"{bits['packed']:.4g}", f"{use.entropy_bits:.2f} bits an id", used


def prefix_table(record: FitRecord) -> Table | None:
    """Return the figures of shorter beginnings; None where tokens decode only whole."""
    measures = measures_of(record)
    rows = [
        (
            part.name,
            f"{point.setting:g}",
            f"{point.bits_per_unit:.4g}",
            *(one.text(point.values.get(one.key)) for one in measures),
        )
        for part in record.trial.parts
        for point in part.prefixes
    ]
    head = ("part", "ids", f"bits a {UNITS[record.trial.kind]}", *(one.label for one in measures))
    return Table(head, tuple(rows)) if rows else None


def leg_table(record: FitRecord) -> Table:
    """Return the stretches without a stop."""
    size = record.job.batch.size
    rows = [
        (
            f"{leg.first:,} to {leg.last:,}",
            text.duration(leg.wall_s),
            text.duration(leg.cpu_s),
            text.rate((leg.last - leg.first) * size / leg.wall_s if leg.wall_s else 0.0),
        )
        for leg in record.progress.legs
    ]
    return Table(("steps", "time", "processor time", "samples/s"), tuple(rows))


def limits(record: FitRecord) -> list[str]:
    """Return what a user of the weights should know, of what the fit itself can tell."""
    trial, batch = record.trial, record.job.batch
    said = [
        f"The scores are of {trial.views} held-out assets of the same packages, drawn by their "
        "keys; other sources may be harder."
    ]
    measure = MEASURES[trial.kind][0]
    worst = lowest([part for part in trial.parts if part.shown], measure)
    if worst is not None:
        said.append(f"The lowest is {worst.key} with {measure.text(worst.values[measure.key])}.")
    failed = sum(len(part.scores.failures) for part in trial.parts)
    if failed:
        said.append(f"{failed} held-out assets could not be encoded.")
    if trial.kind == "voxels":
        sides = sorted({max(one.original.shape) for part in trial.parts for one in part.shown})
        said.append(f"It was tried on volumes of {', '.join(map(str, sides))} cells a side alone.")
    else:
        said.append(
            f"It has seen cuts of {batch.side} x {batch.side} pixels, and learned from differences "
            "of pixels alone: detail that the ids cannot hold comes back smooth."
        )
    said.append("The weights are stored in float16; scores are of these, computed in float32.")
    return said


def lowest(parts: Sequence[PartTrial], measure: Measure) -> Shown | None:
    """Return the view whose main figure is the lowest."""
    views = [one for part in parts for one in part.shown if measure.key in one.values]
    return min(views, key=lambda one: one.values[measure.key], default=None)


def command(record: FitRecord) -> str:
    """Return the command that makes the weights again, from the folder of jobs."""
    return f"tokenmill fit {record.job.name}.toml"
