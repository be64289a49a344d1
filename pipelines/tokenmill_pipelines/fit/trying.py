"""Trying weights: held-out assets through the same encoder that jobs use, measured part by part.

A picture is cut as the tokenizer's own default view cuts it, a clip keeps its first frames. What is
smaller than that view is cut to the largest size that the tokenizer takes and not enlarged, unless
it takes only one. For a tokenizer of clips a camera moves over a picture, as it does while
learning.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from tokenmill.tokenizers.base import Encoder
from tokenmill.views.base import ViewKind
from tokenmill.views.resize import Rule, apply, fit, owned
from tokenmill_pipelines.fit.batches import moved_cut
from tokenmill_pipelines.fit.config import BatchConfig, FitJob
from tokenmill_pipelines.fit.gather import Gathered
from tokenmill_pipelines.fit.lessons import open_tokenizer
from tokenmill_pipelines.judge import Item, Scores
from tokenmill_pipelines.judge.codecs import Point
from tokenmill_pipelines.judge.curves import PrefixTally
from tokenmill_pipelines.judge.items import Coded, code
from tokenmill_pipelines.judge.measuring import Original, Values
from tokenmill_pipelines.judge.scores import Tally
from tokenmill_pipelines.judge.settings import Settings
from tokenmill_schemas.errors import JobError
from tokenmill_schemas.job import OperatorConfig
from tokenmill_schemas.tokens import TokenSpec

Array = npt.NDArray[Any]
#: What views are where the tokenizer's own default view does not say.
SIDE, FRAMES, RULE = 256, 17, "bicubic"


@dataclass(frozen=True, slots=True)
class Shown:
    """A held-out view, what came back of it, and its figures."""

    key: str
    original: Array
    decoded: Array
    values: Values


@dataclass(frozen=True, slots=True)
class PartTrial:
    """The held-out assets of one part of the data.

    ``prefixes`` has the figures of shorter beginnings, where the tokens decode from any.
    """

    name: str
    scores: Scores
    shown: tuple[Shown, ...]
    prefixes: tuple[Point, ...] = ()


@dataclass(frozen=True, slots=True)
class Trial:
    """What weights make of held-out assets.

    ``spec`` is of the tokens of the largest view; ``identity`` is the tokenizer's.
    """

    kind: ViewKind
    spec: TokenSpec
    identity: dict[str, Any]
    parts: tuple[PartTrial, ...]

    @property
    def views(self) -> int:
        """How many views have scores."""
        return sum(len(part.scores.views) for part in self.parts)


def try_weights(job: FitJob, weights: str, held_out: Sequence[Gathered], kind: ViewKind) -> Trial:
    """Return what the weights of a file make of ``job.tried`` held-out assets, in float32.

    Raises:
        CheckpointError: the file is not of the job's tokenizer.
        JobError: nothing was held out.
    """
    tokenizer = open_tokenizer(tried_tokenizer(job.tokenizer, weights))
    chosen = spread([part.keys for part in held_out], job.tried)
    if not any(chosen):
        raise JobError("no asset was held out: more of them, or a larger share", path="held_out")
    encoder = tokenizer.load(job.machine.device)
    cut = Cut(tokenizer, kind, job.batch)
    try:
        parts = []
        for part, places in zip(held_out, chosen, strict=True):
            views = [(part.keys[n], cut(part.keys[n], part.views[n])) for n in places]
            if views:
                parts.append(_part(part.name, views, (encoder, tokenizer), kind))
    finally:
        encoder.close()
    shapes = [one.original.shape for part in parts for one in part.shown]
    shape = max(shapes, key=lambda one: int(np.prod(one)), default=())
    spec = tokenizer.spec(spec_shape(kind, shape) if shape else None)
    return Trial(kind, spec, dict(tokenizer.identity), tuple(parts))


def tried_tokenizer(section: OperatorConfig, weights: str) -> OperatorConfig:
    """Return a tokenizer's section with other weights, in its default type: float32."""
    options = {name: value for name, value in section.options.items() if name != "dtype"}
    return replace(section, options={**options, "checkpoint": weights})


