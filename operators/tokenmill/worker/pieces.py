"""Pieces: what passes from the thread that reads an asset to the one that has it encoded."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from tokenmill.views.base import Array, LongView, ViewOf
from tokenmill_schemas.errors import AssetError, Reason
from tokenmill_schemas.job import LimitsConfig


@dataclass(frozen=True, slots=True)
class Piece:
    """View ``index`` of an asset, or a part of it.

    A whole view has data and coordinates. A long one comes as parts, which have data alone, and
    an end, which has coordinates alone.
    """

    index: int
    data: Array | None
    coordinates: dict[str, Any] | None

    def weigh(self) -> int:
        """Return the bytes that it holds."""
        return 0 if self.data is None else self.data.nbytes


def pieces_of(
    view: ViewOf | LongView, index: int, *, whole: bool, limits: LimitsConfig
) -> Iterator[Piece]:
    """Yield a view's pieces; ``whole`` joins the parts of a long one, for encoders that need it so.

    Raises:
        AssetError: ``too_long``: joined, it takes more than ``limits.view_bytes``.
    """
    if isinstance(view, ViewOf):
        yield Piece(index, view.data, view.coordinates)
        return
    if whole:
        data = _joined(view.parts, limits.view_bytes)
        yield Piece(index, data, view.coordinates())
        return
    for part in view.parts:
        yield Piece(index, part, None)
    yield Piece(index, None, view.coordinates())


def _joined(parts: Iterator[Array], most_bytes: int) -> Array:
    held: list[Array] = []
    total = 0
    for part in parts:
        total += part.nbytes
        if total > most_bytes:
            frames = sum(len(each) for each in held) + len(part)
            raise AssetError(
                Reason.TOO_LONG,
                f"a view of {frames} frames or more takes over limits.view_bytes = {most_bytes}, "
                "and this tokenizer needs it in one piece; read windows or shots instead",
            )
        held.append(part)
    return np.concatenate(held)
