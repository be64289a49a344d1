"""``tokenmill feed``: read a store as a trainer would, or ask what a training sees and costs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from tokenmill_pipelines.cli import output
from tokenmill_pipelines.cli.guard import guard
from tokenmill_pipelines.cli.options import Debug, Json, Ref, StoreAt
from tokenmill_schemas.errors import JobError

if TYPE_CHECKING:
    from tokenmill.feed import Feed, Mixture, Packing

#: Batches that are read if nothing says how many.
BATCHES = 100
#: How often the log of a followed store is looked at.
POLL_S = 1.0

Since = Annotated[str | None, typer.Option("--since", help="Only what is new since this version.")]
Where = Annotated[
    str,
    typer.Option("--where", metavar="EXPR", help="Only samples for which this is true, as in SQL."),
]
Mix = Annotated[
    list[str] | None,
    typer.Option(
        "--mix",
        metavar="STORE[@REF][=WEIGHT]",
        help="Another store to mix in, so many samples to one of STORE's; repeatable.",
    ),
]
Streams = Annotated[
    str, typer.Option("--streams", metavar="A,B", help="Which to read; else the store's own.")
]
Columns = Annotated[
    str, typer.Option("--columns", metavar="A,B", help="Which other columns to read.")
]
Pack = Annotated[
    str,
    typer.Option(
        "--pack",
        metavar="STREAM:LENGTH[:KEY=VALUE,..]",
        help="Pack samples into windows; keys are bos, eos, pad (ids), long (error, truncate, "
        "drop).",
    ),
]
Buckets = Annotated[
    str,
    typer.Option("--buckets", metavar="STREAM", help="Give every step samples of one shape of it."),
]
Shuffle = Annotated[
    Literal["block", "full", "none"], typer.Option("--shuffle", help="How samples are mixed.")
]
BatchSize = Annotated[int, typer.Option("--batch-size", help="Over all ranks.")]
Batches = Annotated[
    int | None,
    typer.Option(
        "--batches",
        min=1,
        show_default=False,
        help="How many to read: 100, or with --follow all that come.",
    ),
]
Seed = Annotated[int, typer.Option("--seed", help="Of the shuffle.")]
WorldSize = Annotated[int, typer.Option("--world-size", help="Number of ranks.")]
Rank = Annotated[int, typer.Option("--rank", help="Which rank to be.")]
FollowTag = Annotated[
    str,
    typer.Option(
        "--follow",
        metavar="TAG",
        help="Go on with what is committed, until the version of that tag.",
    ),
]
Plan = Annotated[
    bool,
    typer.Option(
        "--plan", help="Read nothing: say what an epoch costs, and how well it is shuffled."
    ),
]
Classes = Annotated[
    str,
    typer.Option(
        "--classes", metavar="COLUMN", help="With --plan: how many values of it a batch has."
    ),
]
StepNumber = Annotated[
    int | None,
    typer.Option("--step", metavar="N", min=0, help="Say which samples a step has, from 0."),
]
StepsOf = Annotated[
    str,
    typer.Option(
        "--steps-of", metavar="KEY", help="Say which steps of the first epoch show a sample."
    ),
]
By = Annotated[
    Literal["sample_id", "asset_key"],
    typer.Option("--by", help="With --steps-of: what KEY is; of an asset, all its samples."),
]


def feed(
    store: StoreAt,
    ref: Ref = None,
    since: Since = None,
    where: Where = "",
    mix: Mix = None,
    streams: Streams = "",
    columns: Columns = "",
    pack: Pack = "",
    buckets: Buckets = "",
    shuffle: Shuffle = "block",
    batch_size: BatchSize = 8,
    batches: Batches = None,
    seed: Seed = 0,
    world_size: WorldSize = 1,
    rank: Rank = 0,
    follow: FollowTag = "",
    plan: Plan = False,
    classes: Classes = "",
    step: StepNumber = None,
    steps_of: StepsOf = "",
    by: By = "sample_id",
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Read batches as a trainer would; print the first ones and the speed.

    With --plan, --step or --steps-of no batch is read: they say what it would cost, which samples
    a step has, and which steps show a sample.
    """
    with guard(as_json=as_json, debug=debug) as observer:
        asked = Question(plan, classes, step, steps_of, by)
        asked.check()
        source = _Source(store, ref, since, where, tuple(mix or ()))
        options: dict[str, Any] = {
            "streams": _words(streams) or None,
            "columns": tuple(dict.fromkeys(("sample_id", *_words(columns)))),
            "packing": _packing(pack) if pack else None,
            "buckets": buckets,
            "shuffle": shuffle,
            "batch_size": batch_size,
            "seed": seed,
            "world_size": world_size,
            "rank": rank,
        }
        from tokenmill_pipelines.cli import feed_answers as answers

        opened = source.open(options, follow)
        if asked.is_asked:
            _show(*answers.answer(opened, asked), as_json=as_json)
            return
        limit = batches or (None if follow else BATCHES)
        told = answers.read_batches(opened, limit, _words(columns), observer=observer)
        _show("batches", told, as_json=as_json)


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked of a feed instead of reading it, if anything."""

    plan: bool
    classes: str
    step: int | None
    steps_of: str
    by: Literal["sample_id", "asset_key"]

    @property
    def is_asked(self) -> bool:
        """Whether anything is."""
        return self.plan or self.step is not None or bool(self.steps_of)

    def check(self) -> None:
        """Check that it is one question.

        Raises:
            JobError: it is several, or a part of none.
        """
        if self.plan + (self.step is not None) + bool(self.steps_of) > 1:
            raise JobError("ask one at a time: --plan, --step or --steps-of")
        if self.classes and not self.plan:
            raise JobError("--classes is for --plan")


@dataclass(frozen=True, slots=True)
class _Source:
    """The stores as they were typed."""

    store: str
    ref: str | None
    since: str | None
    where: str
    mix: tuple[str, ...]

    def open(self, options: dict[str, Any], follow: str) -> Feed:
        """Open the feed."""
        from tokenmill.feed import Feed, Follow
        from tokenmill_pipelines.cli import stores

        options = options | {"follow": Follow(follow, poll_s=POLL_S) if follow else None}
        if self.mix:
            return Feed(self._mixture(), **options)
        at, chosen = stores.open_at(self.store, self.ref)
        return Feed(at, ref=chosen, since=self.since, where=self.where, **options)

    def _mixture(self) -> Mixture:
        from tokenmill.feed import Mixture, Part
        from tokenmill_pipelines.cli import stores

        at, chosen = stores.open_at(self.store, self.ref)
        parts = [Part(at, ref=chosen, since=self.since, where=self.where, name=self.store)]
        for text in self.mix:
            name, weight = _weighted(text)
            other, other_ref = stores.open_at(name)
            parts.append(Part(other, weight, other_ref, where=self.where, name=name))
        return Mixture(parts)


def _weighted(text: str) -> tuple[str, float]:
    """Return the store and the weight of ``STORE[@REF][=WEIGHT]``."""
    name, equals, weight = text.rpartition("=")
    if not equals:
        return text, 1.0
    try:
        return name, float(weight)
    except ValueError:
        raise JobError(f"--mix {text}: {weight!r} is no weight, as in STORE=0.5") from None


def _packing(text: str) -> Packing:
    """Return the packing that ``STREAM:LENGTH[:KEY=VALUE,..]`` says."""
    from tokenmill.feed import Packing
    from tokenmill_schemas.strict import nearest

    stream, _, rest = text.partition(":")
    length, _, settings = rest.partition(":")
    given: dict[str, Any] = {"length": _whole(text, length)}
    for word in _words(settings):
        key, _, value = word.partition("=")
        if key not in _PACKING:
            raise JobError(f"--pack {text}: there is no {key!r}; {nearest(key, list(_PACKING))}")
        given[key] = value if key == "long" else _whole(text, value)
    return Packing(stream, **given)


_PACKING = ("bos", "eos", "pad", "long")


def _whole(text: str, number: str) -> int:
    if not number.isdecimal():
        what = f"{number!r} is no number" if number else "it needs a length"
        raise JobError(f"--pack {text}: {what}, as in caption:4096:eos=2,pad=0")
    return int(number)


def _words(text: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in text.split(",") if word.strip())


def _show(name: str, value: Any, *, as_json: bool) -> None:
    if as_json:
        output.document(value)
        return
    from tokenmill_pipelines.cli import feed_tables

    getattr(feed_tables, name)(value)