def spread(parts: Sequence[Sequence[str]], count: int) -> list[list[int]]:
    """Return the places of ``count`` assets, about as many of each part, evenly over its assets.

    Of an asset with several views the first is meant. What a part lacks is taken of the others.
    """
    firsts = []
    for keys in parts:
        seen: dict[str, int] = {}
        for place, key in enumerate(keys):
            seen.setdefault(key, place)
        firsts.append(list(seen.values()))
    found: list[list[int]] = [[] for _ in parts]
    left, order = count, sorted(range(len(parts)), key=lambda n: len(firsts[n]))
    for done, part in enumerate(order):
        share = min(len(firsts[part]), -(-left // (len(order) - done)))
        picks = np.linspace(0, len(firsts[part]) - 1, share).round().astype(int)
        found[part] = [firsts[part][pick] for pick in picks]
        left -= share
    return found


class Cut:
    """Cuts gathered views to what is tried.

    Args:
        tokenizer: what the views are for; its default view and what it takes are asked.
        kind: of the views that it learned from.
        batch: how pictures become clips.
    """

    def __init__(self, tokenizer: Any, kind: ViewKind, batch: BatchConfig) -> None:
        view = dict(tokenizer.default_view)
        self.tokenizer, self.kind, self.batch = tokenizer, kind, batch
        self.rule: Rule = view.get("rule", RULE)
        size = view.get("size", SIDE)
        self.side = int(size if isinstance(size, int) else min(size))
        self.frames = int(view.get("frames", FRAMES)) or FRAMES

    def __call__(self, key: str, view: Array) -> Array:
        """Return a view of an asset: ``uint8[S, S, 3]``, ``uint8[T, S, S, 3]``, a whole volume."""
        if self.kind == "voxels":
            return view
        side = largest(self.side, min(view.shape[-3:-1]), lambda n: self._takes(self.frames, n))
        if self.kind == "image":
            return self._square(view, side)
        if view.ndim == 3:
            how = replace(self.batch, side=side, frames=self.frames)
            return moved_cut(view, how, np.random.Generator(np.random.Philox(key=seed_of(key))))
        frames = largest(self.frames, len(view), lambda n: self._takes(n, side))
        return np.stack([self._square(frame, side) for frame in view[:frames]])

    def _square(self, picture: Array, side: int) -> Array:
        how = fit(self.rule, (side, side), (picture.shape[1], picture.shape[0]))
        return owned(apply(Image.fromarray(picture), how))

    def _takes(self, frames: int, side: int) -> bool:
        shape = (side, side) if self.kind == "image" else (frames, side, side)
        try:
            self.tokenizer.spec(shape)
        except JobError:
            return False
        return True


def largest(wanted: int, there: int, takes: Callable[[int], bool]) -> int:
    """Return the largest number up to ``there`` that is taken; ``wanted`` if that is less or none.

    A tokenizer that takes one size only is given that.
    """
    return next((n for n in range(min(wanted, there), 0, -1) if takes(n)), wanted)


def seed_of(key: str) -> int:
    """Return a number for an asset that does not depend on which others there are."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "little")


def spec_shape(kind: ViewKind, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the shape that a tokenizer's spec is asked with, of an array's."""
    return shape[:-1] if kind in ("image", "clip") else shape


def _part(
    name: str, views: list[tuple[str, Array]], live: tuple[Encoder, Any], kind: ViewKind
) -> PartTrial:
    encoder, tokenizer = live
    spec = tokenizer.spec(spec_shape(kind, views[0][1].shape))
    tally = Tally(spec, kind)
    prefixes = PrefixTally(encoder, spec, kind=kind, settings=Settings(prefixes=lengths(spec)))
    shown = []
    for coded in code(encoder, (Item(view, key, name) for key, view in views)):
        score = tally.add(coded)
        if isinstance(coded, Coded) and score is not None:
            if not prefixes.why_not:
                prefixes.add(coded, Original(kind, coded.item.data))
            shown.append(Shown(score.key, coded.item.data, coded.decoded, score.values))
    points = () if prefixes.why_not else prefixes.points()
    return PartTrial(name, tally.scores(), tuple(shown), points)


def lengths(spec: TokenSpec) -> tuple[int, ...]:
    """Return the beginnings that are tried: the shortest, and twice as long as far as it goes."""
    return tuple(_doubled(spec)) or (1,)


def _doubled(spec: TokenSpec) -> Iterator[int]:
    stream = spec.streams[0]
    length, whole = stream.min_prefix, int(np.prod([axis.size or 1 for axis in stream.axes]))
    while 0 < length <= whole:
        yield length
        length *= 2
