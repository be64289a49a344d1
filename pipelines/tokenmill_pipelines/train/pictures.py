"""From ids to pictures: samples of a trained generator, decoded by the store's own tokenizer."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import cast

import numpy as np
import numpy.typing as npt
import torch

from tokenmill.plugins import open_operator
from tokenmill.store import Store
from tokenmill.tokenizers.base import Array, Tokenizer
from tokenmill.views import open_view
from tokenmill.views.base import ViewKind
from tokenmill_pipelines.report.drawing import contact_sheet
from tokenmill_pipelines.report.record import Pixels
from tokenmill_pipelines.train.checkpoint import Checkpoint
from tokenmill_pipelines.train.config import SamplingConfig, TrainJob
from tokenmill_pipelines.train.generators import Generator, build_generator
from tokenmill_pipelines.train.sampling import sample
from tokenmill_pipelines.train.tokens import CLASS, Shown, open_feed, stream_of
from tokenmill_schemas.errors import JobError
from tokenmill_schemas.job import Job, parse_job
from tokenmill_schemas.snapshot import Snapshot
from tokenmill_schemas.tokens import Stream

Ids = npt.NDArray[np.int64]
#: Classes shown in a report, samples drawn at once, and stored samples beside those of a class.
MAX_CLASSES = 32
BATCH = 64
STORED = 2
#: Steps of the feed that are looked through for stored samples of every class.
LOOK_STEPS = 50


@dataclass(frozen=True, slots=True)
class Row:
    """One class of a report: pictures that were generated, and some of stored tokens."""

    label: str
    made: tuple[Pixels, ...]
    stored: tuple[Pixels, ...]


class Decoder:
    """Decodes ids by the tokenizer that made a store."""

    def __init__(self, snapshot: Snapshot, stream: Stream) -> None:
        """Load the tokenizer.

        Raises:
            JobError: the store has other streams, or its tokenizer cannot decode or is not what it
                was; says which.
        """
        job = parse_job(snapshot.job)
        tokenizer = _tokenizer(job)
        names = [one.name for one in snapshot.spec.streams]
        if names != [stream.name]:
            raise JobError(f"the store's tokenizer decodes {names} together", path="source.stream")
        if not tokenizer.can_decode:
            raise JobError(f"tokenizer {job.tokenizer.kind!r} has no decoder", path="source.store")
        if tokenizer.identity != snapshot.fingerprint_parts.get("tokenizer"):
            raise JobError(
                f"tokenizer {job.tokenizer.kind!r} is not the one that made the store any more",
                path="source.store",
            )
        self._stream = stream
        self._kind: ViewKind = _view_kind(job, tokenizer)
        self._encoder = tokenizer.load("cpu")

    def pictures(self, ids: Ids) -> list[Pixels]:
        """Return a picture ``uint8[H, W, 3]`` for each row of ids ``[B, N]``."""
        sizes = [axis.size or 1 for axis in self._stream.axes]
        tokens = ids.reshape(len(ids), *sizes).astype(self._stream.storage_dtype)
        decoded = self._encoder.decode({self._stream.name: tokens})
        return [_picture(self._kind, one) for one in decoded]

    def close(self) -> None:
        """Let the tokenizer go."""
        self._encoder.close()


def _tokenizer(job: Job) -> Tokenizer:
    kind, options = job.tokenizer.kind, job.tokenizer.options
    found = open_operator("tokenmill.tokenizers", kind, options, path="tokenizer")
    return cast("Tokenizer", found)


def _view_kind(job: Job, tokenizer: Tokenizer) -> ViewKind:
    if job.view is not None:
        return open_view(job.view.kind, job.view.options).gives
    options = dict(tokenizer.default_view)
    return open_view(options.pop("kind"), options).gives


def _picture(kind: ViewKind, decoded: Array) -> Pixels:
    if kind == "image":
        picture: Pixels = decoded if decoded.ndim == 3 else decoded[0]
        return picture
    if kind == "clip":
        return contact_sheet(decoded)
    from tokenmill_pipelines.report.render import render

    return render(kind, decoded)


def average_network(job: TrainJob, shown: Shown, checkpoint: Checkpoint) -> Generator:
    """Return the network with the averaged weights of a checkpoint."""
    network = build_generator(job.model, shown.layout, seed=0)
    network.load_state_dict(checkpoint.part("ema"))
    return network.eval()


def generate(network: Generator, classes: Ids, how: SamplingConfig) -> Ids:
    """Return ids ``int64[B, N]`` for classes, drawn `BATCH` at a time."""
    parts = []
    for number, start in enumerate(range(0, len(classes), BATCH)):
        part = torch.from_numpy(classes[start : start + BATCH])
        parts.append(sample(network, part, how, batch=number).numpy())
    return np.concatenate(parts)


def rows(job: TrainJob, shown: Shown, checkpoint: Checkpoint) -> Iterator[Row]:
    """Yield every class's samples, and stored ones beside them.

    Raises:
        JobError: the store's tokenizer cannot decode them.
    """
    numbers = list(range(len(shown.classes)))[:MAX_CLASSES] or [0]
    count = job.sampling.count
    network = average_network(job, shown, checkpoint)
    snapshot = Store.of(job.source.store).snapshot(shown.snapshot)
    decoder = Decoder(snapshot, stream_of(snapshot, shown.stream))
    try:
        made = decoder.pictures(generate(network, np.repeat(numbers, count), job.sampling))
        stored = _stored(job, shown, numbers)
        for place, number in enumerate(numbers):
            label = str(shown.classes[number]) if shown.classes else ""
            beside = decoder.pictures(np.stack(stored[number])) if stored[number] else []
            yield Row(label, tuple(made[place * count : (place + 1) * count]), tuple(beside))
    finally:
        decoder.close()


def _stored(job: TrainJob, shown: Shown, numbers: list[int]) -> dict[int, list[Ids]]:
    """Return the ids of the first samples of each class that a feed shows, none of them twice."""
    found: dict[int, list[Ids]] = {number: [] for number in numbers}
    feed = open_feed(job, shown, plain=True)
    for batch, _ in zip(feed, range(min(LOOK_STEPS, len(feed))), strict=False):
        for number, row in zip(batch[CLASS], batch[shown.stream], strict=True):
            if len(found.get(int(number), ())) < STORED and int(number) in found:
                found[int(number)].append(row)
        if all(len(each) == STORED for each in found.values()):
            break
    return found
