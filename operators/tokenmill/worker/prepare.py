"""Fetch, decode, view: from an asset to the views that are tokenized, or to the reason why not."""

from __future__ import annotations

import io
import re
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, BinaryIO, cast

from tokenmill.worker.channel import AbandonedError, Channel
from tokenmill.worker.crew import Crew, DeadlineExceeded, Job
from tokenmill.worker.pieces import Piece, pieces_of
from tokenmill.worker.spec import WorkerSpec
from tokenmill_infra.cluster.blackbox import BlackBox
from tokenmill_schemas.asset import DUPLICATE, AssetRef
from tokenmill_schemas.errors import AssetError, Reason, TransientError
from tokenmill_schemas.snapshot import Disposition, Reject

#: Reasons that a rule of the job gives; all others are failures.
FILTERS = frozenset(
    {
        *(Reason.DUPLICATE_KEY, Reason.TOO_SMALL, Reason.NO_BUCKET),
        *(Reason.OTHER_MODALITY, Reason.OTHER_CONTENT, Reason.TOO_SHORT),
    }
)
#: Reasons that are a rule of the view's in that stage, and a limit of the job's in others.
VIEW_FILTERS = frozenset({(Reason.TOO_MANY_FACES, "view")})

#: Where objects lie in memory, as `repr` tells: never twice the same, and nobody's business.
ADDRESS = re.compile(r" at 0x[0-9a-f]+")


@dataclass(frozen=True, slots=True)
class Prepared:
    """How reading an asset ended: its facts, or its rejection; ``seconds`` per hop."""

    ref: AssetRef
    facts: dict[str, Any] = field(default_factory=dict)
    reject: Reject | None = None
    seconds: dict[str, float] = field(default_factory=dict)


def rejection(ref: AssetRef, error: AssetError) -> Reject:
    """Return the record of an asset that gives no samples."""
    by_rule = error.reason in FILTERS or (error.reason, error.stage) in VIEW_FILTERS
    kind: Disposition = "filtered" if by_rule else "quarantine"
    text = ADDRESS.sub("", str(error))
    return Reject(ref.key, ref.uri, str(error.reason), error.stage, text, kind)


def late(spec: WorkerSpec, stage: str) -> AssetError:
    """Return the error of an asset that hangs in ``stage``."""
    message = f"took longer than limits.asset_deadline_s = {spec.limits.asset_deadline_s:g} s"
    return AssetError(Reason.DEADLINE, message, stage=stage)


def refusal(spec: WorkerSpec, ref: AssetRef) -> AssetError | None:
    """Return why an asset is not even opened, if it is not."""
    if ref.locator == DUPLICATE:
        text = "an earlier asset of the listing has this key"
        return AssetError(Reason.DUPLICATE_KEY, text, stage="list")
    if ref.modality not in spec.view.modalities:
        wanted = ", ".join(spec.view.modalities)
        text = f"modality {ref.modality}; the job's view reads {wanted}"
        return AssetError(Reason.OTHER_MODALITY, text, stage="list")
    return None


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


class Watched:
    """A stream that says of each read that its reader is alive."""

    def __init__(self, stream: BinaryIO, beat: Callable[[], None]) -> None:
        self._stream = stream
        self._beat = beat

    def read(self, size: int = -1) -> bytes:
        """Read as the stream does."""
        data = self._stream.read(size)
        self._beat()
        return data

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@dataclass(slots=True)
class Reading:
    """One asset being read in a decoder's thread: where it is, and what each hop took."""

    spec: WorkerSpec
    ref: AssetRef
    channel: Channel[Piece]
    whole: bool
    stage: str = "list"
    seconds: dict[str, float] = field(default_factory=dict)

    def run(self, fetch: Callable[[], BinaryIO]) -> Prepared:
        """Write the asset's views into the channel; what is wrong with it becomes a `Reject`.

        That goes for a `MemoryError` too: the limits on bytes and pixels hold, so it is nearly
        always a header that claims the absurd. Should the machine have been short, the asset can be
        retried.

        Raises:
            TransientError: its bytes could not be read for a passing reason.
        """
        try:
            refused = refusal(self.spec, self.ref)
            if refused is not None:
                raise refused
            facts = self._read(fetch)
        except (TransientError, AbandonedError):
            raise
        except AssetError as error:
            error.stage = error.stage or self.stage
            return Prepared(self.ref, reject=rejection(self.ref, error), seconds=self.seconds)
        except Exception as error:  # noqa: BLE001  (a library's bug must cost one asset, not the run)
            text = f"{type(error).__name__}: {error}"
            wrapped = AssetError(Reason.DECODE_FAILED, text, stage=self.stage)
            return Prepared(self.ref, reject=rejection(self.ref, wrapped), seconds=self.seconds)
        return Prepared(self.ref, facts, seconds=self.seconds)

    def _read(self, fetch: Callable[[], BinaryIO]) -> dict[str, Any]:
        self.stage, start = "fetch", time.perf_counter()
        stream = fetch()
        self.channel.beat()
        self.stage, start = "decode", self._lap(start)
        with stream:
            watched = cast("BinaryIO", Watched(stream, self.channel.beat))
            media = self.spec.decoder.decode(self.ref, watched)
            self.stage, start = "view", self._lap(start)
            try:
                waited = self._write(self.spec.view.views(media, self.ref.key))
            finally:
                self._lap(start)
                media.close()
        # A video decodes while its views are read: that is told apart, and so is waiting for room.
        decoded = getattr(media, "decode_s", 0.0)
        self.seconds["decode"] += decoded
        self.seconds["view"] = max(0.0, self.seconds["view"] - decoded - waited)
        facts: dict[str, Any] = media.facts
        return facts

    def _write(self, views: Iterator[Any]) -> float:
        waited, index = 0.0, -1
        for index, view in enumerate(views):
            for piece in pieces_of(view, index, whole=self.whole, limits=self.spec.limits):
                waited += self.channel.put(piece)
        if index < 0:
            raise AssetError(Reason.TOO_SMALL, "the view rule reads no view of it")
        return waited

    def _lap(self, start: float) -> float:
        now = time.perf_counter()
        self.seconds[self.stage] = self.seconds.get(self.stage, 0.0) + now - start
        return now


class Incoming:
    """One asset on its way: iterate over its pieces, then ask for its `outcome`."""

    def __init__(self, preparation: Preparation, asked: Asked, fetched: Job[bytes] | None) -> None:
        self.ref = asked.ref
        self._asked = asked
        self._preparation = preparation
        self._channel: Channel[Piece] = Channel(Piece.weigh)
        spec = preparation.spec
        self._reading = Reading(spec, self.ref, self._channel, whole=not preparation.streams)
        self._late: Prepared | None = None
        self._job = preparation.decoders.submit(lambda: self._read(fetched))

    def _read(self, fetched: Job[bytes] | None) -> Prepared:
        preparation = self._preparation
        self._channel.beat()
        try:
            with self._asked.at_hand():
                if fetched is None:
                    return self._reading.run(lambda: preparation.spec.source.open(self.ref))
                return self._reading.run(lambda: preparation.fetched(fetched))
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
            self._channel.abandon()
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

    def fetched(self, job: Job[bytes]) -> BinaryIO:
        """Return the bytes that a fetcher brings.

        Raises:
            AssetError: ``deadline``.
        """
        try:
            return io.BytesIO(job.wait(self.spec.limits.asset_deadline_s))
        except DeadlineExceeded as error:
            if self.fetchers is not None:
                self.fetchers.replace()
            raise late(self.spec, "fetch") from error

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
