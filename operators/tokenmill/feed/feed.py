"""The feed: a snapshot as an endless, resumable, deterministic sequence of batches.

Which rows make a step is a function of (snapshot, seed, step) and of nothing else: not of ranks,
threads, or how often the job was stopped. State is therefore a position, restored at no cost.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from tokenmill.feed.columns import Batch, Chunk
from tokenmill.feed.files import ShardCache, default_cache
from tokenmill.feed.opening import Opened, Wanted, open_snapshot, row_bytes
from tokenmill.feed.order import Order, Shuffle
from tokenmill.feed.prefetch import prefetch
from tokenmill.feed.state import FeedState, check_state, state_from_json
from tokenmill.store import Store
from tokenmill_schemas.errors import FingerprintError, JobError, StoreError
from tokenmill_schemas.snapshot import Snapshot
from tokenmill_schemas.tokens import Stream

if TYPE_CHECKING:
    from tokenmill.feed.tensors import TorchFeed

Rows = npt.NDArray[np.int64]

#: Tokens gathered at once, for several steps: enough to spread the cost of a call over, few
#: enough to stay in the processor's cache until the batches are used.
CHUNK_BYTES = 2 * 2**20
CHUNK_STEPS = 256
#: Chunks whose rows are ordered and located at once: arithmetic on short arrays is mostly calls.
LOCATED_CHUNKS = 4


@dataclass(frozen=True, slots=True)
class _Span:
    """Some steps, and where this rank's rows of them lie."""

    first: int
    steps: int
    shards: Rows
    rows: Rows


