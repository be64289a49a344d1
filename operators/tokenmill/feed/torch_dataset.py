"""The feed behind torch's data loaders: worker processes that read disjoint steps of it.

A feed reads in threads and needs no worker processes; they pay where transforms hold the
interpreter's lock for long, or where a framework insists on a ``DataLoader``. Worker w of W then
reads the steps w, w + W, w + 2 W, ... and the loader, which takes from its workers in turn, gives
the feed's own order, whatever W is.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from tokenmill.feed.columns import Batch
from tokenmill.feed.tensors import Device, Ids, TensorForm, Tensors, TorchFeed
from tokenmill_schemas.errors import JobError

if TYPE_CHECKING:
    from tokenmill.feed.feed import Feed

#: Where tensors begin inside a batch's one block of memory: a cache line, and any item's size.
ALIGNMENT_BYTES = 64


class FeedDataset(IterableDataset[Tensors]):
    """A feed for ``DataLoader(dataset, batch_size=None, num_workers=...)``: it gives whole batches.

    Works with any number of workers that are forked, spawned or kept (``persistent_workers``), and
    in the loader's own process. Batches are dicts of tensors as of `Feed.as_torch`.

    Every pass over the loader begins at the step where the feed of the loader's process stands and
    goes on to the end of the feed; workers are copies, so a pass moves nothing here. Save
    ``state_at(step)`` for the step that training has come to, and restore it with
    `load_state_dict` before the next pass, under any number of workers. `FeedLoader` counts by
    itself. torchdata's ``StatefulDataLoader`` keeps what the iterators of this class tell it; it
    restores under the same number of workers only.
    """

    def __init__(self, feed: Feed, *, ids: Ids = "int64") -> None:
        """Take a feed; its copies in other processes open the same snapshots.

        Args:
            feed: It must pickle (its transforms too) where workers are spawned.
            ids: See `Feed.as_torch`.

        Raises:
            JobError: ``ids`` is not one of its words.
        """
        self.feed = feed
        self._form = TensorForm.of(feed, ids=ids)
        # Workers that are kept from pass to pass see here where the next one begins.
        self._first = torch.tensor(feed.step)
        self._first.share_memory_()  # type: ignore[no-untyped-call]  # torch's
        self._pid = 0

    def __iter__(self) -> Iterator[Tensors]:
        worker = get_worker_info()
        if worker is None:
            return StepIterator(self.feed, self._form, first=self.feed.step, stride=1)
        # A copy's own feed tells where its first pass begins, whatever has been moved since.
        again, self._pid = self._pid == os.getpid(), os.getpid()
        first = int(self._first) if again else self.feed.step
        stride = worker.num_workers
        return StepIterator(self.feed, self._form, first=first + worker.id, stride=stride)

    def __len__(self) -> int:
        """Return the number of steps of a pass.

        Raises:
            TypeError: the feed has no end.
        """
        end = self.feed.total_steps
        if end is None:
            raise TypeError("the feed has no end: give it epochs=, or count steps")
        return max(0, end - self.feed.step)

    def state_at(self, step: int) -> dict[str, Any]:
        """Return the feed's state before a step; see `Feed.state_at`."""
        return self.feed.state_at(step)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Begin the next pass where ``state`` was taken; see `Feed.load_state_dict`."""
        self.feed.load_state_dict(state)
        self.begin_at(self.feed.step)

    def begin_at(self, step: int) -> None:
        """Begin the next pass at a step, in workers that are kept too."""
        self.feed.seek(step)
        self._first.fill_(step)


class StepIterator(Iterator[Tensors]):
    """Every ``stride``-th step of a feed from ``first`` on, as tensors.

    It has the two methods by which ``StatefulDataLoader`` saves and restores an iterator.
    """

    def __init__(self, feed: Feed, form: TensorForm, *, first: int, stride: int) -> None:
        self._feed, self._form = feed, form
        self._step, self._stride = first, stride
        self._wired = get_worker_info() is not None
        self._batches: Iterator[Batch] | None = None

    def __next__(self) -> Tensors:
        if self._batches is None:
            self._batches = self._feed.iterate(self._step, self._stride)
        batch = self._form(next(self._batches))
        self._step += self._stride
        return WiredBatch(batch) if self._wired else batch

    def state_dict(self) -> dict[str, Any]:
        """Return the feed's state before the next step of this worker, and how many there are."""
        return {"feed": self._feed.state_at(self._step), "workers": self._stride}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go to where ``state`` was taken.

        Raises:
            StoreError: the state belongs to another snapshot.
            JobError: it is of other settings, or of another number of workers.
        """
        if state.get("workers") != self._stride:
            raise JobError(
                f"the state is of {state.get('workers')} workers, this loader has {self._stride}: "
                "restore with FeedDataset.load_state_dict or FeedLoader, which take any number",
                path="loader.num_workers",
            )
        stood = self._feed.step
        self._feed.load_state_dict(state["feed"])
        self._step, self._batches = self._feed.step, None
        self._feed.seek(stood)


class FeedLoader(TorchFeed):
    """A feed read by worker processes: `Feed.as_torch` with transforms on other cores.

    It goes on where the last pass stopped, its state is the feed's, taken after the batches that
    were given out, and is restored under any number of workers and ranks. With no workers it reads
    in the feed's threads.
    """

    def __init__(
        self,
        feed: Feed,
        *,
        num_workers: int = 0,
        ids: Ids = "int64",
        pin_memory: bool = False,
        device: Device = None,
        **options: Any,
    ) -> None:
        """Make the loader; workers start with the first pass.

        Args:
            feed: It must pickle (its transforms too) where workers are spawned.
            num_workers: Processes that read; 0 for none.
            ids: See `Feed.as_torch`.
            pin_memory: See `Feed.as_torch`.
            device: See `Feed.as_torch`.
            options: Others of ``torch.utils.data.DataLoader``: ``multiprocessing_context``,
                ``prefetch_factor``, ``persistent_workers``, ``timeout``, ...

        Raises:
            JobError: ``ids`` is not one of its words.
        """
        super().__init__(feed, pin_memory=pin_memory, ids=ids, device=device)
        self._dataset = FeedDataset(feed, ids=ids)
        self._loader: DataLoader[Tensors] | None = None
        if num_workers:
            options |= {"num_workers": num_workers, "pin_memory": self._form.pin}
            self._loader = DataLoader(self._dataset, batch_size=None, **options)

    def _batches(self) -> Iterator[Tensors]:
        if self._loader is None:
            return super()._batches()
        self._dataset.begin_at(self.feed.step)
        return iter(self._loader)


class WiredBatch(dict[str, Any]):
    """A batch that crosses to another process as one block of shared memory.

    torch passes on each tensor by a file descriptor of its own, of which batches of hundreds of
    small tensors (samples of varying shape) exhaust the process's. Arrives as a plain dict.
    """

    def __copy__(self) -> WiredBatch:
        return WiredBatch(self)

    def __reduce__(self) -> tuple[Any, ...]:
        tensors: list[torch.Tensor] = []
        rest = {name: _lifted(value, tensors) for name, value in self.items()}
        sizes = [tensor.numel() * tensor.element_size() for tensor in tensors]
        padded = [math.ceil(size / ALIGNMENT_BYTES) * ALIGNMENT_BYTES for size in sizes]
        block = torch.empty(sum(padded), dtype=torch.uint8)
        start, places = 0, []
        for tensor, room in zip(tensors, padded, strict=True):
            place = (start, tensor.dtype, tuple(tensor.shape))
            _at(block, *place).copy_(tensor)
            places.append(place)
            start += room
        return _unwired, (rest, block, places)


class _Hole:
    """Where a tensor was taken out of a batch."""


def _lifted(value: Any, tensors: list[torch.Tensor]) -> Any:
    """Return a value without its tensors, which are appended to ``tensors``."""
    if isinstance(value, torch.Tensor):
        tensors.append(value)
        return _Hole()
    return [_lifted(one, tensors) for one in value] if isinstance(value, list) else value


def _unwired(
    rest: dict[str, Any],
    block: torch.Tensor,
    places: list[tuple[int, torch.dtype, tuple[int, ...]]],
) -> Tensors:
    tensors = iter(_at(block, *place) for place in places)
    return {name: _filled(value, tensors) for name, value in rest.items()}


def _filled(value: Any, tensors: Iterator[torch.Tensor]) -> Any:
    if isinstance(value, _Hole):
        return next(tensors)
    return [_filled(one, tensors) for one in value] if isinstance(value, list) else value


def _at(
    block: torch.Tensor, start: int, dtype: torch.dtype, shape: tuple[int, ...]
) -> torch.Tensor:
    """Return a view of a block as a tensor of a type and shape."""
    size = math.prod(shape) * dtype.itemsize
    return block[start : start + size].view(dtype).view(shape)
