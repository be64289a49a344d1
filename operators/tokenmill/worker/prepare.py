"""Fetch, decode, view: from an asset to the views that are tokenized, or to the reason why not."""

from __future__ import annotations

import io
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import BinaryIO

from tokenmill.worker.channel import Channel
from tokenmill.worker.crew import Crew, DeadlineExceeded, Job
from tokenmill.worker.memory import Memory
from tokenmill.worker.pieces import Piece
from tokenmill.worker.reading import Prepared, Reading, late, refusal, rejection
from tokenmill.worker.spec import WorkerSpec
from tokenmill_infra.cluster.blackbox import BlackBox
from tokenmill_schemas.asset import AssetRef

#: Notes, for the time of a block, that the rows from the first to before the second are at hand.
At = Callable[[int, int], AbstractContextManager[None]]


@dataclass(frozen=True, slots=True)
class Asked:
    """An asset that is to be read: row ``row`` of its unit."""

    ref: AssetRef
    row: int
    at: At

    def at_hand(self) -> AbstractContextManager[None]:
        """Note that it is at hand, for the time of a block."""
        return self.at(self.row, self.row + 1)


class Incoming:
    """One asset on its way: iterate over its pieces, then ask for its `outcome`."""

    def __init__(self, preparation: Preparation, asked: Asked, fetched: Job[bytes] | None) -> None:
        self.ref = asked.ref
        self._asked = asked
        self._preparation = preparation
        self._channel: Channel[Piece] = Channel(Piece.weigh)
        spec = preparation.spec
        self._reading = Reading(
            spec, self.ref, self._channel, preparation.memory, whole=not preparation.streams
        )
        self._late: Prepared | None = None
        self._job = preparation.decoders.submit(lambda: self._read(fetched))

    def _read(self, fetched: Job[bytes] | None) -> Prepared:
        preparation = self._preparation
        self._channel.beat()
        try:
            with self._asked.at_hand():
                if fetched is None:
                    return self._reading.run(lambda: preparation.spec.source.open(self.ref))
                return self._reading.run(lambda: preparation.fetched(fetched, self.ref))
        finally:
            self._channel.close()

    def __iter__(self) -> Iterator[Piece]:
        """Yield the pieces as they come; an asset that hangs ends here."""
        spec = self._preparation.spec
        # With fetchers, the wait for the bytes has a deadline of its own inside the job.
        patience = 2.0 if self._preparation.fetchers else 1.0
        try:
            yield from self._channel.take(patience * spec.limits.asset_deadline_s)
        except DeadlineExceeded:
            self._job.abandoned = True
            self.abandon()
            self._preparation.decoders.replace()
            reject = rejection(self.ref, late(spec, "decode"))
            self._late = Prepared(self.ref, reject=reject)

    @property
    def outcome(self) -> Prepared:
        """How reading it ended; ask when the pieces are exhausted.

        Raises:
            TransientError: its bytes could not be read for a passing reason.
        """
        return self._late or self._job.wait(self._preparation.spec.limits.asset_deadline_s)

    def abandon(self) -> None:
        """Let its reader go: nobody takes the pieces."""
        self._channel.abandon()
        self._preparation.memory.take_away(self._reading.hold)


@dataclass(frozen=True, slots=True)
class Preparation:
    """The crews that prepare assets for a worker, shared by its units.

    ``streams`` says that the encoder takes long clips in parts; ``box`` takes the notes of what is
    at hand, if anyone could read them.
    """

    spec: WorkerSpec
    decoders: Crew
    fetchers: Crew | None
    streams: bool = False
    box: BlackBox | None = None
    memory: Memory = field(default_factory=lambda: Memory(0))

    def at(self, task_id: str, start: int, stop: int) -> AbstractContextManager[None]:
        """Note, for the time of a block, that these rows of a unit are at hand."""
        return self.box.at(task_id, start, stop) if self.box else nullcontext()

    def run(self, refs: Iterable[Asked]) -> Generator[Incoming, None, None]:
        """Yield every asset as it is being read, in order, a bounded number of them ahead."""
        ahead = 2 * self.decoders.size + 2
        fetching = self._fetch(refs, ahead=4 * self.fetchers.size if self.fetchers else ahead)
        waiting: deque[Incoming] = deque()
        try:
            for asked, job in fetching:
                waiting.append(Incoming(self, asked, job))
                if len(waiting) >= ahead:
                    yield waiting[0]
                    waiting.popleft()
            while waiting:
                yield waiting[0]
                waiting.popleft()
        finally:
            for incoming in waiting:
                incoming.abandon()

    def fetched(self, job: Job[bytes], ref: AssetRef) -> BinaryIO:
        """Return the bytes that a fetcher brings.

        One that had no memory for them is no judge of the asset: the source is asked once more.

        Raises:
            AssetError: ``deadline``.
        """
        try:
            return io.BytesIO(job.wait(self.spec.limits.asset_deadline_s))
        except DeadlineExceeded as error:
            if self.fetchers is not None:
                self.fetchers.replace()
            raise late(self.spec, "fetch") from error
        except MemoryError:
            return self.spec.source.open(ref)

    def _fetch(
        self, refs: Iterable[Asked], *, ahead: int
    ) -> Iterator[tuple[Asked, Job[bytes] | None]]:
        if self.fetchers is None:
            yield from ((asked, None) for asked in refs)
            return
        waiting: deque[tuple[Asked, Job[bytes] | None]] = deque()
        for asked in refs:
            # A film is read as it plays: it need not fit into memory.
            call = None if asked.ref.modality == "video" else self._fetch_call(asked)
            waiting.append((asked, self.fetchers.submit(call) if call else None))
            if len(waiting) >= ahead:
                yield waiting.popleft()
        yield from waiting

    def _fetch_call(self, asked: Asked) -> Callable[[], bytes]:
        # One byte more than allowed: the decoder then sees that there is too much and says so.
        limit = self.spec.limits.max_asset_bytes + 1

        def fetch() -> bytes:
            if refusal(self.spec, asked.ref) is not None:
                return b""
            with asked.at_hand(), self.spec.source.open(asked.ref) as stream:
                return stream.read(limit)

        return fetch
