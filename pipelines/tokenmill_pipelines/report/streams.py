"""What a report says of each stream."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tokenmill.worker.statistics import TokenStatistics
from tokenmill.worker.stream_statistics import (
    BitStatistics,
    FloatStatistics,
    IndexStatistics,
    StreamStatistics,
)
from tokenmill_pipelines.report import charts, text
from tokenmill_pipelines.report.record import RunRecord
from tokenmill_schemas.arrow import Packing, stored_bits
from tokenmill_schemas.tokens import Stream

TOP_IDS = 8


@dataclass(frozen=True, slots=True)
class StreamCard:
    """One stream's facts as the page shows them: pairs of label and value, a chart, top ids."""

    name: str
    kind: str
    facts: tuple[tuple[str, str], ...]
    chart: charts.Chart | None
    top: tuple[tuple[int, str], ...] = ()


def cards(record: RunRecord) -> list[StreamCard]:
    """Return a card per stream that has statistics, in the spec's order where there is a spec."""
    found = TokenStatistics.from_json(record.statistics).streams
    specs = {stream.name: stream for stream in record.spec.streams} if record.spec else {}
    names = [name for name in specs if name in found] + [n for n in found if n not in specs]
    return [_card(name, found[name], specs.get(name), record.packing) for name in names]


def _card(
    name: str, found: StreamStatistics, stream: Stream | None, packing: Packing
) -> StreamCard:
    facts: list[tuple[str, str]] = []
    if stream is not None:
        facts.append(("shape", shape(stream)))
    stored = f" of {stored_bits(stream, packing):g} stored" if stream else ""
    if isinstance(found, IndexStatistics):
        return _index_card(name, found, facts, stored)
    if isinstance(found, BitStatistics):
        facts += [
            ("codes", text.count(found.tokens)),
            ("entropy per code", f"at most {found.entropy_bits:.2f} bits{stored}"),
            ("bits that never change", str(int(((found.mean == 0) | (found.mean == 1)).sum()))),
        ]
        chart = charts.bit_means(found.mean.tolist())
        return StreamCard(name, f"{found.ones.size}-bit codes", tuple(facts), chart)
    if isinstance(found, FloatStatistics):
        return _float_card(name, found, facts)
    raise TypeError(f"no card for statistics of kind {found.kind!r}")


def _index_card(
    name: str, found: IndexStatistics, facts: list[tuple[str, str]], stored: str
) -> StreamCard:
    about = "" if found.distinct_is_exact else "about "
    least = "" if found.is_exact else "at least "
    used = f"{about}{text.count(found.distinct)} of {text.count(found.vocab)}"
    facts += [
        ("ids", text.count(found.tokens)),
        ("different ids", f"{used} ({text.percent(found.distinct / found.vocab)})"),
        ("entropy per id", f"{least}{found.entropy_bits:.2f} bits{stored}"),
    ]
    total = max(1, found.tokens)
    top = tuple((i, text.percent(n / total)) for i, n in found.top(TOP_IDS))
    chart = charts.rank_frequency(found.counts) if found.is_exact and found.tokens else None
    books = f", {len(found.books)} books" if len(found.books) > 1 else ""
    return StreamCard(name, f"ids of {found.vocab:,}{books}", tuple(facts), chart, top)


def _float_card(name: str, found: FloatStatistics, facts: list[tuple[str, str]]) -> StreamCard:
    # Pooled over channels: the variance within them plus that of their means.
    mean = float(found.mean.mean())
    std = float(np.sqrt((found.std**2).mean() + found.mean.var()))
    facts += [
        ("latent vectors", text.count(found.tokens)),
        ("mean, standard deviation", f"{mean:.3g}, {std:.3g}"),
        ("values that are not finite", text.count(found.nonfinite)),
    ]
    chart = charts.channel_ranges(found.mean.tolist(), found.std.tolist())
    return StreamCard(name, f"{found.mean.size} channels", tuple(facts), chart)


def shape(stream: Stream) -> str:
    """Return a stream's shape in words: ``h 16 x w 16``; a size that is not fixed "varies"."""
    axes = " x ".join(f"{axis.name} {axis.size or 'varies'}" for axis in stream.axes)
    tail = {"index": "", "bits": f" x {stream.width_bits} bits"}
    return axes + tail.get(stream.kind, f" x {stream.channels} channels")
