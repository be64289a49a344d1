"""One asset being read in a decoder's thread: fetch, decode, view, or the reason why not."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, BinaryIO, cast

from tokenmill.decoders.base import ClaimError
from tokenmill.worker.channel import AbandonedError, Channel
from tokenmill.worker.device import is_out_of_memory
from tokenmill.worker.gate import Hold
from tokenmill.worker.memory import Memory
from tokenmill.worker.pieces import Piece, pieces_of
from tokenmill.worker.spec import WorkerSpec
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


def too_much_memory(spec: WorkerSpec, stage: str) -> AssetError:
    """Return the error of an asset that no memory is left for, or none that it may have."""
    limit = spec.limits.asset_memory_bytes
    text = f"takes more than limits.asset_memory_bytes = {limit}"
    if not limit:
        text = "takes more memory than there is (limits.asset_memory_bytes = 0 sets no limit)"
    return AssetError(Reason.TOO_MUCH_MEMORY, text, stage=stage)


def ran_out(error: BaseException | None) -> bool:
    """Whether memory ran out in ``error`` or in what led to it."""
    seen = set[int]()
    while error is not None and id(error) not in seen:
        if is_out_of_memory(error):
            return True
        seen.add(id(error))
        error = error.__cause__ or error.__context__
    return False


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
    memory: Memory
    whole: bool
    stage: str = "list"
    seconds: dict[str, float] = field(default_factory=dict)
    hold: Hold = field(init=False)
    #: Pieces that are in the channel already, and how many of them this reading is still to pass.
    sent: int = 0
    passing: int = 0
    #: Nothing is sent: the asset is read to see how much memory it takes.
    dry: bool = False
    #: What it takes is its own: nothing else is under way, or nobody sets a limit that is shared.
    alone: bool = False

    def __post_init__(self) -> None:
        patience = self.spec.limits.asset_deadline_s
        stuck = lambda: self.channel.silent_s() > patience  # noqa: E731  (two lines less)
        self.hold = Hold(self.memory.gate, self.channel.beat, stuck)

    def run(self, fetch: Callable[[], BinaryIO]) -> Prepared:
        """Write the asset's views into the channel; what is wrong with it becomes a `Reject`.

        Where memory ran out others may have taken it, so the asset is then read with nothing else
        under way, and once more for its views if that shows that it keeps to its limit and that
        nothing is wrong with it.

        Raises:
            TransientError: its bytes could not be read for a passing reason.
        """
        self.alone = not self.memory.limit_bytes
        with self.hold.shared():
            prepared = self._once(fetch)
        if prepared is None and self.memory.limit_bytes:
            self.dry = self.alone = True
            with self.memory.judging(self.hold):
                prepared = self._once(fetch)
            self.dry = False
            if prepared is not None and prepared.reject is None:
                self.passing = self.sent
                with self.memory.acquitted(self.hold):
                    prepared = self._once(fetch)
        return prepared or self._rejected(too_much_memory(self.spec, self.stage))

    def _once(self, fetch: Callable[[], BinaryIO]) -> Prepared | None:
        """Read the asset; None says that memory ran out."""
        try:
            refused = refusal(self.spec, self.ref)
            if refused is not None:
                raise refused
            facts = self._read(fetch)
        except (TransientError, AbandonedError):
            raise
        except AssetError as error:
            error.stage = error.stage or self.stage
            believed = self.alone and isinstance(error, ClaimError)
            return None if ran_out(error) and not believed else self._rejected(error)
        except Exception as error:  # noqa: BLE001  (a library's bug must cost one asset, not the run)
            if ran_out(error):
                return None
            text = f"{type(error).__name__}: {error}"
            return self._rejected(AssetError(Reason.DECODE_FAILED, text, stage=self.stage))
        return Prepared(self.ref, facts, seconds=self.seconds)

    def _rejected(self, error: AssetError) -> Prepared:
        return Prepared(self.ref, reject=rejection(self.ref, error), seconds=self.seconds)

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
                waited += self._send(piece)
        if index < 0:
            raise AssetError(Reason.TOO_SMALL, "the view rule reads no view of it")
        return waited

    def _send(self, piece: Piece) -> float:
        if self.dry:
            return 0.0
        if self.passing:
            self.passing -= 1
            return 0.0
        # Whoever takes it may have to wait for the encoder, and that for an asset that is judged.
        with self.hold.paused():
            waited = self.channel.put(piece)
        self.sent += 1
        return waited

    def _lap(self, start: float) -> float:
        now = time.perf_counter()
        self.seconds[self.stage] = self.seconds.get(self.stage, 0.0) + now - start
        return now
