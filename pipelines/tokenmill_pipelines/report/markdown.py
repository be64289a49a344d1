"""The summary that a Prefect artifact or a terminal shows."""

from __future__ import annotations

import html
import re
from collections.abc import Sequence

from tokenmill_pipelines.report import quality, streams, text
from tokenmill_pipelines.report.fidelity import summary
from tokenmill_pipelines.report.page import state, tiles
from tokenmill_pipelines.report.record import RunRecord
from tokenmill_pipelines.report.redact import redact

SHOWN = 10


def markdown_summary(record: RunRecord) -> str:
    """Return a page of GitHub-flavoured Markdown; values from outside are escaped."""
    parts = [
        f"# {escape(record.job_name)}: {state(record)}",
        f"{escape(str(redact(record.store_uri)))}, {text.duration(record.run_s)}",
        table(("what", "how much", ""), [tuple(map(escape, tile)) for tile in tiles(record)]),
    ]
    if record.wall_s:
        rows = [(escape(stage), text.duration(spent)) for stage, spent in record.wall_s.items()]
        parts.append(table(("stage", "wall time"), rows))
    for card in streams.cards(record):
        facts = "; ".join(f"{label}: {value}" for label, value in card.facts)
        parts.append(f"**{escape(card.name)}** ({escape(card.kind)}): {escape(facts)}")
    if record.checks.metric:
        parts.append(f"Round trip: {escape(quality.line(record.checks, record.limits))}")
    if record.checks.moved:
        facts = "; ".join(map(": ".join, quality.entropy_lines(record.checks)))
        parts.append(f"Entropy: {escape(facts)}")
    if record.reconstructions:
        parts.append(f"Reconstructions: {summary(record.reconstructions)}")
    parts += _quarantine(record)
    return "\n\n".join(parts) + "\n"


def _quarantine(record: RunRecord) -> list[str]:
    if not record.quarantine:
        return []
    reasons = ", ".join(f"{n} {escape(reason)}" for reason, n in sorted(record.reasons.items()))
    rows = [
        (escape(entry.key), escape(entry.reason), escape(entry.error))
        for entry in record.quarantine[:SHOWN]
    ]
    return [f"## Quarantine\n\n{reasons}", table(("asset", "reason", "error"), rows)]


def table(
    head: tuple[str, ...], rows: Sequence[tuple[str, ...]], *, words: int | None = None
) -> str:
    """Return a table; with ``words``, the columns after so many are figures, set to the right."""
    rule = tuple("---" if words is None or n < words else "---:" for n in range(len(head)))
    lines = [head, rule, *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def escape(value: str) -> str:
    """Return text that Markdown shows as it is, on one line and inside a table's cell."""
    flat = html.escape(" ".join(value.split()), quote=False)
    return re.sub(r"([\\`*_\[\]|#~])", r"\\\1", flat)
