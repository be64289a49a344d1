"""What the orders share: a soup of triangles as numbered vertices, and the form of an order."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tokenmill_schemas.tokens import Stream

Ids = npt.NDArray[Any]
Ints = npt.NDArray[np.int64]
#: ``int32[F, 3, 3]``: face, corner, x y z.
Soup = npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Order:
    """One order: its streams for a number of bins, and both directions between soup and ids.

    ``encode(soup, bins)`` gives an integer array per stream, ``decode(tokens, bins)`` takes them.
    """

    streams: Callable[[int], tuple[Stream, ...]]
    encode: Callable[[Soup, int], dict[str, Ints]]
    decode: Callable[[Mapping[str, Ids], int], Soup]


def numbered(soup: Soup) -> tuple[Ints, Ints]:
    """Return vertices ``int64[V, 3]`` sorted by z, y, x, and faces ``int64[F, 3]`` of them.

    Corners on one grid point are one vertex. Coordinates are at least 0 and below 2^20.
    """
    x, y, z = np.moveaxis(soup.reshape(-1, 3).astype(np.int64), 1, 0)
    side = int(soup.max(initial=0)) + 1
    keys, numbers = np.unique((z * side + y) * side + x, return_inverse=True)
    vertices = np.stack([keys % side, keys // side % side, keys // side**2], axis=1)
    return vertices, numbers.reshape(-1, 3).astype(np.int64, copy=False)
