"""The device: one thread that owns the encoder, splits what does not fit, and remembers it.

All units of a worker share the one thread, so the network is never entered twice at once, and the
next unit's batches follow the last one's without a gap.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np

from tokenmill.tokenizers.base import Array, Encoder, EncoderStream, StreamingEncoder, Tokens
from tokenmill.worker.memory import Memory
from tokenmill_schemas.errors import AssetError, TokenmillError

#: Batches that must fit before a size that once did not fit is tried again.
GROW_AFTER = 64
#: Parts of a long clip after which an encoder that takes it in parts needs no more memory.
WARM_PARTS = 4

T = TypeVar("T")
Shape = tuple[int, ...]
#: Says for the time of a block what is at hand.
Note = AbstractContextManager[None]


@dataclass(frozen=True, slots=True)
class Encoded:
    """What became of one batch: pieces of tokens in order, each a count and its tokens or error."""

    pieces: tuple[tuple[int, Tokens | Exception], ...]
    batch_s: float
    encode_s: float


@dataclass(slots=True)
class LongClip:
    """A clip that reaches the device in parts; only the device's thread looks inside.

    ``shapes`` are those of the parts pushed so far.
    """

    stream: EncoderStream | None = None
    error: Exception | None = None
    shapes: list[Shape] = field(default_factory=list)


@dataclass(slots=True)
class FitMemory:
    """How many views of a shape fit on the device, learned from where memory ran out."""

    limits: dict[Shape, int] = field(default_factory=dict)
    successes: dict[Shape, int] = field(default_factory=dict)

    def limit(self, shape: Shape, count: int) -> int:
        """Return how many views to try at once."""
        return min(count, self.limits.get(shape, count))

    def ran_out(self, shape: Shape, count: int) -> None:
        """Remember that ``count`` views did not fit."""
        self.limits[shape] = max(1, count // 2)
        self.successes[shape] = 0

    def fitted(self, shape: Shape) -> None:
        """Count a batch that fitted; after many of them a larger one is tried."""
        if shape not in self.limits:
            return
        self.successes[shape] += 1
        if self.successes[shape] >= GROW_AFTER:
            self.limits[shape] *= 2
            self.successes[shape] = 0


class Device:
    """Runs an encoder in a thread of its own."""

    def __init__(self, encoder: Encoder, memory: Memory | None = None) -> None:
        self.encoder = encoder
        self._limit = memory or Memory(0)
        self._memory = FitMemory()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="tokenmill-encode")

    @property
    def streams(self) -> bool:
        """Whether the encoder takes long clips in parts."""
        return isinstance(self.encoder, StreamingEncoder)

    def submit(self, views: Sequence[Array], *, note: Note | None = None) -> Future[Encoded]:
        """Queue a batch of views of one shape; ``note`` is held while they are encoded."""
        return self._queue(functools.partial(self._encode, views), note)

    def push(self, clip: LongClip, part: Array, *, note: Note | None = None) -> Future[Encoded]:
        """Queue the next frames of a long clip; no tokens come of them yet."""
        clip.shapes.append(part.shape)
        return self._queue(functools.partial(self._push, clip, part), note)

    def finish(self, clip: LongClip, *, note: Note | None = None) -> Future[Encoded]:
        """Queue the end of a long clip; its tokens are the result's only piece."""
        return self._queue(functools.partial(self._finish, clip), note)

    def decode(
        self, tokens: Tokens, size_bytes: int, *, note: Note | None = None
    ) -> Future[tuple[Array, float]]:
        """Queue the decoding of one sample, whose view takes ``size_bytes``.

        ``tokens`` have a leading axis of one; what they decode to has none. Seconds come with it.
        """

        def timed() -> tuple[Array, float]:
            began = time.perf_counter()
            return self._decode(tokens, size_bytes), time.perf_counter() - began

        return self._queue(timed, note)

    def _decode(self, tokens: Tokens, size_bytes: int) -> Array:
        try:
            with self._limit.encoding(size_bytes):
                return np.asarray(self.encoder.decode(tokens)[0])
        except (RuntimeError, MemoryError) as error:
            # As with encoding: an asset that is read meanwhile may have left no memory.
            if not (self._limit.limit_bytes and is_out_of_memory(error)):
                raise
        with self._limit.relief():
            return np.asarray(self.encoder.decode(tokens)[0])

    def _queue(self, call: Callable[[], T], note: Note | None) -> Future[T]:
        def noted() -> T:
            with note or nullcontext():
                return call()

        return self._thread.submit(noted)

    def _push(self, clip: LongClip, part: Array) -> Encoded:
        began = time.perf_counter()
        if clip.error is None:
            try:
                if clip.stream is None and isinstance(self.encoder, StreamingEncoder):
                    clip.stream = self.encoder.open_stream()
                if clip.stream is not None:
                    with self._limit.encoding(part.nbytes * min(len(clip.shapes), WARM_PARTS)):
                        clip.stream.push(part)
            except (RuntimeError, ValueError, MemoryError, AssetError) as error:
                clip.error, clip.stream = error, None
        return Encoded((), 0.0, time.perf_counter() - began)

    def _finish(self, clip: LongClip) -> Encoded:
        began = time.perf_counter()
        outcome: Tokens | Exception
        try:
            if clip.stream is None:
                raise clip.error or ValueError("a clip without frames")
            with self._limit.encoding(0):
                outcome = _counted(clip.stream.finish(), 1)
        except (RuntimeError, ValueError, MemoryError, AssetError) as error:
            outcome = error
        clip.stream = None
        return Encoded(((1, outcome),), 0.0, time.perf_counter() - began)

    def _encode(self, views: Sequence[Array]) -> Encoded:
        pieces: list[tuple[int, Tokens | Exception]] = []
        batch_s = encode_s = 0.0
        start, size = 0, len(views)
        while start < len(views):
            shape = views[start].shape
            size = self._memory.limit(shape, min(size, len(views) - start))
            part = views[start : start + size]
            began = time.perf_counter()
            try:
                with self._limit.encoding(sum(view.nbytes for view in part)):
                    tokens, stacked = self._tokens(part)
            except (RuntimeError, ValueError, MemoryError, AssetError) as error:
                if is_out_of_memory(error):
                    self._memory.ran_out(shape, size)
                if size > 1:
                    size //= 2
                    continue
                pieces.append((1, self._once_more(part, error)))
            else:
                batch_s += stacked - began
                encode_s += time.perf_counter() - stacked
                self._memory.fitted(shape)
                pieces.append((size, tokens))
            start += size
        return Encoded(tuple(pieces), batch_s, encode_s)

    def _tokens(self, views: Sequence[Array]) -> tuple[Tokens, float]:
        inputs = self.encoder.preprocess(np.stack(views))
        stacked = time.perf_counter()
        return _counted(self.encoder.encode(inputs), len(views)), stacked

    def _once_more(self, views: Sequence[Array], error: Exception) -> Tokens | Exception:
        """Encode a view for which the limit of an asset that is read meanwhile left no memory."""
        if not (self._limit.limit_bytes and is_out_of_memory(error)):
            return error
        try:
            with self._limit.relief():
                return self._tokens(views)[0]
        except (RuntimeError, ValueError, MemoryError, AssetError) as again:
            return again

    def close(self) -> None:
        """Finish what is queued and free the device."""
        self._thread.shutdown(wait=True, cancel_futures=True)
        self.encoder.close()


def _counted(tokens: Tokens, views: int) -> Tokens:
    """Return ``tokens`` after checking that each view has its own: a shift would go unnoticed."""
    for name, array in tokens.items():
        if len(array) != views:
            raise TokenmillError(
                f"the tokenizer returned {len(array)} samples of stream {name!r} for {views} views"
            )
    return tokens


def is_out_of_memory(error: BaseException) -> bool:
    """Whether ``error`` says that a device or the host ran out of memory."""
    # By name and text: torch need not be installed to ask, and tells the host's want only in words.
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
