"""Windows of a grid taken together: Token-Shuffle's merge, and patches in (h w p1 p2) order.

Token-Shuffle (arXiv:2504.17789) merges the s x s ids of a window into one position of the
transformer and splits them again after it; BitDance (github.com/shallowdream204/BitDance) predicts
the tokens of a patch at once.
"""

from __future__ import annotations

from dataclasses import dataclass

from tokenmill.feed.columns import Batch
from tokenmill.feed.sequence.draw import Draw
from tokenmill.feed.shaping.common import Array, each, problem, values_of


def merge_windows(values: Array, size: int, *, tail: int = 0) -> Array:
    """Return ``[..., H/s, W/s, s*s, *tail]`` of ``[..., H, W, *tail]``.

    Raises:
        JobError: a side is not a multiple of ``size``.
    """
    lead = values.ndim - tail - 2
    if lead < 0:
        raise problem(f"windows need two grid axes, got {values.shape}")
    h, w = values.shape[lead : lead + 2]
    if size < 1 or h % size or w % size:
        raise problem(f"a grid of {h} x {w} has no whole windows of {size} x {size}")
    before, after = values.shape[:lead], values.shape[lead + 2 :]
    cut = values.reshape(*before, h // size, size, w // size, size, *after)
    return cut.swapaxes(lead + 1, lead + 2).reshape(
        *before, h // size, w // size, size * size, *after
    )


def split_windows(values: Array, size: int, *, tail: int = 0) -> Array:
    """Return ``[..., H, W, *tail]`` of windows ``[..., H/s, W/s, s*s, *tail]``.

    Raises:
        JobError: the windows have another size.
    """
    lead = values.ndim - tail - 3
    if lead < 0 or values.shape[lead + 2] != size * size:
        raise problem(f"needs windows [..., {size * size}] of {size} x {size}, got {values.shape}")
    h, w = values.shape[lead : lead + 2]
    before, after = values.shape[:lead], values.shape[lead + 3 :]
    cut = values.reshape(*before, h, w, size, size, *after)
    return cut.swapaxes(lead + 1, lead + 2).reshape(*before, h * size, w * size, *after)


@dataclass(frozen=True, slots=True)
class MergeWindows:
    """Makes ``[B, H/s * W/s, s*s, *tail]`` of a stream ``[B, H, W, *tail]``, in raster order.

    Token-Shuffle (arXiv:2504.17789). With ``flat`` the windows' positions follow one another in one
    axis: ``[B, H*W, *tail]``, the patch order ``(h w p1 p2)`` of BitDance.
    """

    name: str
    size: int
    tail: int = 0
    flat: bool = False

    def __post_init__(self) -> None:
        if self.size < 1 or self.tail < 0:
            raise problem(f"windows have a positive size, got {self.size}")

    def __call__(self, batch: Batch, draw: Draw) -> Batch:
        """Merge the windows."""
        del draw
        return {**batch, self.name: each(values_of(batch, self.name), self._merge)}

    def _merge(self, values: Array) -> Array:
        merged = merge_windows(values, self.size, tail=self.tail)
        rest = merged.shape[merged.ndim - self.tail :]
        lead = (len(values), -1) if self.flat else (len(values), -1, self.size**2)
        return merged.reshape(*lead, *rest)
