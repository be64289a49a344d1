"""Fetch, decode, view: from an asset to the pixels that are tokenized, or to the reason why not."""

from __future__ import annotations

import io
import re
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, BinaryIO

from tokenmill.views.base import ViewOf
from tokenmill.worker.crew import Crew, DeadlineExceeded, Job
from tokenmill.worker.spec import WorkerSpec
from tokenmill_schemas.asset import DUPLICATE, AssetRef
from tokenmill_schemas.errors import AssetError, Reason, TransientError
from tokenmill_schemas.snapshot import Disposition, Reject

#: Reasons that a rule of the job gives; all others are failures.
FILTERS = frozenset({Reason.DUPLICATE_KEY, Reason.TOO_SMALL, Reason.NO_BUCKET})


#: Where objects lie in memory, as `repr` tells: never twice the same, and nobody's business.
ADDRESS = re.compile(r" at 0x[0-9a-f]+")


@dataclass(frozen=True, slots=True)
class Prepared:
    """One asset's views and facts, or its rejection; ``seconds`` per hop."""

    ref: AssetRef
    views: tuple[ViewOf, ...] = ()
    facts: dict[str, Any] = field(default_factory=dict)
    reject: Reject | None = None
    seconds: dict[str, float] = field(default_factory=dict)


def rejection(ref: AssetRef, error: AssetError) -> Reject:
    """Return the record of an asset that gives no samples."""
    kind: Disposition = "filtered" if error.reason in FILTERS else "quarantine"
    text = ADDRESS.sub("", str(error))
    return Reject(ref.key, ref.uri, str(error.reason), error.stage, text, kind)


def late(spec: WorkerSpec, stage: str) -> AssetError:
    """Return the error of an asset that hangs in ``stage``."""
    message = f"took longer than limits.asset_deadline_s = {spec.limits.asset_deadline_s:g} s"
    return AssetError(Reason.DEADLINE, message, stage=stage)


def prepare(spec: WorkerSpec, ref: AssetRef, fetch: Callable[[], BinaryIO]) -> Prepared:
    """Read one asset's views from what ``fetch`` opens; what is wrong with it becomes a `Reject`.

    That goes for a `MemoryError` too: the limits on bytes and pixels hold, so it is nearly always
    a header that claims the absurd. Should the machine have been short, the asset can be retried.

    Raises:
        TransientError: its bytes could not be read for a passing reason.
    """
    seconds: dict[str, float] = {}
    stage, start = "fetch", time.perf_counter()
    try:
        if ref.locator == DUPLICATE:
            raise AssetError(
                Reason.DUPLICATE_KEY, "an earlier asset of the listing has this key", stage="list"
            )
        stream = fetch()
        stage, start = _lap(seconds, stage, start, "decode")
        with stream:
            picture = spec.decoder.decode(ref, stream)
        stage, start = _lap(seconds, stage, start, "view")
        views = tuple(spec.view.views(picture, ref.key))
        _lap(seconds, stage, start, "")
        if not views:
            raise AssetError(Reason.TOO_SMALL, "the view rule reads no view of it")
    except TransientError:
        raise
    except AssetError as error:
        error.stage = error.stage or stage
        return Prepared(ref, reject=rejection(ref, error), seconds=seconds)
    except Exception as error:  # noqa: BLE001  (a library's bug must cost one asset, not the run)
        wrapped = AssetError(Reason.DECODE_FAILED, f"{type(error).__name__}: {error}", stage=stage)
        return Prepared(ref, reject=rejection(ref, wrapped), seconds=seconds)
    return Prepared(ref, views, picture.facts, seconds=seconds)


def _lap(seconds: dict[str, float], stage: str, start: float, then: str) -> tuple[str, float]:
    now = time.perf_counter()
    seconds[stage] = seconds.get(stage, 0.0) + now - start
    return then, now


@dataclass(frozen=True, slots=True)
class Preparation:
    """The crews that prepare assets for a worker, shared by its units."""

    spec: WorkerSpec
    decoders: Crew
    fetchers: Crew | None

    def run(self, refs: Iterable[AssetRef]) -> Iterator[Prepared]:
        """Yield every ref prepared, in order, a bounded number of them ahead.

        Raises:
            TransientError: an asset's bytes could not be read for a passing reason.
        """
        ahead = 2 * self.decoders.size + 2
        fetching = self._fetch(refs, ahead=4 * self.fetchers.size if self.fetchers else ahead)
        waiting: deque[tuple[AssetRef, Job[Prepared]]] = deque()
        for ref, fetched in fetching:
            waiting.append((ref, self.decoders.submit(self._call(ref, fetched))))
            if len(waiting) >= ahead:
                yield self._take(*waiting.popleft())
        while waiting:
            yield self._take(*waiting.popleft())

    def _call(self, ref: AssetRef, fetched: Job[bytes] | None) -> Callable[[], Prepared]:
        if fetched is None:
            return lambda: prepare(self.spec, ref, lambda: self.spec.source.open(ref))
        return lambda: prepare(self.spec, ref, lambda: self._fetched(fetched))

    def _fetched(self, job: Job[bytes]) -> BinaryIO:
        try:
            return io.BytesIO(job.wait(self.spec.limits.asset_deadline_s))
        except DeadlineExceeded as error:
            if self.fetchers is not None:
                self.fetchers.replace()
            raise late(self.spec, "fetch") from error

    def _take(self, ref: AssetRef, job: Job[Prepared]) -> Prepared:
        # With fetchers, the wait for the bytes has a deadline of its own inside the job.
        patience = 2.0 if self.fetchers else 1.0
        try:
            return job.wait(patience * self.spec.limits.asset_deadline_s)
        except DeadlineExceeded:
            self.decoders.replace()
            return Prepared(ref, reject=rejection(ref, late(self.spec, "decode")))

    def _fetch(
        self, refs: Iterable[AssetRef], *, ahead: int
    ) -> Iterator[tuple[AssetRef, Job[bytes] | None]]:
        if self.fetchers is None:
            yield from ((ref, None) for ref in refs)
            return
        waiting: deque[tuple[AssetRef, Job[bytes]]] = deque()
        for ref in refs:
            waiting.append((ref, self.fetchers.submit(self._fetch_call(ref))))
            if len(waiting) >= ahead:
                yield waiting.popleft()
        yield from waiting

    def _fetch_call(self, ref: AssetRef) -> Callable[[], bytes]:
        # One byte more than allowed: the decoder then sees that there is too much and says so.
        limit = self.spec.limits.max_asset_bytes + 1

        def fetch() -> bytes:
            if ref.locator == DUPLICATE:
                return b""
            with self.spec.source.open(ref) as stream:
                return stream.read(limit)

        return fetch
