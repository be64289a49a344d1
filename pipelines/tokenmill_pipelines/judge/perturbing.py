"""Perturbed latents: how much worse reconstructions get when some ids are replaced.

A generator will not predict every id right, so a tokenizer whose decoder bears wrong ids is worth
more than its reconstructions tell (RobustTok, arXiv:2503.08354; their pFID is this curve's idea).
A replaced id becomes a near one, as a generator's mistakes mostly are, or any other at random.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from typing import Literal

import numpy as np
import numpy.typing as npt

from tokenmill.feed.shaping.implicit import fsq_digits
from tokenmill.feed.shaping.neighbours import nearest_codes
from tokenmill.tokenizers.base import Array, Encoder, HasCodebook, Tokenizer, Tokens
from tokenmill_schemas.tokens import Stream, TokenSpec

Mode = Literal["near", "random"]
MODES: tuple[Mode, ...] = ("near", "random")
#: Codes that count as near: one of so many nearest is drawn.
NEAR = 8
#: Larger codebooks have no table of neighbours: it takes time with the square of their size.
MOST_CODES = 2**15

Ids = npt.NDArray[np.int64]


def fsq_levels(tokenizer: Tokenizer, spec: TokenSpec) -> dict[str, tuple[int, ...]]:
    """Return the levels of streams of finite scalar quantization (arXiv:2309.15505), by name.

    Tokenizers that have any keep them in their architecture, and number ids with the first
    dimension's digit running fastest, as the paper's authors do.
    """
    found = getattr(getattr(tokenizer, "architecture", None), "levels", None) or ()
    levels = tuple(level for level in found if isinstance(level, int))
    codes = (math.prod(levels),)
    return {s.name: levels for s in spec.streams if levels and s.vocab_sizes == codes}


class Perturbation:
    """Replaces ids of a tokenizer's streams; ``levels`` as `fsq_levels` gives them.

    Draws depend on the seed, the view and the stream alone, so what is replaced at one rate is
    replaced at every higher one, by the same.
    """

    def __init__(
        self,
        encoder: Encoder,
        spec: TokenSpec,
        *,
        levels: Mapping[str, tuple[int, ...]] | None = None,
        seed: int = 0,
    ) -> None:
        self._seed = seed
        self._streams = [s for s in spec.streams if s.kind != "float"]
        self._levels = dict(levels or {})
        books = encoder.codebook() if isinstance(encoder, HasCodebook) else {}
        self._tables = {
            stream.name: nearest_codes(books[stream.name], min(NEAR, len(books[stream.name]) - 1))
            for stream in self._streams
            if stream.name not in self._levels and _has_table(stream, books)
        }

    @property
    def modes(self) -> tuple[Mode, ...]:
        """The ways in which all of the streams of ids can be perturbed; none without such a one."""
        if not self._streams:
            return ()
        near = all(s.kind == "bits" or self._knows(s.name) for s in self._streams)
        return MODES if near else ("random",)

    def how(self, mode: Mode) -> str:
        """Return in words what an id becomes."""
        if mode == "random":
            return "any other id"
        words = [self._near_words(stream) for stream in self._streams]
        return "; ".join(dict.fromkeys(words))

    def _near_words(self, stream: Stream) -> str:
        if stream.kind == "bits":
            return "the code with one bit flipped"
        if stream.name in self._levels:
            return "one level up or down in one dimension"
        return f"one of its {self._tables[stream.name].shape[1]} nearest codes"

    def _knows(self, name: str) -> bool:
        return name in self._levels or name in self._tables

    def apply(self, tokens: Tokens, mode: Mode, rate: float, *, key: str) -> Tokens:
        """Return one view's tokens with about a share ``rate`` of each stream's ids replaced."""
        out = dict(tokens)
        for stream in self._streams:
            values = np.asarray(tokens[stream.name])
            draw = self._draw(key, stream.name)
            positions = values.shape[:-1] if stream.kind == "bits" else values.shape
            hit = draw.random(positions) < rate
            other = self._other(stream, values, mode, draw)
            mask = hit[..., None] if stream.kind == "bits" else hit
            out[stream.name] = np.where(mask, other, values).astype(values.dtype)
        return out

    def _draw(self, key: str, stream: str) -> np.random.Generator:
        text = f"{self._seed}/{key}/{stream}".encode()
        return np.random.default_rng(
            int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little")
        )

    def _other(self, stream: Stream, values: Array, mode: Mode, draw: np.random.Generator) -> Array:
        if stream.kind == "bits":
            return _other_bits(values, mode, draw)
        ids = values.astype(np.int64)
        if mode == "near" and stream.name in self._levels:
            return step(ids, self._levels[stream.name], draw)
        if mode == "near":
            table = self._tables[stream.name]
            return np.asarray(table[ids, draw.integers(table.shape[1], size=ids.shape)])
        sizes = np.asarray(stream.vocab_sizes, np.int64)
        # One less than there are, and past the id itself: never the same one.
        moved = 1 + draw.integers(np.maximum(sizes - 1, 1), size=ids.shape)
        return np.asarray((ids + moved) % sizes)


def _has_table(stream: Stream, books: Mapping[str, Array]) -> bool:
    book = books.get(stream.name)
    if stream.kind != "index" or book is None or len(stream.vocab_sizes) != 1:
        return False
    return 2 <= len(book) <= MOST_CODES and len(book) == stream.vocab_sizes[0]


def _other_bits(values: Array, mode: Mode, draw: np.random.Generator) -> Array:
    if mode == "random":
        return draw.integers(2, size=values.shape, dtype=np.uint8)
    place = draw.integers(values.shape[-1], size=values.shape[:-1])
    flipped = np.arange(values.shape[-1]) == place[..., None]
    return np.asarray(values ^ flipped)


def step(ids: Ids, levels: tuple[int, ...], draw: np.random.Generator) -> Ids:
    """Return ids moved by one level in one dimension each; at an end there is one way to go."""
    sizes = np.array(levels)
    able = np.flatnonzero(sizes > 1)
    dimension = able[draw.integers(len(able), size=ids.shape)]
    up = draw.integers(2, size=ids.shape).astype(bool)
    digit = np.take_along_axis(fsq_digits(ids, levels), dimension[..., None], axis=-1)[..., 0]
    up = (up | (digit == 0)) & (digit < sizes[dimension] - 1)
    basis = np.cumprod((1, *levels[:-1]), dtype=np.int64)[dimension]
    return np.asarray(ids + np.where(up, basis, -basis))
