"""Going through the steps of a source: spans are read ahead by threads, batches come in order."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing

from tokenmill.feed.columns import Batch
from tokenmill.feed.prefetch import prefetch
from tokenmill.feed.reading import Reader, Steps
from tokenmill.feed.rows.opening import row_bytes
from tokenmill.feed.sequence.follow import FollowSchedule
from tokenmill.feed.sequence.schedule import Span, check_step
from tokenmill.feed.source import Source

#: Tokens gathered at once, for several steps: enough to spread the cost of a call over, few
#: enough to stay in the processor's cache until the batches are used.
CHUNK_BYTES = 2 * 2**20
CHUNK_STEPS = 256
#: Items that are ordered at once: arithmetic on short arrays is mostly calls.
ORDERED_ITEMS = 1 << 14

#: Spans of a remote store whose blocks are fetched ahead: half a window of 256 two-byte tokens.
AHEAD_SPANS = 16


class Stepper:
    """Reads steps of a source for one rank; has no place of its own in them."""

    def __init__(self, source: Source, reader: Reader, *, threads: int) -> None:
        self._source, self._reader, self._threads = source, reader, threads
        self.chunk_steps = self._fitting_steps()
        self._pid = os.getpid()

    def batches(self, first: int, stride: int, end: int | None) -> Generator[tuple[int, Batch]]:
        """Yield steps ``first``, ``first + stride``, ... before ``end`` with their batches.

        A followed store is waited for where it has no more steps yet.

        Raises:
            CorruptShardError: a shard is missing or not what was committed.
            ValueError: there is no such step.
        """
        check_step(first)
        if stride < 1:
            raise ValueError(f"stride must be positive, got {stride}")
        schedule, step = self._source.schedule, first
        if not isinstance(schedule, FollowSchedule):
            yield from self._read_ahead(first, stride, end)
            return
        while schedule.wait(step):
            end = schedule.epoch_steps()
            yield from self._read_ahead(step, stride, end)
            step += stride * len(range(step, end, stride))

    def _read_ahead(self, first: int, stride: int, end: int | None) -> Generator[tuple[int, Batch]]:
        self._notice_fork()
        spans = self._spans(first, stride, end)
        if self._threads and self._reader.is_remote:
            spans = self._announced(spans)
        chunks = prefetch(self._read, spans, threads=self._threads, after_fork=self._notice_fork)
        with closing(chunks):
            for span, batches in chunks:
                for i in range(span.steps):
                    yield span.step(i), batches[i]

    def _announced(self, spans: Iterator[Span]) -> Iterator[Span]:
        """Yield spans while those behind them begin to be fetched, more of them from span to span.

        A window's blocks are wanted all at once; without this the next window's would be asked for
        only when its first rows are.
        """
        waiting: deque[Span] = deque()
        for count, span in enumerate(spans):
            self._reader.ahead(span)
            waiting.append(span)
            if len(waiting) > min(AHEAD_SPANS, count // 2):
                yield waiting.popleft()
        yield from waiting

    def _read(self, span: Span) -> tuple[Span, Sequence[Batch] | Steps]:
        batches = self._reader.read(span)
        if self._threads and isinstance(batches, Steps):
            return span, [batches[i] for i in range(span.steps)]
        return span, batches

    def _spans(self, first: int, stride: int, end: int | None) -> Iterator[Span]:
        """Yield what each chunk holds; small chunks first, to start quickly."""
        share = self._source.settings.batch_size // self._reader.place.world_size
        step, ordered, count = first, 1, 1
        while end is None or step < end:
            stop = step + stride * ordered
            steps = range(step, stop if end is None else min(stop, end), stride)
            yield from self._source.schedule.span(steps, self._reader.place).split(count)
            step, ordered = stop, max(1, min(4 * ordered, ORDERED_ITEMS // share))
            count = min(2 * count, self.chunk_steps)

    def _fitting_steps(self) -> int:
        """Return how many steps are gathered at once."""
        settings = self._source.settings
        share = settings.batch_size // self._reader.place.world_size
        if not self._threads and self._reader.late:
            return max(1, ORDERED_ITEMS // share)
        row = max(row_bytes(part.opened) for part in self._source.parts)
        row = row if settings.packing is None else max(row, 8 * settings.packing.length)
        return max(1, min(CHUNK_STEPS, CHUNK_BYTES // (row * share)))

    def _notice_fork(self) -> None:
        if os.getpid() != self._pid:
            self._pid = os.getpid()
            self._reader.reset()
