"""Scale-wise pyramids: levels of one sequence, and the teacher-forcing input of next-scale models.

VAR (arXiv:2404.02905): the transformer reads, for every level but the first, the sum of all coarser
levels' codes, enlarged and convolved (Phi), shrunk to that level's grid. It is a function of ids
and codebook, so a store keeps ids alone. TokenFlow (arXiv:2412.03069) sums two codebooks side by
side and has no Phi; SAR3D (arXiv:2411.16856) does it for each of three planes; Infinity
(arXiv:2412.04431) sums plus and minus one over the root of the number of bits.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Literal

import numpy as np

from tokenmill.feed.columns import Batch
from tokenmill.feed.sequence.draw import Draw
from tokenmill.feed.shaping.common import Array, Floats, Ids, Mask, problem, stacked
from tokenmill.feed.shaping.resample import matrix, resize
from tokenmill_schemas.tokens import Stream

Levels = tuple[tuple[int, ...], ...]
Up = Literal["bicubic", "linear", "nearest"]
#: Pyramids that are summed at once: their maps stay in the processor's cache.
CHUNK = 16


def level_sizes(levels: Levels) -> tuple[int, ...]:
    """Return the number of positions of each level."""
    return tuple(int(np.prod(grid)) for grid in levels)


def level_index(levels: Levels) -> Ids:
    """Return the level of each position, for a level embedding: int64[L]."""
    return np.repeat(np.arange(len(levels)), level_sizes(levels))


def block_causal_mask(levels: Levels) -> Mask:
    """Return which positions each may attend to, its own level and all coarser: bool[L, L]."""
    of = level_index(levels)
    return np.asarray(of[:, None] >= of[None, :])


def split_levels(values: Array, levels: Levels, *, tail: int = 0) -> list[Array]:
    """Return each level's ``[..., *grid, *tail]`` of a sequence ``[..., L, *tail]``.

    Raises:
        JobError: L is not the levels' positions.
    """
    sizes = level_sizes(levels)
    axis = values.ndim - 1 - tail
    if axis < 0 or values.shape[axis] != sum(sizes):
        raise problem(f"levels {levels} have {sum(sizes)} positions, the values {values.shape}")
    pieces = np.split(values, np.cumsum(sizes)[:-1], axis=axis)
    rest = values.shape[axis + 1 :]
    before = values.shape[:axis]
    return [piece.reshape(*before, *g, *rest) for piece, g in zip(pieces, levels, strict=True)]


def join_levels(pieces: list[Array], *, tail: int = 0) -> Array:
    """Return the sequence ``[B, L, *tail]`` of levels ``[B, *grid, *tail]``."""
    flat = [p.reshape(len(p), -1, *p.shape[p.ndim - tail :]) for p in pieces]
    return np.concatenate(flat, axis=1)


@dataclass(frozen=True, slots=True, eq=False)
class Phi:
    """VAR's convolutions (arXiv:2404.02905): one of K for each level.

    Each is ``(1 - ratio) * x + ratio * conv3x3(x)``.

    Attributes:
        weights: float32[K, C, C, 3, 3], torch's layout.
        biases: float32[K, C].
        ratio: share of the convolution.
    """

    weights: Floats
    biases: Floats
    ratio: float = 0.5

    def __post_init__(self) -> None:
        k, c = self.biases.shape
        if self.weights.shape != (k, c, c, 3, 3):
            raise problem(f"Phi's weights are {self.weights.shape}, not {(k, c, c, 3, 3)}")

    @classmethod
    def of(cls, arrays: Mapping[str, Array], ratio: float = 0.5) -> Phi | None:
        """Return the convolutions ``phi.<i>.weight`` and ``phi.<i>.bias``, None if there are none.

        Raises:
            JobError: one has no bias.
        """
        count = sum(name.startswith("phi.") and name.endswith(".weight") for name in arrays)
        if not count:
            return None
        try:
            weights = [arrays[f"phi.{i}.weight"] for i in range(count)]
            biases = [arrays[f"phi.{i}.bias"] for i in range(count)]
        except KeyError as error:
            raise problem(f"the codebook has no {error.args[0]}") from None
        return cls(np.stack(weights).astype(np.float32), np.stack(biases), ratio)

    def index(self, level: int, levels: int) -> int:
        """Return which of the K convolutions a level uses: that of the nearest tick."""
        k = len(self.biases)
        # Ticks as VAR places them, in this very form: of ten levels two lie half way between two of
        # four ticks, and rounding decides.
        edge = 1 / 3 / k if k == 4 else 1 / 2 / k
        ticks = np.linspace(edge, 1 - edge, k)
        at = level / (levels - 1) if levels > 1 else 0.0
        return int(np.argmin(np.abs(ticks - at)))

    def __call__(self, codes: Floats, grid: tuple[int, ...], *, up: Up, index: int) -> Floats:
        """Return codes ``float32[B, h, w, C]`` enlarged to ``grid`` and convolved, zeros around.

        Both are linear, so channels are mixed while there are few positions, and every tap is
        enlarged to where it is added: a quarter of the arithmetic.
        """
        b, h, w, c = codes.shape
        mixed = (codes.reshape(-1, c) @ self._taps(index)).reshape(b, h, w, 3, 3, c)
        mixed = np.ascontiguousarray(mixed.transpose(0, 1, 3, 2, 4, 5))
        out = _tap_matrix(up, grid[0], h) @ mixed.reshape(b, h * 3, w * 3 * c)
        out = _tap_matrix(up, grid[1], w) @ out.reshape(b * grid[0], w * 3, c)
        share = np.float32(self.ratio)
        return np.asarray(out.reshape(b, *grid, c) + self.biases[index] * share, np.float32)

    def _taps(self, index: int) -> Floats:
        """Return float32[C, 3 * 3 * C]: what a channel gives to each tap's outputs."""
        taps = self.weights[index].transpose(1, 2, 3, 0) * np.float32(self.ratio)
        c = len(taps)
        taps[np.arange(c), 1, 1, np.arange(c)] += np.float32(1 - self.ratio)
        return np.asarray(taps, np.float32).reshape(c, -1)


