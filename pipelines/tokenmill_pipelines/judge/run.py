"""A judgement from its settings to its verdict: one pass over the views for each tokenizer."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from tokenmill.tokenizers.base import Encoder, Tokenizer
from tokenmill.views.base import ViewKind
from tokenmill.worker.worker import tune_torch
from tokenmill_infra.observe import Observer, SilentObserver
from tokenmill_pipelines.assemble import Operators
from tokenmill_pipelines.judge import faces, texts
from tokenmill_pipelines.judge.codecs import CodecTally, Point
from tokenmill_pipelines.judge.curves import PerturbedTally, PrefixTally
from tokenmill_pipelines.judge.features import open_features
from tokenmill_pipelines.judge.items import Coded, Item, code
from tokenmill_pipelines.judge.measuring import MEASURES, Original
from tokenmill_pipelines.judge.perturbing import fsq_levels
from tokenmill_pipelines.judge.reading import Views
from tokenmill_pipelines.judge.scores import Tally, ViewScore
from tokenmill_pipelines.judge.settings import Part, Settings
from tokenmill_pipelines.judge.verdict import Judged, Shown, Verdict
from tokenmill_pipelines.report.environment import environment
from tokenmill_schemas.errors import JobError
from tokenmill_schemas.job import ClusterConfig, LimitsConfig

#: Why a part was left out.
SKIPPED = "left out by the settings"
NO_READER = "rapidocr and onnxruntime are not installed (the extra judge)"
NO_DETECTOR = "scikit-image is not installed (the extra judge)"
ONLY_PICTURES = "only pictures have it"
ONLY_PIXELS = "only pictures and clips have it"
#: The kinds of views that some parts are measured on, and why not on others.
KINDS: dict[Part, tuple[tuple[ViewKind, ...], str]] = {
    "codecs": (("image", "clip"), ONLY_PIXELS),
    "text": (("image",), ONLY_PICTURES),
    "faces": (("image",), ONLY_PICTURES),
}


@dataclass(slots=True)
class _Pass:
    """One tokenizer's pass over the views, and the tallies of its parts."""

    encoder: Encoder
    tally: Tally
    codecs: CodecTally | None
    prefixes: PrefixTally | None
    perturbed: PerturbedTally | None
    text: texts.TextTally | None
    faces: faces.FaceTally | None
    not_measured: dict[str, str] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Add the time that a block takes to a part's."""
        start = time.perf_counter()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start


def judge(
    tokenizers: Tokenizer | Mapping[str, Tokenizer],
    operators: Operators,
    settings: Settings | None = None,
    *,
    limits: LimitsConfig | None = None,
    observer: Observer | None = None,
) -> Verdict:
    """Judge one tokenizer, or several by their names, on the views that ``operators`` read.

    Args:
        tokenizers: each with a decoder, and able to take the view's views.
        operators: whose source, decoder and view are used.
        settings: what is measured, and on how much.
        limits: what one view may cost.
        observer: gets the progress.

    Raises:
        JobError: a tokenizer has no decoder or does not take the views, or no view could be judged.
    """
    settings = settings or Settings()
    named = tokenizers if isinstance(tokenizers, Mapping) else {"tokenizer": tokenizers}
    views = Views(operators, settings, limits or LimitsConfig())
    observer = observer or SilentObserver()
    judged: list[Judged] = []
    curves: Mapping[str, tuple[Point, ...]] = {}
    for number, (name, tokenizer) in enumerate(named.items()):
        own = replace(operators, tokenizer=tokenizer)
        check(name, own)
        done, found = _judge_one(name, views, own, observer=observer, first=number == 0)
        judged.append(done)
        curves = found or curves
    return Verdict(
        judged=tuple(judged),
        codecs=curves,
        view=dict(operators.view.identity),
        kind=operators.view.gives,
        listed=views.listed,
        chosen=len(views.assets()),
        failures=tuple(views.failures),
        settings=asdict(settings),
        environment=environment(),
    )


def check(name: str, operators: Operators) -> None:
    """See that a tokenizer can be judged on the views.

    Raises:
        JobError: it has no decoder, or takes other views.
    """
    tokenizer, view = operators.tokenizer, operators.view
    if not tokenizer.can_decode:
        raise JobError(f"{name} has no decoder, so nothing comes back to be judged")
    if view.gives not in tokenizer.takes:
        raise JobError(f"{name} takes {' or '.join(tokenizer.takes)}, the view gives {view.gives}")


def _judge_one(
    name: str, views: Views, operators: Operators, *, observer: Observer, first: bool
) -> tuple[Judged, Mapping[str, tuple[Point, ...]]]:
    encoder = operators.tokenizer.load("cpu")
    tune_torch(ClusterConfig(), "cpu")
    try:
        run = _open(encoder, views, operators, first=first)
        for done, coded in enumerate(_coded(run, views.items()), 1):
            _measure(run, coded)
            observer.progress(done, 0)
        scores = run.tally.scores()
        if not scores.views:
            first_failure = [*scores.failures, *views.failures][:1]
            why = f": {first_failure[0].error}" if first_failure else ""
            raise JobError(f"{name} could be judged on no view of the data{why}")
        failures = tuple(views.failures)
        shown = tuple(_shown(encoder, views, pick(scores.views, views.settings.pictures, run)))
        views.failures[:] = failures
    finally:
        encoder.close()
    return _verdict(name, operators, run, shown), run.codecs.curves() if run.codecs else {}


