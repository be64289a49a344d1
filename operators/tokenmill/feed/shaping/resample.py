"""Resizing of small feature maps as products with matrices, one for each axis.

The rules are those of `torch.nn.functional.interpolate` (``align_corners=False``, no antialias) and
`adaptive_avg_pool2d`, so that what a pyramid tokenizer made with torch can be made here again:
``bicubic`` with a = -0.75 (Keys 1981), ``linear``, ``area`` (the mean of the cells that a target
cell touches, whole cells) and ``nearest``.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Literal

import numpy as np
import numpy.typing as npt

from tokenmill.feed.shaping.common import Array, Floats, problem

Rule = Literal["bicubic", "linear", "area", "nearest"]
_A = -0.75


@lru_cache(maxsize=1024)
def matrix(rule: Rule, target: int, source: int) -> Floats:
    """Return the weights float32[target, source] of one axis, read-only.

    Raises:
        JobError: there is no such rule, or a size is not positive.
    """
    if min(target, source) < 1 or rule not in _WEIGHTS:
        raise problem(f"cannot resize {source} to {target} by {rule!r}")
    weights = _WEIGHTS[rule](target, source).astype(np.float32)
    weights.flags.writeable = False
    return weights


def resize(maps: Array, rule: Rule, grid: tuple[int, ...]) -> Array:
    """Return feature maps ``float32[*lead, *grid, C]`` of ``[*lead, *source grid, C]``.

    As many axes before the channels are resized as ``grid`` has.
    """
    out = maps
    for back, size in enumerate(reversed(grid)):
        axis = maps.ndim - 2 - back
        if out.shape[axis] != size:
            weights = matrix(rule, size, out.shape[axis])
            out = np.moveaxis(np.tensordot(weights, out, axes=(1, axis)), 0, axis)
    return np.ascontiguousarray(out, np.float32)


def _centres(target: int, source: int) -> npt.NDArray[np.float64]:
    return np.asarray((np.arange(target) + 0.5) * (source / target) - 0.5, np.float64)


def _bicubic(target: int, source: int) -> npt.NDArray[np.float64]:
    at = _centres(target, source)
    first = np.floor(at).astype(np.int64)
    out = np.zeros((target, source))
    for tap in range(-1, 3):
        distance = np.abs(at - (first + tap))
        near = (_A + 2) * distance**3 - (_A + 3) * distance**2 + 1
        far = _A * (distance**3 - 5 * distance**2 + 8 * distance - 4)
        cells = np.clip(first + tap, 0, source - 1)
        np.add.at(out, (np.arange(target), cells), np.where(distance <= 1, near, far))
    return out


def _linear(target: int, source: int) -> npt.NDArray[np.float64]:
    at = np.maximum(_centres(target, source), 0)
    first = np.minimum(np.floor(at).astype(np.int64), source - 1)
    out = np.zeros((target, source))
    rows = np.arange(target)
    np.add.at(out, (rows, first), 1 - (at - first))
    np.add.at(out, (rows, np.minimum(first + 1, source - 1)), at - first)
    return out


def _area(target: int, source: int) -> npt.NDArray[np.float64]:
    rows = np.arange(target)[:, None]
    starts, ends = rows * source // target, -(-(rows + 1) * source // target)
    cells = np.arange(source)
    inside = (cells >= starts) & (cells < ends)
    return inside / (ends - starts)


def _nearest(target: int, source: int) -> npt.NDArray[np.float64]:
    return np.eye(source)[np.arange(target) * source // target]


_WEIGHTS = {"bicubic": _bicubic, "linear": _linear, "area": _area, "nearest": _nearest}
