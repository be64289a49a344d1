"""Shape buckets: every item is a batch of rows that all have one shape.

Rows of one shape are a bucket, each with an order of its own (`sequence.order`), of which an
epoch's batches are cut; buckets are mixed at the granularity of batches by the exact recurrence of
`feed.sequence.blend`, in proportion to their batches. So every rank gets one shape per step, no
batch waits for stragglers of its bucket, and any item is a function of its number. (The buckets
themselves are NovelAI's aspect ratio bucketing, 2022; loaders that fill them while they read lose
what they hold when they stop.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tokenmill.feed.rows.sizes import Sizes
from tokenmill.feed.sequence.blend import Blend
from tokenmill.feed.sequence.lanes import Drawn, Items, Rows
from tokenmill.feed.sequence.order import Order, Shuffle
from tokenmill.feed.sequence.permutation import derive_key
from tokenmill_schemas.errors import JobError

#: Distinct shapes at the most.
MAX_SHAPES = 4096
#: Entries of the table that finds a bucket's rows: 4 bytes each.
TABLE_ENTRIES = 2**24
#: Rows of the blocks that this table counts: never fewer, more where it would not fit.
BLOCK_ROWS = 64
#: Codes that are compared at once.
SCAN_ROWS = 2**22
#: Sequences that one recurrence mixes; more are mixed by two, one inside the other.
BLEND_WIDTH = 64


class Selection:
    """Which logical row is the r-th of a bucket, and the inverse.

    Per bucket, the rows of it before each block of rows are counted; the rest is a look into the
    block. That is ``rows / block_rows * shapes`` entries, at most about `TABLE_ENTRIES`.
    """

    def __init__(self, sizes: Sizes) -> None:
        self._codes = codes = sizes.codes(slice(None))
        shapes, size = len(sizes.shapes), BLOCK_ROWS
        while size < len(codes) and -(-len(codes) // size) * shapes > TABLE_ENTRIES:
            size *= 2
        self._size = size
        blocks = -(-len(codes) // size)
        before = np.zeros((shapes, blocks + 1), np.uint32 if len(codes) < 2**32 else np.uint64)
        step = max(1, SCAN_ROWS // max(size, shapes))
        for start in range(0, blocks, step):
            some = codes[start * size : (start + step) * size]
            keys = np.arange(len(some)) // size * shapes + some
            count = -(-len(some) // size)
            counted = np.bincount(keys, minlength=count * shapes).reshape(count, shapes)
            before[:, start + 1 : start + 1 + count] = counted.T
        self._before = np.cumsum(before, axis=1, out=before)

    def rows(self, bucket: int, ranks: Items) -> Rows:
        """Return the rows that are the ``ranks``-th of a bucket: int64[ranks]."""
        before = self._before[bucket]
        # Of one type, for else numpy converts all of the table.
        blocks = np.searchsorted(before, ranks.astype(before.dtype), side="right") - 1
        distinct, places = np.unique(blocks, return_inverse=True)
        counts = (before[distinct + 1] - before[distinct]).astype(np.int64)
        starts = np.cumsum(counts) - counts
        places = starts[places] + ranks - before[blocks].astype(np.int64)
        found: Rows = self._members(bucket, distinct)[places]
        return found

    def rank(self, bucket: int, row: int) -> int:
        """Return which of a bucket's rows a row of it is."""
        block = row // self._size
        head = self._codes[block * self._size : row]
        return int(self._before[bucket, block]) + int(np.count_nonzero(head == bucket))

    def _members(self, bucket: int, blocks: Rows) -> Rows:
        """Return all rows of a bucket in some blocks, which are ascending."""
        whole = len(self._codes) // self._size
        table = self._codes[: whole * self._size].reshape(whole, self._size)
        step, found = max(1, SCAN_ROWS // self._size), []
        inside = blocks[: len(blocks) - bool(blocks[-1] == whole)]
        for i in range(0, len(inside), step):
            some = inside[i : i + step]
            hits = np.flatnonzero(table[some] == bucket)
            places = hits // self._size
            found.append((some - np.arange(len(some)))[places] * self._size + hits)
        if len(inside) < len(blocks):
            rest = self._codes[whole * self._size :]
            found.append(np.flatnonzero(rest == bucket) + whole * self._size)
        return np.concatenate(found)


@dataclass(frozen=True, slots=True)
class Mixing:
    """`Blend` of any number of weights: in two levels where they are many."""

    outer: Blend
    inner: tuple[Blend, ...]
    width: int

    @classmethod
    def of(cls, weights: Sequence[int]) -> Mixing:
        """Return the mixing of sequences with these weights, of which none is negative."""
        width = BLEND_WIDTH
        parts = [tuple(weights[i : i + width]) for i in range(0, len(weights), width)]
        outer = Blend(((0, tuple(map(sum, parts))),))
        return cls(outer, tuple(Blend(((0, part),)) for part in parts), width)

    def at(self, items: Items) -> tuple[Items, Items]:
        """Return for each item its sequence and its number in that sequence."""
        if len(self.inner) == 1:
            return self.inner[0].at(items)
        groups, numbers = self.outer.at(items)
        lanes, found = np.empty_like(items), np.empty_like(items)
        for group in np.unique(groups).tolist():
            where = groups == group
            lane, number = self.inner[group].at(numbers[where])
            lanes[where], found[where] = lane + group * self.width, number
        return lanes, found

    def counts(self, item: int) -> list[int]:
        """Return how many of the items before ``item`` each sequence has."""
        each = self.outer.counts(item)
        return [n for blend, m in zip(self.inner, each, strict=True) for n in blend.counts(m)]

    def item_of(self, lane: int, number: int) -> int:
        """Return the item that is the ``number``-th of a sequence whose weight is positive."""
        group, lane = divmod(lane, self.width)
        inner = self.inner[group].item_of(lane, number)
        item = None if inner is None else self.outer.item_of(group, inner)
        if item is None:
            raise ValueError(f"sequence {lane} has no item {number}")
        return item


class BucketLane:
    """Batches of one shape each, as the items of a store; see `tokenmill.feed.sequence.lanes`.

    An epoch has of every bucket the batches that its rows fill. With ``drop_last`` the rows behind
    the last whole batch, in the bucket's order of that epoch, are not shown in it; without, they
    are completed with the bucket's first ones of the epoch.
    """

    def __init__(
        self,
        sizes: Sizes,
        batch_size: int,
        *,
        seed: int = 0,
        shuffle: Shuffle = "block",
        drop_last: bool = True,
    ) -> None:
        """Plan the batches of all epochs; looks at every row's shape once.

        Args:
            sizes: The shape of every row.
            batch_size: Rows of an item.
            seed: What all orders are drawn from.
            shuffle: Order of the rows inside a bucket. With "none" they come in manifest order,
                and buckets are mixed in the same way in every epoch.
            drop_last: Whether an epoch leaves out what fills no batch.

        Raises:
            JobError: there are too many shapes, or no bucket fills a batch.
        """
        if len(sizes.shapes) > MAX_SHAPES:
            raise JobError(
                f"{sizes.stream.name!r} has {len(sizes.shapes)} distinct shapes, more than "
                f"{MAX_SHAPES}: too many for batches of one shape; pack them instead",
                path="feed.buckets",
            )
        self._sizes, self._batch, self._seed = sizes, batch_size, seed
        self._shuffle: Shuffle = shuffle
        rounded = sizes.counts if drop_last else sizes.counts + batch_size - 1
        self._batches = rounded // batch_size
        if not self._batches.any():
            raise JobError(
                f"is {batch_size}, but no shape of {sizes.stream.name!r} has so many samples: take "
                "a smaller batch or drop_last=False",
                path="feed.batch_size",
            )
        self._left_out = int(sizes.counts[self._batches == 0].sum())
        self._mixing = Mixing.of(self._batches.tolist())
        self._selection = Selection(sizes) if sizes.array is not None else None
        self._turn: tuple[int, int, Rows] = -1, 0, np.empty(0, np.int64)

    @property
    def items(self) -> int:
        """Batches of one epoch."""
        return int(self._batches.sum())

    @property
    def batches(self) -> Rows:
        """Batches of one epoch of each shape: int64[shapes], as `Sizes.shapes` has them."""
        return self._batches

    @property
    def left_out(self) -> int:
        """Rows that no epoch shows: those of shapes too rare to fill one batch."""
        return self._left_out

    def draw(self, numbers: Items) -> Drawn:
        """Return the rows of the batches of those numbers, which count over all epochs."""
        out = np.empty((len(numbers), self._batch), np.int64)
        epochs = numbers // self.items
        for epoch in np.unique(epochs).tolist():
            mine = np.flatnonzero(epochs == epoch)
            buckets, places = self._at(epoch, numbers[mine] - epoch * self.items)
            for bucket in np.unique(buckets).tolist():
                where = buckets == bucket
                out[mine[where]] = self._rows(epoch, bucket, places[where])
        return Drawn(out.ravel(), np.full(len(numbers), self._batch))

    def shape_of(self, number: int) -> tuple[int, ...]:
        """Return the shape that every sample of a batch has."""
        epoch, place = divmod(number, self.items)
        return self._sizes.shapes[int(self._at(epoch, np.array([place]))[0][0])]

    def numbers_of(self, row: int, epoch: int) -> list[int]:
        """Return the numbers of an epoch's batches that hold a row; mostly one, maybe none."""
        bucket = int(self._sizes.codes(np.array([row]))[0])
        batches, count = int(self._batches[bucket]), int(self._sizes.counts[bucket])
        rank = row if self._selection is None else self._selection.rank(bucket, row)
        position = int(self._order(bucket).positions_of(epoch, np.array([rank]))[0])
        places = {p // self._batch for p in range(position, batches * self._batch, count)}
        shift, before = self._turned(epoch)
        found = []
        for place in places:
            item = self._mixing.item_of(bucket, (place + int(before[bucket])) % batches)
            found.append(epoch * self.items + (item - shift) % self.items)
        return sorted(found)

    def _at(self, epoch: int, places: Items) -> tuple[Items, Items]:
        """Return the bucket of an epoch's batches, and which of its batches they are."""
        shift, before = self._turned(epoch)
        buckets, numbers = self._mixing.at((places + shift) % self.items)
        return buckets, (numbers - before[buckets]) % self._batches[buckets]

    def _turned(self, epoch: int) -> tuple[int, Rows]:
        """Return where in the recurrence's cycle an epoch begins, and the batches before that.

        Every epoch is one cycle, begun at another place, so that batches of the same shapes do not
        always come at the same steps; a bucket's own batches keep their order.
        """
        held = self._turn
        if held[0] == epoch:
            return held[1], held[2]
        turns = self._shuffle != "none"
        shift = derive_key("buckets", self._seed, epoch) % self.items if turns else 0
        before = np.array(self._mixing.counts(shift), np.int64)
        self._turn = epoch, shift, before
        return shift, before

    def _rows(self, epoch: int, bucket: int, places: Items) -> Rows:
        """Return the rows of some batches of a bucket: int64[places, batch_size]."""
        positions = (places[:, None] * self._batch + np.arange(self._batch)).ravel()
        # Only without drop_last, where the last batch begins anew at the bucket's first rows.
        positions %= self._sizes.counts[bucket]
        ranks = self._order(bucket).at(epoch, positions)
        rows = ranks if self._selection is None else self._selection.rows(bucket, ranks)
        return rows.reshape(len(places), self._batch)

    def _order(self, bucket: int) -> Order:
        key = derive_key("bucket", self._seed, *self._sizes.shapes[bucket])
        return Order(int(self._sizes.counts[bucket]), key, self._shuffle)
