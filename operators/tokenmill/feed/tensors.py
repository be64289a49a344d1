"""Batches as torch tensors; the only module of the feed that imports torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from tokenmill.feed.columns import Batch

if TYPE_CHECKING:
    from tokenmill.feed.feed import Feed

Ids = Literal["int64", "stored"]

#: numpy types whose torch twins have few operations, and the narrowest type that holds them.
_WIDER = {np.dtype(np.uint16): np.int32, np.dtype(np.uint32): np.int64}


class TorchFeed:
    """The batches of a feed as dicts of tensors; text and variable shapes stay lists.

    Iterating it moves the feed, whose state is the only one there is.
    """

    def __init__(self, feed: Feed, *, pin_memory: bool, ids: Ids) -> None:
        self._feed = feed
        self._pin = pin_memory and torch.cuda.is_available()
        self._ids = ids

    def __len__(self) -> int:
        return len(self._feed)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        streams = {stream.name: stream for stream in self._feed.streams}
        for batch in self._feed:
            kinds = {name: streams[name].kind for name in batch if name in streams}
            bfloat = {name for name in kinds if streams[name].dtype == "bfloat16"}
            yield self._tensors(batch, kinds, bfloat)

    def _tensors(self, batch: Batch, kinds: Mapping[str, str], bfloat: set[str]) -> dict[str, Any]:
        out: dict[str, Any] = {}
        for name, values in batch.items():
            kind = "bfloat16" if name in bfloat else kinds.get(name, "column")
            if isinstance(values, list):
                out[name] = [self._tensor(array, kind) for array in values]
            elif values.dtype == object:
                out[name] = values.tolist()
            else:
                out[name] = self._tensor(values, kind)
        return out

    def _tensor(self, values: np.ndarray[Any, Any], kind: str) -> torch.Tensor:
        if kind == "bfloat16":
            tensor = torch.from_numpy(_writable(values.view(np.int16))).view(torch.bfloat16)
        elif kind == "index" and self._ids == "int64":
            tensor = torch.from_numpy(values.astype(np.int64))
        elif kind == "column" and values.dtype in _WIDER:
            tensor = torch.from_numpy(values.astype(_WIDER[values.dtype]))
        else:
            tensor = torch.from_numpy(_writable(values))
        return tensor.pin_memory() if self._pin else tensor


def _writable(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Tensors cannot share read-only memory."""
    return values if values.flags.writeable else values.copy()
