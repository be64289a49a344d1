"""The page: a record becomes a template's values, and the template becomes bytes."""

from __future__ import annotations

import json
from typing import Any

import jinja2

from tokenmill_pipelines.report import charts, fidelity, images, quality, streams, text
from tokenmill_pipelines.report.drawing import draw
from tokenmill_pipelines.report.record import Reconstruction, RunRecord
from tokenmill_pipelines.report.redact import redact

#: Pixels of the longer side of a picture in the page; a contact sheet of a clip is three as wide.
LONGEST = {False: 512, True: 800}
STAGES = ("list", "plan", "diff", "encode", "verify", "commit", "report")


def write_report(record: RunRecord) -> bytes:
    """Return one self-contained HTML page: no script, no other file, nothing fetched.

    Everything that comes from outside (keys, errors, job values) is escaped by the template.
    """
    page = templates().get_template("report.html.j2").render(_values(record))
    return page.encode()


def templates() -> jinja2.Environment:
    """Return what renders the pages: all that is inserted is escaped, and all must be given."""
    found = jinja2.Environment(
        loader=jinja2.PackageLoader("tokenmill_pipelines.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.filters |= {
        "count": text.count,
        "duration": text.duration,
        "percent": text.percent,
        "decibels": text.decibels,
    }
    return found


def _values(record: RunRecord) -> dict[str, Any]:
    return {
        "record": record,
        "store_uri": redact(record.store_uri),
        "state": state(record),
        "tiles": tiles(record),
        "hops": charts.bars(record.hop_seconds),
        "stages": charts.bars(record.wall_s, STAGES),
        "streams": streams.cards(record),
        "quality": quality.quality(record.checks, record.limits),
        "chart_width": charts.WIDTH,
        "chart_height": charts.HEIGHT,
        "reconstructions": [_figure(made) for made in record.reconstructions],
        "clips": any(made.kind == "clip" for made in record.reconstructions),
        "fidelity": fidelity.summary(record.reconstructions),
        "quarantine": [
            (entry, images.thumbnail_uri(entry.data) if entry.data else "")
            for entry in record.quarantine
        ],
        "quarantined": sum(record.reasons.values()) or len(record.quarantine),
        "reasons": sorted(record.reasons.items(), key=lambda item: (-item[1], item[0])),
        "job": json.dumps(redact(dict(record.job)), indent=2, ensure_ascii=False, default=str),
    }


def _figure(made: Reconstruction) -> dict[str, Any]:
    original, decoded = draw(made)
    return {
        "made": made,
        "original": images.data_uri(original, longest=LONGEST[made.kind == "clip"]),
        "decoded": images.data_uri(decoded, longest=LONGEST[made.kind == "clip"]),
        "figure": fidelity.figure(made),
    }


def state(record: RunRecord) -> str:
    """Return in a few words how the run ended."""
    if record.snapshot_number is None:
        return "no snapshot"
    number = f"snapshot {record.snapshot_number}"
    return number if record.committed else f"{number}, nothing new"


def tiles(record: RunRecord) -> list[tuple[str, str, str]]:
    """Return the page's figures: label, value, and a remark."""
    total, done = record.totals, record.done
    samples, tokens = total.get("samples", 0), total.get("tokens", 0)
    stored = total.get("bytes", 0)
    bits = f"{8 * stored / tokens:.3g} bits a token" if tokens else ""
    new = f"{text.count(done.get('samples', 0))} new"
    reused = done.get("reused_units", 0)
    lost = total.get("rejected", 0)
    share = text.percent(lost / total["assets"]) + " of assets" if total.get("assets") else ""
    return [
        ("assets", text.count(total.get("assets", 0)), f"{text.count(done.get('assets', 0))} new"),
        ("samples", text.count(samples), new),
        (
            "tokens",
            text.count(tokens),
            f"{text.count(tokens / samples)} a sample" if samples else "",
        ),
        ("stored", text.size(stored), bits),
        ("samples/s", text.rate(record.rate("samples")), f"{_actors(record)}"),
        ("tokens/s", text.rate(record.rate("tokens")), f"{record.bottleneck or 'nothing'} limits"),
        ("shards", text.count(total.get("shards", 0)), f"{text.count(reused)} units reused"),
        ("without samples", text.count(lost), share),
    ]


def _actors(record: RunRecord) -> str:
    return f"{record.actors} actor{'s' * (record.actors != 1)}"
