"""What a training job reads: which stream, its layout, the classes of its condition, and its feed.

All that is done to tokens before a network sees them is done by the feed's transforms, whose random
numbers are a function of seed, step and place: so it is the same for any number of workers.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tokenmill.feed import Feed
from tokenmill.feed.columns import Batch
from tokenmill.feed.reading import Transform
from tokenmill.feed.sequence.draw import Draw
from tokenmill.feed.shaping.dropout import DropCondition
from tokenmill.feed.shaping.masking import MaskTokens
from tokenmill.store import Store
from tokenmill_pipelines.train.config import TrainJob
from tokenmill_pipelines.train.generators import Layout
from tokenmill_schemas.errors import JobError
from tokenmill_schemas.snapshot import Snapshot
from tokenmill_schemas.tokens import Stream

#: The name under which a batch has the numbers of its samples' classes.
CLASS = "class"
#: More distinct values than this are no classes but, most likely, the wrong column.
MAX_CLASSES = 10_000
#: Samples of a step when all are looked through for their classes.
LOOK_ROWS = 4096


@dataclass(frozen=True, slots=True)
class Shown:
    """What of a store is learned: one version, one stream of ids, the classes by number."""

    snapshot: str
    fingerprint: str
    stream: str
    layout: Layout
    classes: tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Numbered:
    """A transform: ids of any axes in raster order, and classes by their numbers.

    Gives ``"<stream>"`` as int64[B, N] and ``"class"`` as int64[B]: the place of the value of
    ``condition`` in ``classes``, their number for null and where there is no condition.
    """

    stream: str
    condition: str
    classes: tuple[Any, ...]

    def __call__(self, batch: Batch, draw: Draw) -> Batch:
        """Flatten and number."""
        del draw
        ids = np.asarray(batch[self.stream]).astype(np.int64)
        values = batch[self.condition] if self.condition else [None] * len(ids)
        listed = values.tolist() if isinstance(values, np.ndarray) else list(values)
        places = {value: place for place, value in enumerate(self.classes)}
        numbers = [places.get(value, len(self.classes)) for value in listed]
        new = {self.stream: ids.reshape(len(ids), -1), CLASS: np.array(numbers, np.int64)}
        return {**batch, **new}


def transforms(job: TrainJob, shown: Shown) -> tuple[Transform, ...]:
    """Return what the feed does to a batch for a job's network.

    A masked network's batch has ``"<stream>.mask"`` and ``"<stream>.targets"`` (MaskGIT's cosine).
    """
    model, layout = job.model, shown.layout
    made: list[Transform] = [Numbered(shown.stream, model.condition, shown.classes)]
    if model.condition and model.condition_dropout:
        made.append(DropCondition(((CLASS, layout.classes),), model.condition_dropout))
    if model.kind == "masked":
        made.append(MaskTokens(shown.stream, layout.ids))
    return tuple(made)


def look(job: TrainJob, *, ref: str = "", classes: Sequence[Any] | None = None) -> Shown:
    """Return what a job learns from, reading its condition's column once unless told its classes.

    Raises:
        JobError: the store has no such stream or column, or tokens that these networks cannot take.
        StoreError: there is no such store or version.
    """
    store = Store.of(job.source.store)
    snapshot = store.snapshot(ref or job.source.ref or None)
    stream = stream_of(snapshot, job.source.stream)
    pinned = reference(snapshot)
    if classes is None:
        classes = tuple(_classes(job, pinned, stream.name)) if job.model.condition else ()
    layout = Layout(stream.vocab_sizes[0], math.prod(_sizes(stream)), len(classes))
    return Shown(pinned, snapshot.fingerprint, stream.name, layout, tuple(classes))


def reference(snapshot: Snapshot) -> str:
    """Return the words by which a feed finds just this version again."""
    if snapshot.branch == "main":
        return str(snapshot.number)
    return f"{snapshot.branch}:{snapshot.number}"


def stream_of(snapshot: Snapshot, name: str) -> Stream:
    """Return the stream to learn: that of a name, or the first of ids.

    Raises:
        JobError: there is none, or its samples are no fixed number of ids of one vocabulary.
    """
    streams = {stream.name: stream for stream in snapshot.spec.streams}
    found = streams.get(name) if name else _first_of_ids(streams.values())
    if found is None:
        asked = f"no stream {name!r}" if name else "no stream of ids"
        raise JobError(f"the store has {asked}; it has {sorted(streams)}", path="source.stream")
    if found.kind != "index" or len(found.vocab_sizes) != 1 or not found.is_fixed:
        raise JobError(
            f"the reference generators learn samples of one fixed number of ids of one vocabulary; "
            f"stream {found.name!r} has kind {found.kind}, vocabularies {list(found.vocab_sizes)} "
            f"and {'fixed' if found.is_fixed else 'varying'} shapes",
            path="source.stream",
        )
    return found


def _first_of_ids(streams: Iterable[Stream]) -> Stream | None:
    return next((stream for stream in streams if stream.kind == "index"), None)


def _sizes(stream: Stream) -> list[int]:
    return [axis.size for axis in stream.axes if axis.size is not None]


def open_feed(
    job: TrainJob, shown: Shown, *, rank: int = 0, world_size: int = 1, plain: bool = False
) -> Feed:
    """Return the feed of one worker; ``plain`` drops no class and hides no id.

    Raises:
        JobError: a setting is impossible.
        StoreError: the version is gone.
    """
    condition = (job.model.condition,) if job.model.condition else ()
    shaping = transforms(job, shown)
    return Feed(
        Store.of(job.source.store),
        batch_size=job.source.batch_size,
        ref=shown.snapshot,
        where=job.source.where,
        seed=job.source.seed,
        rank=rank,
        world_size=world_size,
        streams=(shown.stream,),
        columns=("sample_id", *condition),
        transforms=shaping[:1] if plain else shaping,
        shuffle=job.source.shuffle,
        fingerprint=shown.fingerprint,
    )


def _classes(job: TrainJob, ref: str, stream: str) -> list[Any]:
    """Return the distinct values of the condition, sorted; null is none of them."""
    name, found = job.model.condition, set[Any]()
    feed = Feed(
        Store.of(job.source.store),
        batch_size=LOOK_ROWS,
        ref=ref,
        where=job.source.where,
        streams=(stream,),
        columns=(name,),
        shuffle="none",
        epochs=1,
        drop_last=False,
    )
    for batch in feed:
        found.update(_present(batch[name]))
        if len(found) > MAX_CLASSES:
            text = f"column {name!r} has more than {MAX_CLASSES} values: it names no classes"
            raise JobError(text, path="model.condition")
    if not found:
        raise JobError(f"no sample has a {name!r}", path="model.condition")
    return sorted(found)


def _present(values: Any) -> set[Any]:
    """Return the values as Python's own, without null and NaN."""
    listed = values.tolist() if isinstance(values, np.ndarray) else list(values)
    return {value for value in listed if value is not None and value == value}
