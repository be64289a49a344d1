"""The feed: snapshots as an endless, resumable, deterministic sequence of batches.

Which rows make a step is a function of (snapshots, settings, seed, step) and of nothing else: not
of ranks, threads, or how often the job was stopped. State is therefore a position, restored at no
cost.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import fields
from functools import partial
from typing import TYPE_CHECKING, Any

from tokenmill.feed.columns import Batch
from tokenmill.feed.parts import Mixture, OpenedPart, Reading, Ref, open_part
from tokenmill.feed.reading import Reader, Transform
from tokenmill.feed.sequence.follow import Follow
from tokenmill.feed.sequence.migration import Migration, migrated, restored
from tokenmill.feed.sequence.order import Shuffle
from tokenmill.feed.sequence.schedule import Place, StepSamples, check_step
from tokenmill.feed.settings import Settings, check_length, check_settings, whole
from tokenmill.feed.shards.files import ShardCache, default_cache
from tokenmill.feed.source import Source, mixture_of, open_source
from tokenmill.feed.state import state_from_json
from tokenmill.feed.stepping import Stepper
from tokenmill.store import Store
from tokenmill_schemas.errors import JobError
from tokenmill_schemas.snapshot import Snapshot
from tokenmill_schemas.tokens import Stream

if TYPE_CHECKING:
    from tokenmill.feed.rows.keys import By
    from tokenmill.feed.sequence.packing import Packing
    from tokenmill.feed.tensors import Device, Ids, TorchFeed
    from tokenmill.feed.torch_dataset import FeedDataset


class Feed:
    """Reads snapshots of one store or several into one rank of a training job.

    Iterating yields dicts: every stream as ``[batch_size / world_size, *stream shape]`` in its
    storage type (ids in the narrowest unsigned type, bits as uint8, bfloat16 as its uint16 bits),
    or a list of arrays where shapes vary; every column of ``columns`` as an array, text as
    objects. Joined in the order of ranks, the batches of all ranks are the global batch, the same
    for any world size. Tokens of an Arrow store own their memory, so a batch may be kept or
    written to.

    ``packing`` joins samples of varying length to windows of one length (`tokenmill.feed.packed`
    says what a batch has then); ``buckets`` gives every step samples of one shape. Both are part of
    the order, so a restore is exact and free with them, too. ``transforms`` shape the tokens of
    each batch (`tokenmill.feed.shaping`), with random numbers that do not depend on ranks.

    ``epochs`` None never ends. Otherwise iteration stops after that many epochs in all, counted
    from the start of training and not from a restore. An iterator goes on where the last one
    stopped; only the newest one is good. An epoch of a mixture ends with the store that is through
    first; the others go on in the next where they stood.

    ``drop_last`` leaves out the last samples of an epoch's order that fill no batch, other ones
    each epoch. Without it the last batch is completed with the first samples of the same epoch, so
    that each is seen at least once and all ranks always get equal shapes. A mixture knows neither:
    its stores' epochs run on into each other.

    A step is counted as done once its batch was given out: save `state_dict` after training on it.

    Args:
        source: A store, its URI, or a mixture of several.
        batch_size: Samples (windows, if packed) of a step, over all ranks; a multiple of
            ``world_size``.
        ref: Number, tag, branch, ``branch:number`` or date; None is the newest one now.
        since: An earlier version: only what was added, changed or tokenized again since then
            is shown.
        where: Which samples are shown, e.g. ``"aesthetic > 5 and licence = 'cc0'"``: a
            condition on columns, also of column groups (`tokenmill_schemas.where`). It is
            evaluated here; an epoch has exactly those samples.
        seed: Another seed is another order.
        rank: This process' place among ``world_size``.
        world_size: Number of processes that share each batch.
        streams: Streams to read, also of column groups; None is all of the store's own.
        columns: Other columns to read, also of column groups. Samples of which a group that
            is read has no values are not shown; `uncovered` counts them.
        packing: How samples of varying length are packed into windows.
        buckets: The stream whose shape all samples of a step have in common.
        one_view: Show one of each asset's views an epoch, another one each time.
        transforms: What shapes the tokens of a batch, in this order.
        shuffle: "block" (see `tokenmill.feed.sequence.order`), "full" or "none" (manifest order).
        epochs: When to stop; None never.
        drop_last: What to do with the samples that fill no batch.
        follow: Train while the store is written (`tokenmill.feed.sequence.follow`): ``ref`` is the
            version to begin with, None the first one.
        threads: Threads that read ahead; 0 reads in the caller's.
        fingerprint: If given, the only fingerprint that is accepted.
        cache: Where shards of a store on an object store are kept.

    Raises:
        JobError: a setting is impossible; names it.
        FingerprintError: a store holds tokens of another fingerprint.
        StoreError: there is no such store or snapshot, or it shows no samples.
    """

    def __init__(
        self,
        source: Store | str | Mixture,
        *,
        batch_size: int,
        ref: Ref = None,
        since: Ref = None,
        where: str = "",
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        streams: Sequence[str] | None = None,
        columns: Sequence[str] = ("sample_id",),
        packing: Packing | None = None,
        buckets: str = "",
        one_view: bool = False,
        transforms: Sequence[Transform] = (),
        shuffle: Shuffle = "block",
        epochs: int | None = None,
        drop_last: bool = True,
        follow: Follow | None = None,
        threads: int = 2,
        fingerprint: str = "",
        cache: ShardCache | None = None,
    ) -> None:
        """Open the snapshots; reads their manifests and no shard but the first."""
        reading = Reading(None if streams is None else tuple(streams), tuple(columns), fingerprint)
        batch_size, seed = whole("batch_size", batch_size), whole("seed", seed)
        rank, world_size = whole("rank", rank), whole("world_size", world_size)
        self._settings = Settings(batch_size, seed, shuffle, drop_last, packing, buckets, one_view)
        self._place, self._epochs, self.threads = Place(rank, world_size), epochs, threads
        check_settings(self._settings, self._place, threads=threads, epochs=epochs, follow=follow)
        mixture = mixture_of(source, ref=ref, since=since, where=where)
        cache = cache or ShardCache(default_cache())
        self._opening = partial(open_part, reading=reading, cache=cache)
        self.source = open_source(mixture, reading, self._settings, follow=follow, cache=cache)
        check_length(self.source.schedule.end_of(epochs or 0), epochs, batch_size)
        self._reader = Reader.of(self.source, tuple(transforms), self._place)
        self._stepper = Stepper(self.source, self._reader, threads=threads)
        self._step = self._iterators = 0
        self._reading = reading
        self._others = {
            "transforms": tuple(transforms),
            "epochs": epochs,
            "follow": follow,
            "threads": threads,
            "cache": cache,
        }

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle as settings and a step: a copy opens the same snapshots anew."""
        given = (self._settings, self._place, self._reading)
        options = {f.name: getattr(some, f.name) for some in given for f in fields(some)}
        return _copy, (self.source.mixture, options | self._others, self.state_dict())

    @property
    def parts(self) -> Sequence[OpenedPart]:
        """What is read, opened: one store, those of the mixture, or the chapters so far."""
        return self.source.parts

    @property
    def snapshot(self) -> Snapshot:
        """The version that is read; of several, the first."""
        return self.source.parts[0].snapshot

    @property
    def settings(self) -> Settings:
        """What the order depends on beside the snapshots."""
        return self._settings

    @property
    def place(self) -> Place:
        """Which part of every batch this feed reads."""
        return self._place

    @property
    def rows(self) -> int:
        """Samples that the snapshots show; without a mixture, those of an epoch."""
        return sum(part.opened.plan.rows for part in self.source.parts)

    @property
    def uncovered(self) -> int:
        """Samples that are not shown because a column group that is read has no values of them."""
        return sum(part.opened.uncovered for part in self.source.parts)

    @property
    def streams(self) -> tuple[Stream, ...]:
        """The streams that are read, those of column groups among them, as batches have them."""
        return self.source.streams

    @property
    def step(self) -> int:
        """Steps done since the start of training: the number of the next one."""
        return self._step

    @property
    def epoch(self) -> int:
        """Epoch of the next step, from 0."""
        return self.source.schedule.locate(self._step)[0]

    @property
    def total_steps(self) -> int | None:
        """Steps of all `epochs`; None without end, or where the end is not known yet."""
        if self.source.follow is not None:
            return self.source.schedule.total_steps()
        return None if self._epochs is None else self.source.schedule.end_of(self._epochs)

    def __len__(self) -> int:
        """Return the number of steps of one epoch; of a followed store, of what is committed."""
        return self.source.schedule.epoch_steps()

    def __iter__(self) -> Iterator[Batch]:
        self._iterators += 1
        return self._go_on(self._iterators)

    def iterate(self, start: int | None = None, stride: int = 1) -> Iterator[Batch]:
        """Yield the batches of steps ``start``, ``start + stride``, ... without moving the feed.

        ``start`` None is `step`. What a worker of a data loader reads, which leaves the steps
        between to the others.
        """
        first = self._step if start is None else start
        with closing(self._stepper.batches(first, stride, self.total_steps)) as batches:
            for _, batch in batches:
                yield batch

    def as_torch(
        self, *, pin_memory: bool = False, ids: Ids = "int64", device: Device = None
    ) -> TorchFeed:
        """Return the batches as dicts of torch tensors; text stays a list.

        ``ids`` "int64" widens index streams to what embeddings and losses take. "stored" keeps the
        narrow unsigned type, to be widened on the device: it is a quarter of the transfer or less,
        but ``torch.uint16`` can do little else than ``.to()``. bfloat16 streams become bfloat16.
        ``pin_memory`` has no effect without a CUDA device; ``device`` moves batches there ahead.
        """
        from tokenmill.feed.tensors import TorchFeed

        return TorchFeed(self, pin_memory=pin_memory, ids=ids, device=device)

    def as_dataset(self, *, ids: Ids = "int64") -> FeedDataset:
        """Return a torch IterableDataset of whole batches, for any number of loader workers."""
        from tokenmill.feed.torch_dataset import FeedDataset

        return FeedDataset(self, ids=ids)

    def samples_of(self, step: int) -> StepSamples:
        """Return the epoch of a step and the rows of its global batch, without reading data.

        Rows are numbers of the samples that are shown, in manifest order; rank r of n has the r-th
        of n equal parts of the batch.
        """
        return self.source.schedule.samples_of(step)

    def steps_of(self, key: str, *, by: By = "sample_id", epochs: range = range(1)) -> list[int]:
        """Return the steps that show a sample, or any of an asset's (``by="asset_key"``).

        Args:
            key: The sample's id, or its asset's key.
            by: What ``key`` is.
            epochs: Which epochs to look at: those of the store it is in, as often as it was shown.

        Returns:
            Steps, ascending; none if the key is not shown, or only where `drop_last` leaves it out.
        """
        from tokenmill.feed.rows.keys import rows_of_keys

        found: set[int] = set()
        for i, part in enumerate(self.source.parts):
            for row in rows_of_keys(part.store, part.opened, [key], by).tolist():
                found.update(self.source.schedule.steps_of(i, row, epochs))
        return sorted(found)

    def state_dict(self) -> dict[str, Any]:
        """Return where the feed stands, as under 300 bytes of JSON, for any number of ranks."""
        return self.state_at(self._step)

    def state_at(self, step: int) -> dict[str, Any]:
        """Return the state before a step: for trainers and loaders that count steps themselves."""
        return self.source.state(step).to_json()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go to where ``state`` was taken; iterators made before end with an error.

        Raises:
            StoreError: the state belongs to another snapshot.
            JobError: it is no feed state, or was made with other settings.
        """
        source, step = restored(self.source, state_from_json(state), self._opening)
        self._take(source, step)

    def migrate(self, state: Mapping[str, Any]) -> Migration:
        """Go on from a state that was made on another version of the store, or before a takedown.

        The epoch that was begun is finished with what of it was not seen and is still there, and
        with what this version adds, evenly mixed; epochs behind it are this version's own. Steps
        count on. States that are saved from then on say so, and restore like any other.

        Returns:
            The books: how many samples were seen, are left, are gone, and are new.

        Raises:
            StoreError: the other version cannot be opened as it was, or its shards were written
                anew since (compact, purge).
            JobError: a setting differs from the state's, or is one (a mixture, buckets, columns of
                groups) that cannot be carried over in the midst of an epoch.
        """
        source, step, books = migrated(self.source, state_from_json(state), self._opening)
        self._take(source, step)
        return books

    def _take(self, source: Source, step: int) -> None:
        self.source = source
        self._stepper = Stepper(source, self._reader, threads=self.threads)
        self.seek(step)

    def seek(self, step: int) -> None:
        """Go to before a step, from 0; iterators made before end with an error."""
        check_step(step)
        self._step = step
        self._iterators += 1

    def _go_on(self, mine: int) -> Generator[Batch]:
        self._check_newest(mine)
        with closing(self._stepper.batches(self._step, 1, self.total_steps)) as batches:
            for step, batch in batches:
                self._check_newest(mine)
                self._step = step + 1
                yield batch

    def _check_newest(self, iterator: int) -> None:
        if iterator != self._iterators:
            raise JobError("the feed was restored or iterated anew: take that iterator")


def _copy(mixture: Mixture, options: dict[str, Any], state: dict[str, Any]) -> Feed:
    feed = Feed(mixture, **options)
    feed.load_state_dict(state)
    return feed
