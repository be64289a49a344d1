"""What a training job reads: which stream, its layout, and the classes of its condition."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tokenmill.feed import Feed
from tokenmill.store import Store
from tokenmill_pipelines.train.config import TrainJob
from tokenmill_pipelines.train.generators import Layout
from tokenmill_schemas.errors import JobError
from tokenmill_schemas.snapshot import Snapshot
from tokenmill_schemas.tokens import Stream

Ids = npt.NDArray[np.int64]
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

    def numbers(self, values: Any) -> Ids:
        """Return the numbers of class values; the number of classes stands for null."""
        table = {value: number for number, value in enumerate(self.classes)}
        listed = values.tolist() if isinstance(values, np.ndarray) else values
        return np.array([table.get(_plain(v), len(self.classes)) for v in listed], np.int64)


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
        classes = tuple(_classes(job, pinned)) if job.model.condition else ()
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


def _first_of_ids(streams: Any) -> Stream | None:
    return next((stream for stream in streams if stream.kind == "index"), None)


def _sizes(stream: Stream) -> list[int]:
    return [axis.size for axis in stream.axes if axis.size is not None]


def open_feed(job: TrainJob, shown: Shown, *, rank: int = 0, world_size: int = 1) -> Feed:
    """Return the feed of one worker.

    Raises:
        JobError: a setting is impossible.
        StoreError: the version is gone.
    """
    condition = (job.model.condition,) if job.model.condition else ()
    more: dict[str, Any] = {"where": job.source.where} if job.source.where else {}
    return Feed(
        Store.of(job.source.store),
        batch_size=job.source.batch_size,
        ref=shown.snapshot,
        seed=job.source.seed,
        rank=rank,
        world_size=world_size,
        streams=(shown.stream,),
        columns=("sample_id", *condition),
        shuffle=job.source.shuffle,
        fingerprint=shown.fingerprint,
        **more,
    )


def _classes(job: TrainJob, ref: str) -> Iterator[Any]:
    """Yield the distinct values of the condition, sorted; null is none of them."""
    found: set[Any] = set()
    more: dict[str, Any] = {"where": job.source.where} if job.source.where else {}
    feed = Feed(
        Store.of(job.source.store),
        batch_size=LOOK_ROWS,
        ref=ref,
        streams=(),
        columns=(job.model.condition,),
        shuffle="none",
        epochs=1,
        drop_last=False,
        **more,
    )
    for batch in feed:
        found.update(_plain(value) for value in np.unique(_present(batch[job.model.condition])))
        if len(found) > MAX_CLASSES:
            text = f"column {job.model.condition!r} has more than {MAX_CLASSES} values"
            raise JobError(f"{text}: it names no classes", path="model.condition")
    if not found:
        raise JobError(f"no sample has a {job.model.condition!r}", path="model.condition")
    yield from sorted(found)


def _present(values: Any) -> npt.NDArray[Any]:
    listed = values.tolist() if isinstance(values, np.ndarray) else list(values)
    return np.array([value for value in listed if value is not None and value == value])


def _plain(value: Any) -> Any:
    """Return a numpy scalar as Python's own."""
    return value.item() if isinstance(value, np.generic) else value