def _open(encoder: Encoder, views: Views, operators: Operators, *, first: bool) -> _Pass:
    settings, spec, kind = views.settings, operators.spec, operators.view.gives
    why = dict[str, str]()

    def wanted(part: Part, *, missing: str = "") -> bool:
        """Whether a part is measured; notes why it is not."""
        kinds, only = KINDS.get(part, ((kind,), ""))
        if not settings.wants(part):
            why[part] = SKIPPED
        elif kind not in kinds:
            why[part] = only
        elif missing:
            why[part] = missing
        return part not in why

    perturbed = None
    if wanted("perturbed"):
        features = open_features(settings.features)
        levels = fsq_levels(operators.tokenizer, spec)
        perturbed = PerturbedTally(
            encoder, spec, kind=kind, settings=settings, features=features, levels=levels
        )
    prefixes = None
    if wanted("prefixes"):
        prefixes = PrefixTally(encoder, spec, kind=kind, settings=settings)
    reads = wanted("text", missing="" if texts.is_installed() else NO_READER)
    looks = wanted("faces", missing="" if faces.is_installed() else NO_DETECTOR)
    return _Pass(
        encoder,
        Tally(spec, kind),
        CodecTally(curves=first) if wanted("codecs") else None,
        prefixes,
        perturbed,
        texts.TextTally() if reads else None,
        faces.FaceTally() if looks else None,
        why,
    )


def _coded(run: _Pass, items: Iterator[Item]) -> Iterator[Any]:
    """Yield what the encoder makes of the views, and count the time that it takes."""
    coded = code(run.encoder, items)
    while True:
        with run.timed("reconstruct"):
            one = next(coded, None)
        if one is None:
            return
        yield one


def _measure(run: _Pass, coded: Any) -> None:
    with run.timed("measure"):
        score = run.tally.add(coded)
    if score is None:
        return
    original = Original(run.tally.kind, coded.item.data)
    if run.codecs:
        with run.timed("codecs"):
            run.codecs.add(original, score.packed_bytes)
    if run.prefixes:
        with run.timed("prefixes"):
            run.prefixes.add(coded, original)
    if run.perturbed:
        with run.timed("perturbed"):
            run.perturbed.add(coded, original)
    if run.text:
        with run.timed("text"):
            run.text.add(coded.item.data, coded.decoded)
    if run.faces:
        with run.timed("faces"):
            run.faces.add(coded.item.data, coded.decoded)


def pick(views: Sequence[ViewScore], count: int, run: _Pass) -> dict[tuple[str, str], str]:
    """Return the worst, middle and best views, by key and name, with the word for their place.

    Of few views no more than a third are called the worst.
    """
    main = MEASURES[run.tally.kind][0]
    able = [view for view in views if main.key in view.values]
    sign = 1 if main.higher_is_better else -1
    ranked = sorted(able, key=lambda view: (sign * view.values[main.key], view.key, view.view))
    count = min(count, -(-len(ranked) // 3))
    middle = max(0, len(ranked) // 2 - count // 2)
    found: dict[tuple[str, str], str] = {}
    parts = {
        "worst": ranked[:count],
        "best": ranked[::-1][:count],
        "middle": ranked[middle : middle + count],
    }
    for place, some in parts.items():
        for view in some:
            found.setdefault((view.key, view.view), place)
    return found


def _shown(
    encoder: Encoder, views: Views, places: Mapping[tuple[str, str], str]
) -> Iterator[Shown]:
    """Read the chosen views again, which costs less than keeping all of them."""
    keys = {key for key, _ in places}
    items = (item for item in views.items(only=keys) if (item.key, item.view) in places)
    for coded in code(encoder, items):
        if isinstance(coded, Coded):
            values = Original(views.operators.view.gives, coded.item.data).compare(coded.decoded)
            place = places[coded.item.key, coded.item.view]
            yield Shown(place, coded.item, coded.decoded, values)


def _verdict(name: str, operators: Operators, run: _Pass, shown: tuple[Shown, ...]) -> Judged:
    why = run.not_measured
    scores = run.tally.scores()
    text = run.text.score() if run.text else None
    found = run.faces.score() if run.faces else None
    if run.text and text is None:
        why["text"] = "no text was recognised in the originals"
    if run.faces and found is None:
        why["faces"] = "no face was found in the originals"
    if run.perturbed and run.perturbed.why_not:
        why["perturbed"] = run.perturbed.why_not
    if run.prefixes and run.prefixes.why_not:
        why["prefixes"] = run.prefixes.why_not
    main = MEASURES[scores.kind][0]
    order = {"worst": 0, "middle": 1, "best": 2}
    sign = 1 if main.higher_is_better else -1
    return Judged(
        name=name,
        identity=operators.tokenizer.identity,
        tokens_per_view=sum(use.tokens for use in scores.streams) / len(scores.views),
        scores=scores,
        equal_bytes=run.codecs.equal() if run.codecs else (),
        prefixes=run.prefixes.points() if run.prefixes else (),
        perturbed=run.perturbed.curves() if run.perturbed else (),
        text=text,
        faces=found,
        not_measured=dict(sorted(why.items())),
        shown=tuple(sorted(shown, key=lambda one: (order[one.place], sign * one.values[main.key]))),
        seconds=run.seconds,
    )
