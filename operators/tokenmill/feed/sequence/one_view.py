"""One of an asset's stored views an epoch, another one each time.

Corpora are tokenized with several crops and flips of a picture, and a generator is shown one of
them at random each epoch (ten crops in LlamaGen, arXiv 2406.06525, and RAR, arXiv 2411.00776): an
epoch is as long as the corpus has assets, and an asset's views are not so many near-duplicates in
it. An asset's views are neighbours in its shard, so its first one and the next asset's say where
they lie.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from tokenmill.feed.rows.bits import Bits, Selection
from tokenmill.feed.rows.opening import Opened
from tokenmill.feed.rows.plan import Plan
from tokenmill.feed.sequence.draw import words_at
from tokenmill.feed.sequence.lanes import Drawn, Items, RowLane, Rows
from tokenmill.feed.sequence.permutation import derive_key
from tokenmill.shards.select import read_columns
from tokenmill.store import Store

THREADS = 8


@dataclass(frozen=True, slots=True)
class Assets:
    """The assets of a plan: where the rows of each begin."""

    plan: Plan
    firsts: Selection

    @property
    def count(self) -> int:
        """Number of assets of which anything is shown."""
        return self.firsts.rows

    def starts(self, assets: Items) -> Rows:
        """Return the first row of each asset; that of the asset behind the last is the end."""
        inside = np.minimum(assets, self.count - 1)
        rows = self.plan.logical(*self.firsts.locate(inside))
        return np.where(assets < self.count, rows, self.plan.rows)

    def of(self, row: int) -> int:
        """Return the asset that a row belongs to."""
        low, high = 0, self.count
        while high - low > 1:
            middle = (low + high) // 2
            before = self.starts(np.array([middle]))[0] <= row
            low, high = (middle, high) if before else (low, middle)
        return low


@dataclass(frozen=True, slots=True)
class OneViewLane:
    """Assets in the order of a lane over them, each as one of its rows."""

    lane: RowLane
    assets: Assets
    seed: int

    @property
    def items(self) -> int:
        """Items of one epoch."""
        return self.lane.items

    def draw(self, numbers: Items) -> Drawn:
        """Return the rows of the items of those numbers, which count over all epochs."""
        assets = self.lane.draw(numbers).rows
        starts, ends = self.assets.starts(assets), self.assets.starts(assets + 1)
        chosen = np.empty(numbers.shape, np.int64)
        epochs = numbers // self.items
        for epoch in np.unique(epochs).tolist():
            here = epochs == epoch
            chosen[here] = self._views(epoch, assets[here], (ends - starts)[here])
        return Drawn(starts + chosen)

    def numbers_of(self, row: int, epoch: int) -> list[int]:
        """Return the numbers of an epoch's items that hold a row; none if another view is shown."""
        asset = self.assets.of(row)
        numbers = self.lane.numbers_of(asset, epoch)
        return [n for n in numbers if self.draw(np.array([n])).rows[0] == row]

    def _views(self, epoch: int, assets: Items, counts: Rows) -> Rows:
        """Return which view of each asset an epoch shows: a function of both and the seed."""
        words = words_at(derive_key("view", self.seed, epoch), assets)
        drawn = (words >> np.uint64(11)) * 2.0**-53
        return np.minimum((drawn * counts).astype(np.int64), counts - 1)


def open_assets(store: Store, opened: Opened) -> Assets:
    """Return where the shown rows of each asset begin; reads the keys of all assets.

    Raises:
        CorruptShardError: a shard is missing or damaged.
    """
    plan = opened.plan
    bits = Bits.shown(np.where(plan.shown_rows() > 0, plan.samples, 0))

    def one(shard: int) -> None:
        bits.keep(shard, _firsts(store, opened, shard))

    with ThreadPoolExecutor(THREADS, thread_name_prefix="assets") as pool:
        for _ in pool.map(one, bits.shards_shown().tolist()):
            pass
    return Assets(plan, Selection.of(bits))


def _firsts(store: Store, opened: Opened, shard: int) -> npt.NDArray[np.bool_]:
    """Return which rows of a shard are the first that is shown of their asset."""
    rows = int(opened.plan.samples[shard])
    shown = opened.plan.logical(np.full(rows, shard), np.arange(rows)) >= 0
    path = opened.manifest.path(shard)
    keys = read_columns(store.storage, path, ["asset_key"]).column(0).combine_chunks()
    keys = keys.filter(pa.array(shown))
    changes = pc.not_equal(keys[1:], keys[:-1]).to_numpy(zero_copy_only=False)
    firsts = np.zeros(rows, bool)
    firsts[shown] = np.concatenate([[True], changes])
    return firsts
