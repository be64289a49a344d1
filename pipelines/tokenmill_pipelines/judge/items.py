"""What is judged: views with names, and what a tokenizer makes of them, a few at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

from tokenmill.tokenizers.base import Array, Encoder, Tokens
from tokenmill_schemas.errors import AssetError, Reason

#: Bytes of views that are coded together: eight pictures of 256 pixels, or one short clip. Decoders
#: hold some hundreds of times as much.
BATCH_BYTES = 8 * 256 * 256 * 3
#: What a library raises about data of one view; it must not cost the others.
FAILURES = (AssetError, RuntimeError, ValueError, TypeError, LookupError, ArithmeticError)


@dataclass(frozen=True, slots=True)
class Item:
    """A view to judge by: its data (see `tokenmill.views.base.ViewKind`), its asset, its content.

    ``view`` says which view of the asset it is, ``content`` of what class it is (``photo``,
    ``drawing``, ``text``, ``face``, or any other word); ``up`` which axis of a shape points up.
    """

    data: Array
    key: str = ""
    content: str = ""
    view: str = ""
    up: Literal["y", "z"] = "z"


@dataclass(frozen=True, slots=True)
class Failure:
    """A view, or a whole asset, that could not be judged, and why."""

    key: str
    reason: str
    error: str


@dataclass(frozen=True, slots=True)
class Coded:
    """A view with its tokens (a leading axis of one) and what the decoder gives back of it."""

    item: Item
    tokens: Tokens
    decoded: Array


def items_of(views: Iterable[Array | Item], content: str = "") -> Iterator[Item]:
    """Yield items as they are, and arrays as items that are numbered."""
    for number, view in enumerate(views):
        yield view if isinstance(view, Item) else Item(view, str(number), content)


def code(encoder: Encoder, items: Iterable[Item]) -> Iterator[Coded | Failure]:
    """Encode and decode views, in order; neighbours of equal shape go together, if they are small.

    A view on which the encoder fails becomes a `Failure`, its neighbours go on.
    """
    waiting: list[Item] = []
    for item in items:
        full = (len(waiting) + 1) * item.data.nbytes > BATCH_BYTES
        if waiting and (full or item.data.shape != waiting[0].data.shape):
            yield from _coded(encoder, waiting)
            waiting = []
        waiting.append(item)
    if waiting:
        yield from _coded(encoder, waiting)


def _coded(encoder: Encoder, items: list[Item]) -> Iterator[Coded | Failure]:
    try:
        yield from list(_together(encoder, items))
    except FAILURES as error:
        if len(items) == 1:
            yield failure(items[0].key, error, Reason.ENCODE_FAILED)
            return
        for item in items:
            yield from _coded(encoder, [item])


def failure(key: str, error: BaseException, default: Reason) -> Failure:
    """Return the record of an error about one asset."""
    if isinstance(error, AssetError):
        return Failure(key, str(error.reason), str(error))
    return Failure(key, str(default), f"{type(error).__name__}: {error}")


def _together(encoder: Encoder, items: list[Item]) -> Iterator[Coded]:
    tokens = encoder.encode(encoder.preprocess(np.stack([item.data for item in items])))
    decoded = encoder.decode(tokens)
    for row, item in enumerate(items):
        made = as_view(np.asarray(decoded[row]), item.data)
        yield Coded(item, row_of(tokens, row), made)


def row_of(tokens: Tokens, row: int) -> Tokens:
    """Return one view's tokens with a leading axis of one, whether shapes vary or not."""
    return {name: np.asarray(values[row])[None] for name, values in tokens.items()}


def as_view(decoded: Array, original: Array) -> Array:
    """Return what stands for the original where a tokenizer of clips gives back more.

    An image comes back as a clip of one frame, and a clip of one frame as a group of equal ones.
    """
    if decoded.ndim == original.ndim + 1 and len(decoded) == 1:
        frame: Array = decoded[0]
        return frame
    return decoded[:1] if original.ndim == 4 and len(original) == 1 else decoded