@lru_cache(maxsize=1024)
def _tap_matrix(up: Up, target: int, source: int) -> Floats:
    """Return float32[target, source * 3]: to each row, from a cell of the tap above, at, below."""
    taps = np.zeros((target + 2, source, 3), np.float32)
    for tap in range(3):
        taps[2 - tap : target + 2 - tap, :, tap] = matrix(up, target, source)
    out = np.ascontiguousarray(taps[1 : target + 1]).reshape(target, source * 3)
    out.flags.writeable = False
    return out


def accumulate(
    codes: list[Floats], *, up: Up = "bicubic", phi: Phi | None = None
) -> Iterator[Floats]:
    """Yield the sum of the first 1, 2, ... levels at the finest grid: float32[B, *grid, C] each.

    ``codes`` are each level's codes ``float32[B, *grid, C]``, coarse to fine.
    """
    finest = codes[-1].shape[1:-1]
    total = np.zeros((len(codes[0]), *finest, codes[0].shape[-1]), np.float32)
    for level, code in enumerate(codes):
        if phi is None:
            total = total + resize(code, up, finest)
        else:
            total = total + phi(code, finest, up=up, index=phi.index(level, len(codes)))
        yield total


def teacher_input(codes: list[Floats], *, up: Up = "bicubic", phi: Phi | None = None) -> Floats:
    """Return what a next-scale model reads: float32[B, L - first level, C].

    Level k+1's part is the sum of levels 1 to k, shrunk by area to the grid of level k+1.
    """
    parts = []
    sums = accumulate(codes, up=up, phi=phi)
    for following in codes[1:]:
        small = resize(next(sums), "area", following.shape[1:-1])
        parts.append(small.reshape(len(small), -1, small.shape[-1]))
    width = codes[0].shape[-1]
    return np.concatenate(parts, axis=1) if parts else np.zeros((len(codes[0]), 0, width), "f4")


@dataclass(frozen=True, slots=True, eq=False)
class TeacherInput:
    """Adds ``"<name>.teacher"``: float32[B, *lead, L - first level, C], of ids ``[B, *lead, L]``.

    Papers: VAR (arXiv:2404.02905); TokenFlow (arXiv:2412.03069) and SAR3D (arXiv:2411.16856).

    Attributes:
        name: a stream of ids, levels coarse to fine; leading axes (planes) are pyramids of their
            own.
        levels: the grid of every level.
        book: codes float32[V, C].
        up: how levels are enlarged.
        phi: VAR's convolutions.
    """

    name: str
    levels: Levels
    book: Floats
    up: Up = "bicubic"
    phi: Phi | None = field(default=None)

    def __post_init__(self) -> None:
        if len(self.levels) < 2 or self.book.ndim != 2:
            raise problem(f"a pyramid of levels {self.levels} needs two of them and codes [V, C]")

    @classmethod
    def of(cls, stream: Stream, codebook: Mapping[str, Array], **settings: Any) -> TeacherInput:
        """Return the transform for a stream, of what `tokenmill.store.Store.codebook` gives.

        Raises:
            JobError: the stream has no levels, or the codebook is another stream's.
        """
        if stream.name not in codebook:
            raise problem(f"the codebook has {sorted(codebook)}, and no {stream.name!r}")
        book = np.asarray(codebook[stream.name], np.float32)
        return cls(stream.name, stream.levels, book, phi=Phi.of(codebook), **settings)

    def __call__(self, batch: Batch, draw: Draw) -> Batch:
        """Add the teacher-forcing input.

        Raises:
            JobError: an id is not one of the codebook.
        """
        del draw
        ids = stacked(batch, self.name)
        if ids.size and int(ids.max()) >= len(self.book):
            raise problem(f"{self.name!r} has id {ids.max()}, the codebook {len(self.book)} codes")
        flat = ids.reshape(-1, ids.shape[-1])
        starts = range(0, len(flat), CHUNK)
        parts = [self._teacher(flat[start : start + CHUNK]) for start in starts]
        given = np.concatenate(parts) if parts else self._teacher(flat)
        return {**batch, f"{self.name}.teacher": given.reshape(*ids.shape[:-1], *given.shape[1:])}

    def _teacher(self, ids: Array) -> Floats:
        codes = [self.book[level] for level in split_levels(ids, self.levels)]
        return teacher_input(codes, up=self.up, phi=self.phi)
