"""Batches as torch tensors, on the way to a device; torch is imported here and beside, only.

What a tensor is made of is copied at most once: into the wider type that an embedding takes, into
pinned memory, or into both at the same time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
import numpy.typing as npt
import torch

from tokenmill.feed.columns import Batch
from tokenmill_schemas.errors import JobError

if TYPE_CHECKING:
    from tokenmill.feed.feed import Feed

Ids = Literal["int64", "stored"]
Tensors = dict[str, Any]
Device = torch.device | str | int | None

#: What numpy types become that torch has few operations for.
_WIDER = {np.dtype(np.uint16): torch.int64, np.dtype(np.uint32): torch.int64}


@dataclass(frozen=True, slots=True)
class TensorForm:
    """How the arrays of a batch become tensors; picklable.

    ``kinds`` has each stream's kind, "bfloat16" for those whose arrays are its bits. Anything else
    in a batch (position ids, ``cu_seqlens``, masks, columns) keeps its type, but for the unsigned
    ones that torch can do little with, which become int64.
    """

    kinds: Mapping[str, str]
    ids: Ids = "int64"
    pin: bool = False

    @classmethod
    def of(cls, feed: Feed, *, ids: Ids = "int64", pin: bool = False) -> TensorForm:
        """Return the form of a feed's batches.

        Raises:
            JobError: ``ids`` is not one of its words.
        """
        if ids not in ("int64", "stored"):
            raise JobError(f"is {ids!r}, must be 'int64' or 'stored'", path="feed.ids")
        kinds = {s.name: "bfloat16" if s.dtype == "bfloat16" else s.kind for s in feed.streams}
        return cls(kinds, ids, pin)

    def __call__(self, batch: Batch) -> Tensors:
        """Return a batch as tensors; text and lists of arrays as lists."""
        return {name: self._value(self.kinds.get(name, ""), v) for name, v in batch.items()}

    def _value(self, kind: str, values: Any) -> Any:
        if isinstance(values, list):
            return [self._value(kind, one) for one in values]
        if not isinstance(values, np.ndarray):
            return values
        if values.dtype.kind in "OSU":
            return values.tolist()
        return self._tensor(kind, values)

    def _tensor(self, kind: str, values: npt.NDArray[Any]) -> torch.Tensor:
        # A transform may have made something else of a stream, so that its type decides, too.
        if kind == "bfloat16" and values.dtype == np.uint16:
            source = torch.from_numpy(_shareable(values.view(np.int16))).view(torch.bfloat16)
            return self._copied(source, source.dtype)
        source = torch.from_numpy(_shareable(values))
        dtype = source.dtype
        if kind == "index" and values.dtype.kind in "iu":
            dtype = torch.int64 if self.ids == "int64" else dtype
        elif not kind:
            dtype = _WIDER.get(values.dtype, dtype)
        return self._copied(source, dtype)

    def _copied(self, source: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        if not self.pin:
            return source.to(dtype)
        # torch keeps freed pinned memory for the next tensor, so that only the first few cost.
        return torch.empty(source.shape, dtype=dtype, pin_memory=True).copy_(source)


class TorchFeed:
    """The batches of a feed as dicts of tensors; text and variable shapes stay lists.

    Iterating it moves the feed, whose state is the only one there is; a batch that was read ahead,
    or is on its way to a device, is not counted before it was given out.
    """

    def __init__(
        self, feed: Feed, *, pin_memory: bool = False, ids: Ids = "int64", device: Device = None
    ) -> None:
        """See `tokenmill.feed.Feed.as_torch`.

        Raises:
            JobError: ``ids`` is not one of its words.
        """
        self.feed = feed
        self._device = None if device is None else torch.device(device)
        cuda = torch.cuda.is_available()
        # A copy from other than pinned memory would hold up the step that it should hide behind.
        pin = cuda and (pin_memory or (self._device is not None and self._device.type == "cuda"))
        self._form = TensorForm.of(feed, ids=ids, pin=pin)

    def __len__(self) -> int:
        """Return the number of steps of one epoch."""
        return len(self.feed)

    def __iter__(self) -> Iterator[Tensors]:
        step = self.feed.step
        batches = self._batches()
        for batch in batches if self._device is None else moved(batches, mover(self._device)):
            if self.feed.step != step:
                raise JobError("the feed was restored or iterated anew: take that iterator")
            step += 1
            self.feed.seek(step)
            yield batch

    def state_dict(self) -> dict[str, Any]:
        """Return where the feed stands: after the batches that were given out."""
        return self.feed.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go to where ``state`` was taken; see `Feed.load_state_dict`."""
        self.feed.load_state_dict(state)

    def _batches(self) -> Iterator[Tensors]:
        """Yield the batches from the feed's step on, without moving it."""
        return map(self._form, self.feed.iterate())


class Mover(Protocol):
    """Brings batches to a device."""

    def start(self, batch: Tensors) -> Any:
        """Begin to copy a batch."""
        ...

    def finish(self, started: Any) -> Tensors:
        """Return a batch that the calling thread's work on the device may use."""
        ...


def mover(device: torch.device) -> Mover:
    """Return what brings batches to ``device``."""
    return StreamMover(device) if device.type == "cuda" else PlainMover(device)


def moved(batches: Iterable[Tensors], by: Mover) -> Iterator[Tensors]:
    """Yield batches on a device; the next one is on its way while one is worked on."""
    ahead: list[Any] = []
    for batch in batches:
        ahead.append(by.start(batch))
        if len(ahead) > 1:
            yield by.finish(ahead.pop(0))
    for started in ahead:
        yield by.finish(started)


@dataclass(frozen=True, slots=True)
class PlainMover:
    """Copies when it is told to."""

    device: torch.device

    def start(self, batch: Tensors) -> Tensors:
        """Copy a batch."""
        return each_tensor(batch, lambda tensor: tensor.to(self.device))

    def finish(self, started: Tensors) -> Tensors:
        """Return it."""
        return started


class StreamMover:
    """Copies from pinned memory on a CUDA stream of its own, beside what the device computes."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]  # torch's

    def start(self, batch: Tensors) -> tuple[Tensors, torch.cuda.Event]:
        """Enqueue the copies of a batch."""
        with torch.cuda.stream(self._stream):
            there = each_tensor(batch, lambda t: t.to(self._device, non_blocking=True))
            event = torch.cuda.Event()  # type: ignore[no-untyped-call]  # torch's
            event.record(self._stream)
        return there, event

    def finish(self, started: tuple[Tensors, torch.cuda.Event]) -> Tensors:
        """Let the current stream wait for one batch's copies, and for no later one's."""
        batch, event = started
        current = torch.cuda.current_stream(self._device)
        current.wait_event(event)
        # Memory of this stream is used on another: it may be reused only after that.
        return each_tensor(batch, lambda tensor: _used_on(tensor, current))


def each_tensor(batch: Tensors, change: Callable[[torch.Tensor], torch.Tensor]) -> Tensors:
    """Return a batch with every tensor changed, those in lists too."""

    def value(one: Any) -> Any:
        if isinstance(one, torch.Tensor):
            return change(one)
        return [value(item) for item in one] if isinstance(one, list) else one

    return {name: value(values) for name, values in batch.items()}


def _used_on(tensor: torch.Tensor, stream: torch.cuda.Stream) -> torch.Tensor:
    tensor.record_stream(stream)
    return tensor


def _shareable(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return an array whose memory a tensor can share: writable, and read forwards."""
    ours = values.flags.writeable and all(stride >= 0 for stride in values.strides)
    return values if ours else values.copy()
