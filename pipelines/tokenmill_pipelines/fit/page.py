"""The report of a fit: one HTML page that needs nothing but itself."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from tokenmill.views.base import ViewKind
from tokenmill_pipelines.fit import facts
from tokenmill_pipelines.fit.config import fit_job_table
from tokenmill_pipelines.fit.record import FitRecord
from tokenmill_pipelines.fit.trying import PartTrial, Shown
from tokenmill_pipelines.judge.measuring import MEASURES, Measure
from tokenmill_pipelines.report import curves, images, text
from tokenmill_pipelines.report.page import templates
from tokenmill_pipelines.report.redact import redact
from tokenmill_pipelines.train.loop import rate_at

Array = npt.NDArray[Any]
#: Views on the page, evenly over those that were tried of each part; pixels of their longer side.
PICTURES, LONGEST = 12, 768
#: Times that errors are enlarged, for they would be too dark to see.
ERROR_GAIN = 4
#: Points of the curve of the learning rate.
RATE_POINTS = 200


def write_page(record: FitRecord, *, pictures: bool = True) -> bytes:
    """Return the page; what comes from outside is escaped by the template.

    Raises:
        ImportError: volumes are drawn by trimesh and embreex; ``pictures`` can be left out.
    """
    values = _values(record)
    shown = [part for part in record.trial.parts if part.shown and pictures]
    values["sheets"] = [_sheet(record, part) for part in shown]
    return templates().get_template("fit.html.j2").render(values).encode()


def _values(record: FitRecord) -> dict[str, Any]:
    job, progress = record.job, record.progress
    return {
        "name": job.name,
        "state": state(record),
        "output": redact(job.output.uri),
        "tiles": facts.tiles(record),
        "loss": curves.curve(progress.curve),
        "loss_label": f"loss, from {record.first_loss:.3f} to {record.loss:.3f}",
        "loss_terms": facts.loss_text(record),
        "rate": _rate(record),
        "width": curves.WIDTH,
        "height": curves.HEIGHT,
        "scores": facts.score_table(record),
        "prefixes": facts.prefix_table(record),
        "kind": record.trial.kind,
        "gain": ERROR_GAIN,
        "data": facts.data_table(record),
        "licences": facts.licence_table(record),
        "what": facts.what(record),
        "how": [fact for fact in facts.how(record) if fact[1]],
        "limits": facts.limits(record),
        "command": facts.command(record),
        "legs": facts.leg_table(record),
        "environment": record.environment,
        "job": json.dumps(redact(fit_job_table(job)), indent=2, ensure_ascii=False),
    }


def state(record: FitRecord) -> str:
    """Return in a few words how far the fit is."""
    steps = record.job.optimiser.steps
    if record.progress.step >= steps:
        return f"{text.count(steps)} steps, done"
    return f"{text.count(record.progress.step)} of {text.count(steps)} steps"


def _rate(record: FitRecord) -> curves.Curve | None:
    """Return the chart of the learning rate, in thousandths, over the steps that were done."""
    done, how = record.progress.step, record.job.optimiser
    steps = np.unique(np.linspace(1, done, RATE_POINTS).round().astype(int)) if done else ()
    found = curves.curve([(int(step), 1000 * rate_at(int(step) - 1, how)) for step in steps])
    return replace(found, smooth=found.points) if found else None


def _sheet(record: FitRecord, part: PartTrial) -> dict[str, Any]:
    measure = MEASURES[record.trial.kind][0]
    count = min(len(part.shown), max(1, PICTURES // len(record.trial.parts)))
    places = np.linspace(0, len(part.shown) - 1, count).round().astype(int)
    rows = [_row(record.trial.kind, part.shown[place], measure) for place in places]
    return {"name": part.name, "rows": rows, "count": len(part.shown)}


def _row(kind: ViewKind, one: Shown, measure: Measure) -> dict[str, Any]:
    uris = [images.data_uri(picture, longest=LONGEST) for picture in strip(kind, one)]
    said = measure.text(one.values.get(measure.key))
    return {
        "key": one.key,
        "figure": said if measure.unit else f"{measure.label} {said}",
        "pictures": list(zip(uris, ("original", "reconstruction", "difference"), strict=True)),
    }


def strip(kind: ViewKind, one: Shown) -> Iterator[Array]:
    """Yield the original, what came back, and where they differ, as ``uint8[H, W, 3]``.

    Clips are their first, middle and last frames below each other, volumes are drawn.
    """
    if kind == "voxels":
        from tokenmill_pipelines.report.render import render

        for cells in (one.original, one.decoded, one.original ^ one.decoded):
            yield render(kind, cells, like=one.original)
        return
    difference = np.abs(one.original.astype(np.int16) - one.decoded.astype(np.int16))
    error = np.minimum(difference * ERROR_GAIN, 255).astype(np.uint8)
    for pixels in (one.original, one.decoded, error):
        yield pixels if kind == "image" else column(pixels)


def column(clip: Array) -> Array:
    """Return the first, middle and last frame of ``uint8[T, H, W, 3]`` below each other."""
    places = sorted({0, len(clip) // 2, len(clip) - 1})
    return np.concatenate([clip[place] for place in places])
