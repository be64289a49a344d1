"""For tests of consumers: synthetic tokens of a tokenizer's streams, and what a test states."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from tokenmill.feed.columns import Batch, Values
from tokenmill.feed.sequence.draw import Draw
from tokenmill_schemas.tokens import Axis, Stream

Array = npt.NDArray[Any]
ROWS = 4


def ids(name: str, *shape: int, vocab: int | tuple[int, ...], **facts: Any) -> Stream:
    """A stream of ids; a last axis with several vocabularies, or called depth, is one."""
    depth = facts.pop("depth", False)
    names = ("t", "h", "w")[3 - len(shape) + depth :] if len(shape) - depth > 1 else ("n",)
    axes = [Axis(axis, size) for axis, size in zip(names, shape, strict=False)]
    axes += [Axis("depth", shape[-1])] * depth
    vocabs = vocab if isinstance(vocab, tuple) else (vocab,)
    return Stream(name, "index", tuple(axes), vocabs, **facts)


def floats(name: str, *shape: int, channels: int, dtype: str = "float32", **facts: Any) -> Stream:
    """A stream of latents."""
    axes = tuple(Axis("xyz"[i], size) for i, size in enumerate(shape))
    return Stream(name, "float", axes, channels=channels, dtype=dtype, **facts)


def stored(*streams: Stream, rows: int = ROWS, seed: int = 0) -> Batch:
    """What a feed gives of these streams: random tokens in their storage type."""
    rng = np.random.default_rng(seed)
    return {stream.name: _tokens(stream, rows, rng) for stream in streams}


def _tokens(stream: Stream, rows: int, rng: np.random.Generator) -> Array:
    shape = (rows, *(size or 1 for size in stream.shape))
    if stream.kind == "float":
        values = rng.standard_normal(shape, np.float32)
        if stream.dtype == "bfloat16":
            return (values.view(np.uint32) >> 16).astype(np.uint16)
        return values.astype(stream.dtype)
    tops = np.array(stream.vocab_sizes) if stream.kind == "index" else np.array([2])
    return rng.integers(0, tops, shape).astype(stream.storage_dtype)


def ragged(vocab: int, *sizes: int, tail: tuple[int, ...] = (), seed: int = 0) -> Values:
    """Sequences of ids of these lengths, in the narrowest type."""
    rng = np.random.default_rng(seed)
    kind = Stream("x", "index", (Axis("n"),), (vocab,)).storage_dtype
    return [rng.integers(0, vocab, (n, *tail)).astype(kind) for n in sizes]


def shaped(batch: Batch, *transforms: Any, step: int = 0) -> Batch:
    """What a feed makes of a batch at a step."""
    rows = len(next(iter(batch.values())))
    for transform in transforms:
        batch = transform(batch, Draw(0, step, 0, rows))
    return batch


def stated(batch: Batch, name: str, dtype: str, *shape: int) -> Array:
    """The array of that name, which must have this type and shape."""
    values = batch[name]
    assert isinstance(values, np.ndarray), f"{name} is a list"
    assert (str(values.dtype), values.shape) == (dtype, shape), name
    return values
