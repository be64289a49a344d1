"""The tables of a verdict as rows of text, for the page and for the terminal."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass

from tokenmill_pipelines.judge.measuring import MEASURES
from tokenmill_pipelines.judge.scores import UNNAMED, Scores, StreamUse
from tokenmill_pipelines.judge.verdict import Judged, Verdict
from tokenmill_pipelines.report import text

CODEC_LABELS = {"jpeg": "JPEG", "webp": "WebP", "avif": "AVIF"}
PART_LABELS = {
    "codecs": "codecs",
    "prefixes": "prefixes",
    "perturbed": "wrong ids",
    "text": "text",
    "faces": "faces",
}


@dataclass(frozen=True, slots=True)
class Table:
    """A table: its head, and rows of as many cells."""

    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def overview(verdict: Verdict) -> Table:
    """Return a row per tokenizer: its rate and the means of its measures."""
    measures = verdict.measures
    unit = verdict.judged[0].scores.unit
    head = ("tokenizer", "views", "tokens", f"bits/{unit}", *(one.label for one in measures))
    rows = tuple(
        (
            one.name,
            str(len(one.scores.views)),
            f"{one.tokens_per_view:,.0f}",
            f"{one.scores.bits_per_unit['packed']:.4g}",
            *(m.text(_mean(one.scores, m.key)) for m in measures),
            used(one.scores),
        )
        for one in verdict.judged
    )
    return Table((*head, "ids used"), rows)


def used(scores: Scores) -> str:
    """Return which part of the ids of all streams was used, and the entropy of one."""
    parts = [
        f"{text.percent(use.used_share)}, {use.entropy_bits:.2f} bits"
        for use in scores.streams
        if use.possible
    ]
    return "; ".join(parts) or "-"


def _mean(scores: Scores, key: str, content: str | None = None) -> float | None:
    found = scores.figure(key, content)
    return found.mean if found else None


def by_content(verdict: Verdict) -> Table:
    """Return a row per tokenizer and class of content: mean, and median of the main measure."""
    main, *others = verdict.measures
    several = len(verdict.judged) > 1
    rows = []
    for judged in verdict.judged:
        scores = judged.scores
        only = len(scores.contents) == 1
        alone = scores.contents[0] if only and scores.contents[0] != UNNAMED else "all"
        for content in (*(() if only else scores.contents), None):
            figure = scores.figure(main.key, content)
            name = content or alone
            label = f"{judged.name}: {name}" if several else name
            count = sum(content in (None, view.content) for view in scores.views)
            worst = None
            if figure:
                worst = figure.lowest if main.higher_is_better else figure.highest
            cells = [figure.mean if figure else None, figure.median if figure else None, worst]
            rest = (one.text(_mean(scores, one.key, content)) for one in others)
            rows.append((label, str(count), *(main.text(cell) for cell in cells), *rest))
    head = ("content", "views", f"{main.label} mean", "median", "worst")
    return Table((*head, *(f"{one.label} mean" for one in others)), tuple(rows))


def equal_bytes(verdict: Verdict) -> Table:
    """Return a row per tokenizer, and one per codec that has as many bytes."""
    measures = verdict.measures
    head = ("", "bytes", *(one.label for one in measures), "larger at the lowest quality")
    rows: list[tuple[str, ...]] = []
    for judged in verdict.judged:
        if not judged.equal_bytes:
            continue
        budget = judged.equal_bytes[0].budget_bytes
        means = (one.text(_mean(judged.scores, one.key)) for one in measures)
        rows.append((judged.name, f"{budget:,.0f}", *means, ""))
        for codec in judged.equal_bytes:
            values = (one.text(codec.values.get(one.key)) for one in measures)
            over = f"{codec.over} of {codec.views}"
            label = CODEC_LABELS.get(codec.codec, codec.codec)
            rows.append((label, f"{codec.file_bytes:,.0f}", *values, over if codec.over else "-"))
    return Table(head, tuple(rows))


def prefixes(verdict: Verdict) -> Table:
    """Return a row per tokenizer and length of prefix."""
    measures = verdict.measures
    unit = verdict.judged[0].scores.unit
    head = ("prefix", f"bits/{unit}", *(one.label for one in measures))
    rows = tuple(
        (
            f"{judged.name}: {point.setting:g} tokens",
            f"{point.bits_per_unit:.4g}",
            *(one.text(point.values.get(one.key)) for one in measures),
        )
        for judged in verdict.judged
        for point in judged.prefixes
    )
    return Table(head, rows)


def streams(verdict: Verdict) -> Table:
    """Return a row per stream of each tokenizer."""
    rows = []
    for judged in verdict.judged:
        for use in judged.scores.streams:
            name = use.name if len(verdict.judged) == 1 else f"{judged.name}: {use.name}"
            share = text.percent(use.used_share)
            known = f"{use.used:,} of {use.possible:,} ({share})" if use.possible else "-"
            entropy = "-"
            if use.kind != "float":
                bound = {"index": "at least ", "bits": "at most "}[use.kind] if use.is_bound else ""
                entropy = f"{bound}{use.entropy_bits:.2f} bits"
            bits = f"{use.packed_bits:g}"
            rows.append((name, f"{use.tokens:,}", known, entropy, bits))
    head = ("stream", "ids or codes", "different ids", "entropy of one", "bits of one")
    return Table(head, tuple(rows))


def facts_of(judged: Judged) -> Iterator[tuple[str, str, list[tuple[str, str]]]]:
    """Yield what was found of text and faces: title, by what, and labels with values."""
    if judged.text:
        found = judged.text
        yield (
            "Text",
            found.reader,
            [
                ("characters that come back", text.percent(found.character_accuracy)),
                ("lines without an error", text.percent(found.line_accuracy)),
                ("T-NED", f"{found.t_ned:.3f}"),
                ("recognised in the originals", f"{found.characters} in {found.lines} lines"),
                ("views with text", str(found.views)),
            ],
        )
    if judged.faces:
        faces = judged.faces
        yield (
            "Faces",
            faces.detector,
            [
                ("found again", text.percent(faces.found_again)),
                ("PSNR inside", text.decibels(faces.psnr_db)),
                ("SSIM inside", f"{faces.ssim:.3f}"),
                ("found in the originals", f"{faces.faces} in {faces.views} views"),
            ],
        )


def not_measured(verdict: Verdict) -> list[tuple[str, str]]:
    """Return every part that was left out, and why; of several tokenizers where they differ."""
    found: dict[tuple[str, str], list[str]] = {}
    for judged in verdict.judged:
        for part, why in judged.not_measured.items():
            found.setdefault((part, why), []).append(judged.name)
    everybody = len(verdict.judged)
    return [
        (PART_LABELS[part], why if len(names) == everybody else f"{', '.join(names)}: {why}")
        for (part, why), names in found.items()
    ]


def tiles(judged: Judged) -> list[tuple[str, str, str]]:
    """Return a tokenizer's figures: label, value, and a remark."""
    scores = judged.scores
    found = []
    for one in MEASURES[scores.kind]:
        figure = scores.figure(one.key)
        if figure:
            median = f"median {one.text(figure.median)}"
            found.append((one.label, one.text(figure.mean), median))
    rate = scores.bits_per_unit
    entropy = f"{rate['entropy']:.3g} if coded ideally" if "entropy" in rate else "of latents"
    found.append((f"bits per {scores.unit}", f"{rate['packed']:.4g}", entropy))
    per_view = sum(view.packed_bytes for view in scores.views) / len(scores.views)
    remark = f"{per_view:,.0f} bytes packed"
    found.append(("tokens a view", f"{judged.tokens_per_view:,.0f}", remark))
    ids = [use for use in scores.streams if use.possible]
    if ids:
        share = sum(use.used for use in ids) / sum(use.possible for use in ids)
        kinds = f"of {text.count(sum(use.possible for use in ids))}"
        found.append(("ids used", text.percent(share), kinds))
        entropy = "; ".join(f"{use.entropy_bits:.2f}" for use in ids)
        found.append(("entropy of an id", f"{entropy} bits", f"of {_id_bits(ids)} packed"))
    failed = len(scores.failures)
    found.append(("views", str(len(scores.views)), f"{failed} failed" if failed else "none failed"))
    return found


def _id_bits(uses: list[StreamUse]) -> str:
    return "; ".join(f"{use.packed_bits:g}" for use in uses)


def settings_of(verdict: Verdict) -> dict[str, object]:
    """Return what decided the figures."""
    return {
        "view": dict(verdict.view),
        "settings": dict(verdict.settings),
        "tokenizers": {one.name: dict(one.identity) for one in verdict.judged},
    }


def failures(verdict: Verdict) -> list[dict[str, str]]:
    """Return the assets and views that were not judged, each once."""
    rows = [asdict(one) for one in verdict.failures]
    for judged in verdict.judged:
        rows += [asdict(one) for one in judged.scores.failures]
    return list({tuple(sorted(row.items())): row for row in rows}.values())
