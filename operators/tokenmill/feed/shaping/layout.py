"""Where the ids of a flattened sequence come from: one gather writes it, one scatter reads it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tokenmill.feed.shaping.common import Ids, problem


@dataclass(frozen=True, slots=True, eq=False)
class Layout:
    """A sequence of L ids made of a flat array of entries.

    Attributes:
        source: int64[L], the entry that an id comes from; -1 for a constant.
        offset: int64[L], what is added to it; the constant itself.
        size: int64[L], number of ids that the entry's vocabulary has; 1 for a constant.
    """

    source: Ids
    offset: Ids
    size: Ids

    def write(self, flat: Ids) -> Ids:
        """Return sequences ``[B, L]`` of entries ``[B, N]``."""
        picked = flat[:, np.maximum(self.source, 0)]
        picked[:, self.source < 0] = 0
        return picked + self.offset

    def read(self, tokens: Ids) -> Ids:
        """Return the entries ``[B, N]`` of sequences ``[B, L]``.

        Raises:
            JobError: the length is another one, or an id is not one of its place.
        """
        if tokens.ndim != 2 or tokens.shape[1] != len(self.source):
            raise problem(f"needs sequences [B, {len(self.source)}], got {tokens.shape}")
        there = self.source >= 0
        found = tokens[:, there] - self.offset[there]
        if ((found < 0) | (found >= self.size[there])).any():
            raise problem("an id does not belong to the vocabulary of its place")
        out = np.empty((len(tokens), int(there.sum())), np.int64)
        out[:, self.source[there]] = found
        return out

    def between(self, before: tuple[int, ...], after: tuple[int, ...]) -> Layout:
        """Return this layout with constants before and after it."""
        return one_after_another([constants(before), self, constants(after)])


def constants(ids: tuple[int, ...]) -> Layout:
    """Return the layout of ids that come from nowhere."""
    n = len(ids)
    return Layout(np.full(n, -1), np.array(ids, np.int64), np.ones(n, np.int64))


def one_after_another(layouts: list[Layout]) -> Layout:
    """Return layouts in a row."""
    return Layout(
        np.concatenate([layout.source for layout in layouts]),
        np.concatenate([layout.offset for layout in layouts]),
        np.concatenate([layout.size for layout in layouts]),
    )


def interleaved(layouts: list[Layout], positions: int) -> Layout:
    """Return layouts of the same number of positions, taken position by position."""

    def mixed(arrays: list[Ids]) -> Ids:
        return np.concatenate([a.reshape(positions, -1) for a in arrays], axis=1).reshape(-1)

    return Layout(
        mixed([layout.source for layout in layouts]),
        mixed([layout.offset for layout in layouts]),
        mixed([layout.size for layout in layouts]),
    )


@dataclass(frozen=True, slots=True)
class Grid:
    """Entries ``[*grid, depth]`` in raster order, the first of them entry ``first``."""

    grid: tuple[int, ...]
    offsets: tuple[int, ...]
    sizes: tuple[int, ...]
    first: int

    def position_major(self, *, row_end: tuple[int, ...], frame_end: tuple[int, ...]) -> Layout:
        """Return all ids of a position together, rows and frames ended by constants."""
        layout = self._entries(np.arange(self._count).reshape(-1, len(self.offsets)))
        if row_end:
            layout = _ended(layout, self._span(1), row_end)
        if frame_end:
            rows = self.grid[-2] if len(self.grid) > 1 else 1
            layout = _ended(layout, self._span(2) + rows * len(row_end), frame_end)
        return layout

    def depth_major(self) -> Layout:
        """Return all positions of the first depth, then those of the second, and so on."""
        return self._entries(np.arange(self._count).reshape(-1, len(self.offsets)).T)

    @property
    def _count(self) -> int:
        return int(np.prod(self.grid)) * len(self.offsets)

    def _span(self, axes: int) -> int:
        return int(np.prod(self.grid[-axes:])) * len(self.offsets)

    def _entries(self, places: Ids) -> Layout:
        flat = places.reshape(-1)
        depth = flat % len(self.offsets)
        offsets, sizes = np.array(self.offsets, np.int64), np.array(self.sizes, np.int64)
        return Layout(flat + self.first, offsets[depth], sizes[depth])


def _ended(layout: Layout, every: int, ids: tuple[int, ...]) -> Layout:
    pieces = [layout]
    if len(layout.source):
        end = constants(ids)
        pieces = []
        for start in range(0, len(layout.source), every):
            cut = slice(start, start + every)
            pieces += [Layout(layout.source[cut], layout.offset[cut], layout.size[cut]), end]
    return one_after_another(pieces)
