"""The rows of a unit: tokens as they come from the device, put into the order of the listing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tokenmill.shards.columns import count_tokens as count_tokens
from tokenmill.shards.columns import make_batch
from tokenmill.tokenizers.base import Tokens
from tokenmill.worker.group_entropy import entropy_sums
from tokenmill.worker.statistics import TokenStatistics
from tokenmill_schemas.arrow import ShardLayout
from tokenmill_schemas.asset import AssetRef
from tokenmill_schemas.entropy import EntropySums

Place = tuple[int, int]


def sample_id(ref: AssetRef, view: int) -> str:
    """Return the id of a sample, which no other sample of a store has."""
    return f"{ref.key}#{view}"


@dataclass(frozen=True, slots=True)
class Counted:
    """The rows of a unit, how often each id is among them, and how varied they are."""

    rows: pa.RecordBatch
    statistics: TokenStatistics
    entropy: EntropySums


@dataclass(slots=True)
class Rows:
    """Collects a unit's samples; the tokens of a unit fit in memory, its pixels need not."""

    layout: ShardLayout
    _refs: dict[int, AssetRef] = field(default_factory=dict)
    _facts: dict[int, dict[str, Any]] = field(default_factory=dict)
    _views: dict[Place, dict[str, Any]] = field(default_factory=dict)
    _places: list[Place] = field(default_factory=list)
    _tokens: list[Tokens] = field(default_factory=list)

    def add_view(self, place: Place, coordinates: dict[str, Any]) -> None:
        """Remember where a view lies in its asset."""
        self._views[place] = coordinates

    def add_asset(self, row: int, ref: AssetRef, facts: dict[str, Any]) -> None:
        """Take an asset that was read to its end; the views of all others give no rows."""
        self._refs[row] = ref
        self._facts[row] = facts

    def drop_asset(self, row: int) -> None:
        """Forget an asset that turned out bad, with all views it already has."""
        self._refs.pop(row, None)
        self._facts.pop(row, None)

    def add_tokens(self, places: tuple[Place, ...], tokens: Tokens) -> None:
        """Take one array ``[len(places), ...]`` per stream."""
        self._places.extend(places)
        self._tokens.append(tokens)

    def batch(self) -> Counted:
        """Return all rows in the order (asset, view), as the layout's columns, and their counts."""
        order = self._order()
        places = [self._places[i] for i in order]
        tokens = {s.name: self._stream(s.name, order) for s in self.layout.spec.streams}
        rows = make_batch(self.layout, tokens, self._extras(places))
        return Counted(rows, self._count(tokens), entropy_sums(self.layout.spec, tokens))

    def _count(self, tokens: dict[str, Any]) -> TokenStatistics:
        statistics = TokenStatistics.of(self.layout.spec)
        for name, values in tokens.items():
            for array in [values] if isinstance(values, np.ndarray) else [v[None] for v in values]:
                statistics.add({name: array})
        return statistics

    def _order(self) -> npt.NDArray[np.int64]:
        kept = [i for i, place in enumerate(self._places) if place[0] in self._refs]
        return np.array(sorted(kept, key=self._places.__getitem__), dtype=np.int64)

    def _stream(self, name: str, order: npt.NDArray[np.int64]) -> Any:
        arrays = [tokens[name] for tokens in self._tokens]
        if self.layout.spec[name].is_fixed and arrays:
            return np.concatenate(arrays)[order]
        flat = [sample for array in arrays for sample in array]
        return [flat[i] for i in order]

    def _extras(self, places: list[Place]) -> dict[str, list[Any]]:
        columns: dict[str, list[Any]] = {"sample_id": [], "asset_key": []}
        columns |= {name: [] for name in self.layout.extras.names}
        for values in self._values(places):
            for name, column in columns.items():
                column.append(values.get(name))
        return columns

    def _values(self, places: list[Place]) -> Iterator[dict[str, Any]]:
        for row, view in places:
            ref = self._refs[row]
            own = {"sample_id": sample_id(ref, view), "asset_key": ref.key}
            yield {**ref.columns, **self._facts[row], **self._views[row, view], **own}
