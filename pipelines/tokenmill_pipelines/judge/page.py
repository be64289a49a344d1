"""The report of a judgement: an HTML page that needs nothing but itself, and its plots as files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from markupsafe import Markup

from tokenmill.measures import PSNR_CAP_DB
from tokenmill_pipelines.judge import tables
from tokenmill_pipelines.judge.measuring import MEASURES
from tokenmill_pipelines.judge.plotting import plots
from tokenmill_pipelines.judge.sheet import ERROR_GAIN, pictures
from tokenmill_pipelines.judge.verdict import Judged, Shown, Verdict
from tokenmill_pipelines.report import images
from tokenmill_pipelines.report.page import templates
from tokenmill_pipelines.report.plots import HEIGHT, WIDTH, Canvas, layout, png
from tokenmill_pipelines.report.redact import redact

LONGEST = {False: 320, True: 800}
#: Rows of the table of what was not judged.
MOST_FAILURES = 100

DEFINITIONS = {
    "PSNR": f"of all channels of a view, mean over views; equal pictures count {PSNR_CAP_DB:g} dB",
    "SSIM": "Wang et al. 2004, 11 x 11 Gaussian window, of red, green and blue",
    "MS-SSIM": "Wang et al. 2003, five scales; for sides of 176 pixels or more",
    "IoU": "cells in both over cells in either",
    "Chamfer distance": "mean distance to the nearest point of the other set, both ways",
    "shared faces": "triangles in both over triangles in either",
}
#: What was done with clips, of pictures it is but a line.
CLIP_CODECS = {
    "JPEG": "{pillow}: each frame a file, no container; optimised tables, 4:2:0",
    "WebP": "an animation, which repeats what stays and follows no motion; method 4",
    "AVIF": "an image sequence: AV1 video, whose frames are predicted from others; speed 6",
}


def write_report(verdict: Verdict, folder: Path) -> dict[str, str]:
    """Write ``report.html``, ``report.json`` and the plots into a folder; returns their paths.

    Files of these names that are there already are replaced, others are left alone.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files = {"report.html": page(verdict), "report.json": document(verdict)}
    for canvas in _canvases(verdict):
        files[f"{canvas.plot.name}.svg"] = _svg(canvas, alone=True).encode()
        files[f"{canvas.plot.name}.png"] = png(canvas)
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return {name: str(folder / name) for name in files}


def document(verdict: Verdict) -> bytes:
    """Return ``report.json``; NaN and infinity do not occur."""
    text = json.dumps(redact(verdict.to_json()), indent=1, ensure_ascii=False, allow_nan=False)
    return (text + "\n").encode()


def page(verdict: Verdict) -> bytes:
    """Return the page; what comes from outside is escaped by the template."""
    return templates().get_template("judge.html.j2").render(_values(verdict)).encode()


def _canvases(verdict: Verdict) -> list[Canvas]:
    laid_out = (layout(plot) for plot in plots(verdict))
    return [canvas for canvas in laid_out if canvas is not None]


def _svg(canvas: Canvas, *, alone: bool) -> str:
    """Return a plot as SVG, for a page that brings the colours, or ``alone``."""
    template = templates().get_template("plot.svg.j2")
    return template.render(canvas=canvas, width=WIDTH, height=HEIGHT, alone=alone)


def _values(verdict: Verdict) -> dict[str, Any]:
    drawn = [
        {"name": c.plot.name, "title": c.plot.title, "svg": Markup(_svg(c, alone=False))}  # noqa: S704  (made by a template that escapes)
        for c in _canvases(verdict)
    ]
    content, equal = tables.by_content(verdict), tables.equal_bytes(verdict)
    failed = tables.failures(verdict)
    return {
        "title": ", ".join(one.name for one in verdict.judged),
        "state": _state(verdict),
        "data": redact(verdict.data) or "views in memory",
        "how": _how(verdict),
        "kind": verdict.kind,
        "tokenizers": [_tokenizer(verdict, one) for one in verdict.judged],
        "content_head": content.head,
        "content_rows": content.rows,
        "rate_plots": [one for one in drawn if one["name"].startswith("rate")],
        "perturbed_plots": [one for one in drawn if one["name"].startswith("perturbed")],
        "perturbed_how": _perturbed(verdict),
        "has_codecs": bool(verdict.codecs),
        "equal_head": equal.head,
        "equal_rows": equal.rows,
        "prefix_head": tables.prefixes(verdict).head,
        "prefix_rows": tables.prefixes(verdict).rows,
        "reading": _reading(verdict),
        "errors": _errors(verdict),
        "columns": 2 if verdict.kind in ("points", "mesh", "gaussians") else 3,
        "stream_rows": tables.streams(verdict).rows,
        "failures": failed[:MOST_FAILURES],
        "failed": len(failed),
        "definitions": _definitions(verdict),
        "environment": verdict.environment,
        "not_measured": tables.not_measured(verdict),
        "details": json.dumps(redact(tables.settings_of(verdict)), indent=2, ensure_ascii=False),
    }


