"""The model card: what the weights are, where they come from and how good they are, in Markdown."""

from __future__ import annotations

import re

from tokenmill_pipelines.fit import facts
from tokenmill_pipelines.fit.facts import Facts, Table
from tokenmill_pipelines.fit.record import FitRecord
from tokenmill_pipelines.report.markdown import escape, table

JUDGED = "Figures of `tokenmill judge` on corpora that are kept for judging belong here; none yet."


def write_card(record: FitRecord) -> bytes:
    """Return the card; what comes from outside is escaped, and nothing of it is of this machine."""
    name, step = record.job.name, record.progress.step
    state = "" if step >= record.job.optimiser.steps else " (unfinished)"
    parts = [
        f"# {name}: model card{state}",
        _list(facts.what(record)),
        "## Data",
        f"Learned from {_assets(record)} assets; the others were held out by their keys, and "
        "nothing was learned from them.",
        _table(facts.data_table(record)),
        _table(facts.licence_table(record)),
        "## Method",
        _list([fact for fact in facts.how(record) if fact[1]]),
        "    " + facts.command(record),
        "The same job gives the same bytes with as many threads of the same kind of processor and "
        "the same torch.",
        "## Scores",
        f"Of {record.trial.views} held-out assets, as stored in the file, in float32.",
        _table(facts.score_table(record)),
    ]
    prefixes = facts.prefix_table(record)
    if prefixes is not None:
        parts += ["Of beginnings of the ids:", _table(prefixes)]
    parts += ["## Judged", JUDGED, "## Limits"]
    parts.append("\n".join(f"- {plain(said)}" for said in facts.limits(record)))
    return ("\n\n".join(parts) + "\n").encode()


def plain(value: str) -> str:
    """Return text that Markdown shows as it is; an underscore inside a word is no markup."""
    return re.sub(r"(?<=\w)\\_(?=\w)", "_", escape(value))


def _assets(record: FitRecord) -> str:
    learned, held_out = record.assets
    return f"{learned:,} of {learned + held_out:,}"


def _list(found: Facts) -> str:
    return "\n".join(f"- **{plain(label)}**: {plain(value)}" for label, value in found)


def _table(found: Table) -> str:
    rows = [tuple(map(escape, row)) for row in found.rows]
    return table(tuple(map(escape, found.head)), rows, words=found.words)
