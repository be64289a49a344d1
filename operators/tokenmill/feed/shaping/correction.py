"""Infinity's bit pyramids: labels, inputs, and bitwise self-correction (arXiv:2412.04431).

A level's code is ``+-1/sqrt(d)`` for d bits. In training some bits of every level are flipped in
what the model reads, and the labels of finer levels are made from what is then missing, so that the
model learns to mend its own mistakes. That needs the raw features; of stored bits alone only the
input can be flipped, and finer labels do not know of it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tokenmill.feed.columns import Batch
from tokenmill.feed.sequence.draw import Draw
from tokenmill.feed.shaping.common import (
    Array,
    Floats,
    Ids,
    Mask,
    check_probability,
    problem,
    rows_of,
    stacked,
)
from tokenmill.feed.shaping.pyramid import Levels, level_sizes, split_levels, teacher_input
from tokenmill.feed.shaping.resample import resize


def bit_codes(bits: Array) -> Floats:
    """Return codes ``float32[..., d]`` of bits ``[..., d]``: plus or minus one over root d."""
    scale = np.float32(1 / np.sqrt(bits.shape[-1]))
    return np.where(bits > 0, scale, -scale).astype(np.float32)


def bit_teacher_input(bits: Array, levels: Levels) -> Floats:
    """Return ``float32[B, L - first, d]`` of bits ``[B, L, d]``: sums enlarged linearly."""
    return teacher_input([bit_codes(b) for b in split_levels(bits, levels, tail=1)], up="linear")


def self_correct(features: Floats, levels: Levels, flips: list[Mask]) -> tuple[Ids, Ids]:
    """Return labels and the flipped bits that the model reads: int64[B, L, d] each.

    Level k's labels are the signs of what the flipped levels before it have left of the features,
    shrunk by area.

    Args:
        features: float32[B, *grid of the last level, d].
        levels: grids, coarse to fine.
        flips: bool[B, positions, d] for each level; True flips.
    """
    left, labels, read = features.astype(np.float32), [], []
    for grid, flip in zip(levels, flips, strict=True):
        bits = resize(left, "area", grid) > 0
        flat = bits.reshape(len(bits), -1, bits.shape[-1])
        seen = flat ^ flip
        left = left - resize(bit_codes(seen.reshape(bits.shape)), "linear", levels[-1])
        labels.append(flat)
        read.append(seen)
    joined = [np.concatenate(parts, axis=1).astype(np.int64) for parts in (labels, read)]
    return joined[0], joined[1]


@dataclass(frozen=True, slots=True)
class SelfCorrection:
    """Random flips of up to ``strength`` of each level's bits, a share of its own for each level.

    Infinity's bitwise self-correction (arXiv:2412.04431).

    Gives ``"<into>.labels"`` (uint8[B, L, d]), ``"<into>.read"`` (uint8[B, L, d], flipped) and
    ``"<into>.teacher"`` (float32[B, L - first, d]).

    Attributes:
        name: raw features ``float32[B, *grid of the last level, d]``, or bits ``[B, L, d]``. Of
            bits the labels stay as stored.
        levels: grids, coarse to fine.
        others: levels of other aspect ratios. A step's are those that its samples fit, so it must
            be of one shape (``Feed(buckets=...)``).
        into: prefix of what it gives; "" is ``name``.
        strength: largest share of bits of a level that is flipped (0.3 in the paper).
    """

    name: str
    levels: Levels
    into: str = ""
    strength: float = 0.3
    others: tuple[Levels, ...] = ()

    def __post_init__(self) -> None:
        check_probability("strength", self.strength)
        if not all((self.levels, *self.others)):
            raise problem("a pyramid needs levels")

    def __call__(self, batch: Batch, draw: Draw) -> Batch:
        """Add labels, flipped bits and input.

        Raises:
            JobError: the stream has another shape than the levels say.
        """
        values = stacked(batch, self.name)
        rows_of(values, draw, self.name)
        levels = self._levels_of(values)
        flips = self.flips(draw, levels, values.shape[-1])
        if values.dtype.kind == "f":
            labels, read = self_correct(values, levels, flips)
        else:
            labels = values.astype(np.int64)
            read = labels ^ np.concatenate(flips, axis=1)
        given = bit_teacher_input(read, levels)
        into = self.into or self.name
        new: Batch = {
            "labels": labels.astype(np.uint8),
            "read": read.astype(np.uint8),
            "teacher": given,
        }
        return {**batch, **{f"{into}.{key}": value for key, value in new.items()}}

    def _levels_of(self, values: Array) -> Levels:
        shape, of_features = values.shape[1:-1], values.dtype.kind == "f"
        fitting = [
            levels
            for levels in (self.levels, *self.others)
            if shape == (levels[-1] if of_features else (sum(level_sizes(levels)),))
        ]
        if len(fitting) != 1:
            known = [levels[-1] for levels in (self.levels, *self.others)]
            raise problem(
                f"{self.name!r} has positions {shape}, which are those of {len(fitting)} of the "
                f"pyramids whose last levels are {known}"
            )
        return fitting[0]

    def flips(self, draw: Draw, levels: Levels, width: int) -> list[Mask]:
        """Return which bits are flipped: bool[B, positions, width] for each level."""
        sizes = level_sizes(levels)
        shares = draw.uniform(f"flip/{self.name}/share", len(sizes)) * self.strength
        out = []
        for level, size in enumerate(sizes):
            chance = draw.uniform(f"flip/{self.name}/{level}", size * width)
            out.append((chance < shares[:, level : level + 1]).reshape(-1, size, width))
        return out