def _state(verdict: Verdict) -> str:
    main = verdict.measures[0]
    figures = [f"{one.name} {main.text(one.scores.mean(main.key))}" for one in verdict.judged]
    if len(figures) == 1:
        figures = [main.text(verdict.judged[0].scores.mean(main.key))]
    return f"{main.label} {', '.join(figures)}"


def _how(verdict: Verdict) -> str:
    view = verdict.view.get("view") or verdict.view.get("kind") or ""
    size = verdict.view.get("size")
    sized = f" of {' x '.join(map(str, size))}" if isinstance(size, list | tuple) else ""
    chosen = f"{verdict.chosen} of {verdict.listed} assets"
    return f"{chosen}, view {view}{sized}; the choice of assets follows from their keys"


def _tokenizer(verdict: Verdict, judged: Judged) -> dict[str, Any]:
    return {
        "name": judged.name,
        "tiles": tables.tiles(judged),
        "sheet": [_shown(verdict, one, _views(judged, one)) for one in judged.shown],
    }


def _views(judged: Judged, shown: Shown) -> int:
    """Return how many views of its asset were judged."""
    return sum(view.key == shown.item.key for view in judged.scores.views)


def _shown(verdict: Verdict, shown: Shown, views: int) -> dict[str, Any]:
    made = pictures(verdict.kind, shown)
    longest = LONGEST[verdict.kind == "clip"]
    found = (made.original, made.decoded, made.error)
    main = MEASURES[verdict.kind][0]
    return {
        "uris": [images.data_uri(one, longest=longest) for one in found if one is not None],
        "key": shown.item.key,
        "view": shown.item.view if views > 1 else "",
        "place": shown.place,
        "figure": main.text(shown.values.get(main.key)),
    }


def _errors(verdict: Verdict) -> str:
    if verdict.kind in ("image", "clip"):
        return f"and the difference, {ERROR_GAIN} times as strong"
    return "and the cells that differ" if verdict.kind == "voxels" else ""


def _perturbed(verdict: Verdict) -> str:
    ways: dict[str, dict[str, list[str]]] = {}
    names = set[str]()
    for judged in verdict.judged:
        for curve in judged.perturbed:
            ways.setdefault(curve.mode, {}).setdefault(curve.how, []).append(judged.name)
            names |= {curve.features} - {""}
    said = "; ".join(f"{mode}: {_ways(hows)}" for mode, hows in sorted(ways.items()))
    on = f" The Frechet distance is between originals and reconstructions, on {', '.join(names)}."
    return f"A share of each view's ids is replaced ({said}).{on if names else ''}"


def _ways(hows: Mapping[str, list[str]]) -> str:
    """Return what ids become, and of whom where tokenizers differ."""
    if len(hows) == 1:
        return next(iter(hows))
    return ", ".join(f"{how} ({', '.join(names)})" for how, names in hows.items())


def _reading(verdict: Verdict) -> list[dict[str, Any]]:
    several = len(verdict.judged) > 1
    return [
        {"title": f"{title}, {one.name}" if several else title, "by": by, "facts": facts}
        for one in verdict.judged
        for title, by, facts in tables.facts_of(one)
    ]


def _definitions(verdict: Verdict) -> list[tuple[str, str]]:
    found = [(one.label, DEFINITIONS[one.label]) for one in verdict.measures]
    unit = verdict.judged[0].scores.unit
    found.append((f"bits per {unit}", "of packed ids: an id below V takes ceil(log2 V) bits"))
    found.append(("entropy", "of the ids' frequencies in these views alone; few views, too low"))
    version = f"Pillow {verdict.environment.get('pillow', '')}".strip()
    if verdict.codecs and verdict.kind == "clip":
        found += [(label, text.format(pillow=version)) for label, text in CLIP_CODECS.items()]
    elif verdict.codecs:
        text = f"{version}: optimised tables, 4:2:0; method 6; speed 6"
        found.append(("JPEG, WebP, AVIF", text))
    return found