class Feed:
    """Reads one snapshot of a store into one rank of a training job.

    Iterating yields dicts: every stream as ``[batch_size / world_size, *stream shape]`` in its
    storage type (ids in the narrowest unsigned type, bits as uint8, bfloat16 as its uint16 bits),
    or a list of arrays where shapes vary; every column of ``columns`` as an array, text as
    objects. Joined in the order of ranks, the batches of all ranks are the global batch, the same
    for any world size. Tokens of an Arrow store own their
    memory, so a batch may be kept or written to.

    ``epochs`` None never ends. Otherwise iteration stops after that many epochs in all, counted
    from the start of training and not from a restore. An iterator goes on where the last one
    stopped; only the newest one is good.

    ``drop_last`` leaves out the last samples of an epoch's order that fill no batch, other ones
    each epoch. Without it the last batch is completed with the first samples of the same epoch, so
    that each is seen at least once and all ranks always get equal shapes.

    A step is counted as done once its batch was given out: save `state_dict` after training on it.
    """

    def __init__(
        self,
        store: Store | str,
        *,
        batch_size: int,
        ref: int | str | None = None,
        since: int | str | None = None,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        streams: tuple[str, ...] | list[str] | None = None,
        columns: tuple[str, ...] | list[str] = ("sample_id",),
        shuffle: Shuffle = "block",
        epochs: int | None = None,
        drop_last: bool = True,
        threads: int = 2,
        fingerprint: str = "",
        cache: ShardCache | None = None,
    ) -> None:
        """Open a snapshot; reads its manifest and no shard but the first.

        Args:
            store: A store or its URI.
            batch_size: Samples of a step, over all ranks; a multiple of ``world_size``.
            ref: Number, tag, branch, ``branch:number`` or date; None is the newest one now.
            since: An earlier version: only what was added, changed or tokenized again since then
                is shown.
            seed: Another seed is another order.
            rank: This process' place among ``world_size``.
            world_size: Number of processes that share each batch.
            streams: Streams to read, also of column groups; None is all of the store's own.
            columns: Other columns to read, also of column groups. Samples of which a group that
                is read has no values are not shown; `uncovered` counts them.
            shuffle: "block" (see `tokenmill.feed.order`), "full" or "none" (manifest order).
            epochs: When to stop; None never.
            drop_last: What to do with the samples that fill no batch.
            threads: Threads that read ahead; 0 reads in the caller's.
            fingerprint: If given, the only fingerprint that is accepted.
            cache: Where shards of a store on an object store are kept.

        Raises:
            JobError: a setting is impossible; names it.
            FingerprintError: the store holds tokens of another fingerprint.
            StoreError: there is no such store or snapshot, or it shows no samples.
        """
        self._store = Store.open(store) if isinstance(store, str) else store
        self.snapshot: Snapshot = self._store.snapshot(ref)
        _check_snapshot(self.snapshot, fingerprint, self._store.uri)
        before = None if since is None else self._store.snapshot(since)
        wanted = Wanted(None if streams is None else tuple(streams), tuple(columns), before)
        cache = cache or ShardCache(default_cache())
        opened = open_snapshot(self._store, self.snapshot, wanted, cache)
        self._opened, self._plan, self._shards = opened, opened.plan, opened.shards
        self._order = Order(self._plan.rows, seed, shuffle)
        self._batch_size, self._rank, self._world_size = batch_size, rank, world_size
        self._epochs, self._drop_last, self._threads = epochs, drop_last, threads
        self._check_settings(since)
        self._chunk_steps = _chunk_steps(opened, batch_size // world_size)
        self._step = self._iterators = 0
        self._pid = os.getpid()

    @property
    def rows(self) -> int:
        """Samples that the snapshot shows: the length of an epoch."""
        return self._plan.rows

    @property
    def uncovered(self) -> int:
        """Samples that are not shown because a column group that is read has no values of them."""
        return self._opened.uncovered

    @property
    def streams(self) -> tuple[Stream, ...]:
        """The streams that are read, those of column groups among them."""
        return self._opened.streams

    @property
    def step(self) -> int:
        """Steps done since the start of training: the number of the next one."""
        return self._step

    @property
    def epoch(self) -> int:
        """Epoch of the next step, from 0."""
        return self._step // len(self)

    def __len__(self) -> int:
        """Return the number of steps of one epoch."""
        full, rest = divmod(self.rows, self._batch_size)
        return full + bool(rest and not self._drop_last)

    def __iter__(self) -> Iterator[Batch]:
        return self._iterate()

    def as_torch(
        self, *, pin_memory: bool = False, ids: Literal["int64", "stored"] = "int64"
    ) -> TorchFeed:
        """Return the batches as dicts of torch tensors; text stays a list.

        ``ids`` "int64" widens index streams to what embeddings and losses take. "stored" keeps the
        narrow unsigned type, to be widened on the device: it is a quarter of the transfer or less,
        but ``torch.uint16`` can do little else than ``.to()``. bfloat16 streams become bfloat16.
        ``pin_memory`` has no effect without a CUDA device.
        """
        from tokenmill.feed.tensors import TorchFeed

        return TorchFeed(self, pin_memory=pin_memory, ids=ids)

    def samples_of(self, step: int) -> tuple[int, Rows]:
        """Return the epoch of a step and the rows of its global batch, without reading data.

        Rows are numbers of the snapshot's samples in manifest order; rank r of n has the r-th of n
        equal parts of them.
        """
        epoch = step // len(self)
        return epoch, self._rows_of(epoch, np.array([step]), 0, self._batch_size)

    def state_dict(self) -> dict[str, Any]:
        """Return where the feed stands, as under 300 bytes of JSON, for any number of ranks."""
        return self._state().to_json()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go to where ``state`` was taken; iterators made before end with an error.

        Raises:
            StoreError: the state belongs to another snapshot.
            JobError: it is no feed state, or was made with other settings.
        """
        wanted = state_from_json(state)
        check_state(wanted, self._state(), uri=self._store.uri)
        self._step = wanted.epoch * len(self) + wanted.position // self._batch_size
        self._iterators += 1

    def _state(self) -> FeedState:
        return FeedState(
            snapshot=self._opened.identity,
            number=self.snapshot.number,
            seed=self._order.seed,
            shuffle=self._order.shuffle,
            batch_size=self._batch_size,
            drop_last=self._drop_last,
            epoch=self.epoch,
            position=self._step % len(self) * self._batch_size,
            groups=self._opened.groups,
        )

    def _iterate(self) -> Iterator[Batch]:
        self._iterators += 1
        mine = self._iterators
        self._notice_fork()
        chunks = prefetch(
            self._read, self._spans(), threads=self._threads, after_fork=self._notice_fork
        )
        with closing(chunks):
            for span, chunk in chunks:
                for i in range(span.steps):
                    if mine != self._iterators:
                        raise JobError("the feed was restored or iterated anew: take that iterator")
                    self._step = span.first + i + 1
                    yield chunk.batch(i)

    def _spans(self) -> Iterator[_Span]:
        """Yield what each chunk holds; small chunks first, to start quickly."""
        step, count = self._step, 1
        share = self._batch_size // self._world_size
        end = None if self._epochs is None else self._epochs * len(self)
        while end is None or step < end:
            steps = LOCATED_CHUNKS * count
            steps = steps if end is None else min(steps, end - step)
            shards, rows = self._plan.locate(self._share_of(step, steps))
            for i in range(0, steps, count):
                part = slice(i * share, (i + count) * share)
                yield _Span(step + i, min(count, steps - i), shards[part], rows[part])
            step += steps
            count = min(2 * count, self._chunk_steps)

    def _share_of(self, first: int, count: int) -> Rows:
        """Return this rank's rows of some steps, which may belong to several epochs."""
        steps = np.arange(first, first + count)
        share = self._batch_size // self._world_size
        epochs = range(first // len(self), (first + count - 1) // len(self) + 1)
        return np.concatenate(
            [
                self._rows_of(epoch, steps[steps // len(self) == epoch], self._rank * share, share)
                for epoch in epochs
            ]
        )

    def _read(self, span: _Span) -> tuple[_Span, Chunk]:
        share = self._batch_size // self._world_size
        return span, self._shards.gather(span.shards, span.rows, share=share)

    def _rows_of(self, epoch: int, steps: Rows, start: int, count: int) -> Rows:
        """Return ``count`` rows of each step's global batch from its place ``start`` on."""
        positions = (steps - epoch * len(self))[:, None] * self._batch_size
        positions = (positions + np.arange(start, start + count)).ravel()
        # Only without drop_last, where an epoch's last batch begins anew at its first samples.
        return self._order.at(epoch, positions % self.rows)

    def _notice_fork(self) -> None:
        if os.getpid() != self._pid:
            self._pid = os.getpid()
            self._shards.reset()

    def _check_settings(self, since: int | str | None) -> None:
        batch, world = self._batch_size, self._world_size
        if batch < 1 or world < 1 or batch % world:
            raise JobError(
                f"is {batch} for {world} ranks: it must be a positive multiple of world_size",
                path="feed.batch_size",
            )
        if not 0 <= self._rank < world:
            raise JobError(f"is {self._rank}, must be in [0, {world})", path="feed.rank")
        if self._threads < 0 or (self._epochs is not None and self._epochs < 0):
            raise JobError("threads and epochs must not be negative", path="feed")
        if not self.rows:
            groups = ", ".join(self._opened.groups)
            why = f" with values in the column groups {groups}" if self.uncovered else ""
            what = "no samples" if since is None else f"nothing new since {since}"
            text = f"snapshot {self.snapshot.number} has {what}{why}"
            raise StoreError(text, uri=self._store.uri)
        if not len(self):
            raise JobError(
                f"is {batch}, but the snapshot has {self.rows} samples: take a smaller batch or "
                "drop_last=False",
                path="feed.batch_size",
            )


def _check_snapshot(snapshot: Snapshot, fingerprint: str, uri: str) -> None:
    if fingerprint and snapshot.fingerprint != fingerprint:
        raise FingerprintError(
            f"snapshot {snapshot.number} has fingerprint {snapshot.fingerprint[:12]}, asked for "
            f"was {fingerprint[:12]}: its tokens are of another kind",
            uri=uri,
        )


def _chunk_steps(opened: Opened, share: int) -> int:
    """Return how many steps of ``share`` rows are gathered at once."""
    return max(1, min(CHUNK_STEPS, CHUNK_BYTES // (row_bytes(opened) * share)))
