"""From a source to the views that are judged: a fixed choice of assets, one at a time."""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from tokenmill.worker.pieces import Piece, pieces_of
from tokenmill_pipelines.assemble import Operators
from tokenmill_pipelines.judge.items import FAILURES, Failure, Item, failure
from tokenmill_pipelines.judge.settings import Settings
from tokenmill_schemas.asset import DUPLICATE, AssetRef, refs_of
from tokenmill_schemas.errors import Reason
from tokenmill_schemas.job import LimitsConfig

#: What reading one file may raise besides; the files beside it are read all the same.
UNREADABLE = (*FAILURES, OSError, MemoryError, AttributeError)


@dataclass(slots=True)
class Views:
    """The views of the chosen assets of a source.

    ``failures`` has, after a pass, the assets that gave no view in it.
    """

    operators: Operators
    settings: Settings
    limits: LimitsConfig = field(default_factory=LimitsConfig)
    failures: list[Failure] = field(default_factory=list)
    listed: int = 0
    _chosen: list[AssetRef] | None = None

    def assets(self) -> list[AssetRef]:
        """Return the chosen assets in the order of the listing; it is read once."""
        if self._chosen is None:
            modalities = self.operators.view.modalities
            refs = (ref for batch in self.operators.source.list() for ref in refs_of(batch))
            able = (r for r in refs if r.modality in modalities and r.locator != DUPLICATE)
            self.listed, self._chosen = chosen(able, self.settings.limit)
        return self._chosen

    def items(self, only: Collection[str] | None = None) -> Iterator[Item]:
        """Yield the views of all chosen assets, or of those whose keys are in ``only``."""
        self.failures.clear()
        for ref in self.assets():
            if only is None or ref.key in only:
                yield from self._of_asset(ref)

    def _of_asset(self, ref: AssetRef) -> Iterator[Item]:
        try:
            found = list(self._read(ref))
        except UNREADABLE as error:
            self.failures.append(failure(ref.key, error, Reason.DECODE_FAILED))
            return
        if not found:
            text = "the view rule reads no view of it"
            self.failures.append(Failure(ref.key, str(Reason.TOO_SMALL), text))
        yield from found

    def _read(self, ref: AssetRef) -> Iterator[Item]:
        made = self.operators
        with made.source.open(ref) as stream:
            media = made.decoder.decode(ref, stream)
            try:
                for index, view in enumerate(made.view.views(media, ref.key)):
                    if index >= self.settings.views_per_asset:
                        return
                    for piece in pieces_of(view, index, whole=True, limits=self.limits):
                        if piece.data is not None:
                            yield self._item(ref, media, piece)
            finally:
                media.close()

    def _item(self, ref: AssetRef, media: Any, piece: Piece) -> Item:
        place = piece.coordinates or {}
        name = str(place.get("view.name") or "")
        view = f"{piece.index} {name}".strip()
        up = up_axis(media, str(place.get("view.axes") or "xyz"))
        return Item(np.asarray(piece.data), ref.key, self._content(ref), view, up)

    def _content(self, ref: AssetRef) -> str:
        return self.settings.content or str(ref.columns.get(self.settings.column) or "")


def chosen(refs: Iterator[AssetRef], limit: int) -> tuple[int, list[AssetRef]]:
    """Return how many assets there are, and the ``limit`` of them whose keys hash lowest, in order.

    Memory is bounded by the limit; 0 takes all.
    """
    if not limit:
        everything = list(refs)
        return len(everything), everything
    kept: list[tuple[int, int, AssetRef]] = []
    count = 0
    for count, ref in enumerate(refs, 1):
        rank = int.from_bytes(hashlib.blake2b(ref.key.encode(), digest_size=8).digest())
        heapq.heappush(kept, (-rank, -count, ref))
        if len(kept) > limit:
            heapq.heappop(kept)
    return count, [ref for _, _, ref in sorted(kept, key=lambda one: -one[1])]


def up_axis(media: Any, axes: str) -> Literal["y", "z"]:
    """Return the axis of a view that points up, by the shape's own and how the view turned it."""
    source = getattr(media, "up_axis", "") or axes.replace("-", "")[2]
    return "y" if axes.replace("-", "")[1] == source else "z"
