"""The report of a training: one HTML page that needs nothing but itself."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tokenmill_pipelines.report import curves, images, text
from tokenmill_pipelines.report.environment import environment
from tokenmill_pipelines.report.page import templates
from tokenmill_pipelines.report.redact import redact
from tokenmill_pipelines.train.checkpoint import Progress
from tokenmill_pipelines.train.config import TrainJob, train_job_table
from tokenmill_pipelines.train.pictures import Row
from tokenmill_pipelines.train.tokens import Shown

#: Pixels of a picture's longer side in the page; smaller ones are enlarged without blurring.
LONGEST, SMALL = 256, 96


@dataclass(frozen=True, slots=True)
class TrainRecord:
    """Everything that one training's report says.

    ``rows`` are samples of each class; without any, ``why_no_pictures`` tells why. ``epoch_rows``
    are the samples of an epoch, ``parameters`` the numbers that the network learns,
    ``held_out_loss`` is of the averaged weights.
    """

    job: TrainJob
    shown: Shown
    progress: Progress
    parameters: int
    epoch_rows: int
    held_out_loss: float | None = None
    rows: tuple[Row, ...] = ()
    why_no_pictures: str = ""

    @property
    def samples(self) -> int:
        """Samples that were shown, each as often as it was."""
        return self.progress.step * self.job.source.batch_size

    @property
    def wall_s(self) -> float:
        """Seconds of all legs."""
        return sum(leg.wall_s for leg in self.progress.legs)

    @property
    def cpu_s(self) -> float:
        """Processor seconds of all workers in all legs."""
        return sum(leg.cpu_s for leg in self.progress.legs)

    @property
    def loss(self) -> float:
        """The newest point of the curve; NaN before there is one."""
        return self.progress.curve[-1][1] if self.progress.curve else math.nan


def write_page(record: TrainRecord) -> bytes:
    """Return the page; what comes from outside is escaped by the template."""
    return templates().get_template("train.html.j2").render(_values(record)).encode()


def _values(record: TrainRecord) -> dict[str, Any]:
    job, progress = record.job, record.progress
    uniform = math.log(record.shown.layout.ids)
    sides = [max(p.shape[:2]) for row in record.rows for p in (*row.made, *row.stored)]
    return {
        "name": job.name,
        "state": state(record),
        "output": redact(job.output.uri),
        "model": _model(record),
        "tiles": tiles(record),
        "curve": curves.curve(progress.curve, level=uniform),
        "uniform": uniform,
        "first_loss": progress.curve[0][1] if progress.curve else math.nan,
        "last_loss": record.loss,
        "width": curves.WIDTH,
        "height": curves.HEIGHT,
        "rows": [_pictures(row) for row in record.rows],
        "any_stored": any(row.stored for row in record.rows),
        "columns": max(1, min(8, job.sampling.count)),
        "small": max(sides, default=0) <= SMALL,
        "how": _how(job),
        "why_no_pictures": record.why_no_pictures,
        "legs": [_leg(record, leg) for leg in progress.legs],
        "feed": _feed(record),
        "environment": environment(),
        "job": json.dumps(redact(train_job_table(job)), indent=2, ensure_ascii=False),
    }


def state(record: TrainRecord) -> str:
    """Return in a few words how far the training is."""
    steps = record.job.optimiser.steps
    if record.progress.step >= steps:
        return f"{text.count(steps)} steps, done"
    return f"{text.count(record.progress.step)} of {text.count(steps)} steps"


def tiles(record: TrainRecord) -> list[tuple[str, str, str]]:
    """Return the page's figures: label, value, and a remark."""
    progress, layout = record.progress, record.shown.layout
    tokens = record.samples * layout.positions
    epochs = record.samples / record.epoch_rows if record.epoch_rows else 0.0
    first = progress.curve[0][1] if progress.curve else math.nan
    workers = progress.legs[-1].workers if progress.legs else record.job.cluster.workers
    rate = tokens / record.wall_s if record.wall_s else 0.0
    return [
        ("loss", f"{record.loss:.3f}", _beside(record.held_out_loss, first)),
        ("steps", text.count(progress.step), f"of {record.job.source.batch_size} samples"),
        ("samples", text.count(record.samples), f"{epochs:.3g} epochs"),
        ("tokens", text.count(tokens), f"{layout.positions} a sample"),
        ("tokens/s", text.rate(rate), f"{workers} worker{'s' * (workers != 1)}"),
        ("time", text.duration(record.wall_s), f"{text.duration(record.cpu_s)} of processors"),
        ("parameters", text.count(record.parameters), record.job.model.kind),
        ("classes", text.count(layout.classes), record.job.model.condition or "no condition"),
    ]


def _beside(held_out: float | None, first: float) -> str:
    return f"from {first:.3f}" if held_out is None else f"{held_out:.3f} on held-out samples"


def _model(record: TrainRecord) -> str:
    model = record.job.model
    layout = record.shown.layout
    return (
        f"{model.kind} transformer, {model.depth} blocks of {model.width} channels and "
        f"{model.heads} heads; {layout.positions} positions of {text.count(layout.ids)} ids"
    )


def _how(job: TrainJob) -> str:
    how, words = job.sampling, []
    if job.model.kind == "masked":
        words.append(f"{how.steps} passes")
    if how.temperature != 1:
        words.append(f"temperature {how.temperature:g}")
    if how.top_k:
        words.append(f"top-k {how.top_k}")
    if how.guidance != 1:
        words.append(f"guidance {how.guidance:g}")
    given = f" ({', '.join(words)})" if words else ""
    return f"Drawn from the averaged weights{given}, the first {how.count} of each, not chosen."


def _pictures(row: Row) -> dict[str, Any]:
    def uris(pictures: Sequence[Any]) -> list[str]:
        return [images.data_uri(picture, longest=LONGEST) for picture in pictures]

    return {"label": row.label, "made": uris(row.made), "stored": uris(row.stored)}


def _leg(record: TrainRecord, leg: Any) -> dict[str, Any]:
    tokens = (leg.last - leg.first) * record.job.source.batch_size * record.shown.layout.positions
    return {
        "steps": f"{leg.first:,} to {leg.last:,}",
        "workers": leg.workers,
        "wall_s": leg.wall_s,
        "cpu_s": leg.cpu_s,
        "tokens_per_s": tokens / leg.wall_s if leg.wall_s else 0.0,
    }


def _feed(record: TrainRecord) -> list[tuple[str, str]]:
    shown, source = record.shown, record.job.source
    facts = [
        ("store", str(redact(source.store))),
        ("version", shown.snapshot),
        ("fingerprint", shown.fingerprint),
        ("stream", shown.stream),
        ("where", source.where),
        ("held out", source.held_out),
        ("samples of an epoch", text.count(record.epoch_rows)),
        ("batch", f"{source.batch_size} over all workers"),
        ("shuffle", f"{source.shuffle}, seed {source.seed}"),
        ("state", json.dumps(record.progress.feed)),
    ]
    return [(label, value) for label, value in facts if value]
