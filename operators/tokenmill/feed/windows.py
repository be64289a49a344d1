"""Packed windows as a lane: every item is one window, the rows that it holds in their order.

Rows are dealt to groups in blocks, once for all epochs; a group's rows fill windows of their own
(`tokenmill.feed.packing`), as many in every epoch. An epoch has its own order of groups and of the
windows in a group, and its own choice of which sample takes which of the places that fit it. So
any window is a function of its number, for the cost of packing its group, of which the last few
are kept.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tokenmill.feed.draw import Draw, Words
from tokenmill.feed.lanes import Drawn, Items, Rows
from tokenmill.feed.order import BLOCK_ROWS, WINDOW_BLOCKS, Shuffle
from tokenmill.feed.packing import Packing, Windows, count_windows, pack, ragged
from tokenmill.feed.permutation import derive_key, permute, unpermute
from tokenmill.feed.sizes import Sizes
from tokenmill_schemas.errors import JobError

#: Rows of a group, about: they are packed with and exchanged for each other only.
GROUP_ROWS = BLOCK_ROWS * WINDOW_BLOCKS
#: Groups whose windows are kept.
KEPT_GROUPS = 4


@dataclass(frozen=True, slots=True)
class Deal:
    """Which rows are in which group.

    Blocks of rows are dealt by a permutation under ``key`` (None: in their order).
    """

    rows: int
    block_rows: int
    group_rows: int
    key: int | None

    @classmethod
    def of(cls, rows: int, seed: int, shuffle: Shuffle, *, group_rows: int = GROUP_ROWS) -> Deal:
        """Return the deal of a shuffle: "block" deals blocks of 256 rows, "full" single rows."""
        key = None if shuffle == "none" else derive_key("groups", seed)
        return cls(rows, 1 if shuffle == "full" else BLOCK_ROWS, group_rows, key)

    @property
    def blocks(self) -> int:
        """Blocks of rows; the last one may be short."""
        return -(-self.rows // self.block_rows)

    @property
    def groups(self) -> int:
        """Number of groups, which are of even size."""
        return max(1, round(self.blocks * self.block_rows / self.group_rows))

    def rows_of(self, group: int) -> Rows:
        """Return the rows of a group, ascending."""
        first, stop = (g * self.blocks // self.groups for g in (group, group + 1))
        blocks = np.arange(first, stop)
        if self.key is not None:
            blocks = np.sort(permute(blocks, self.blocks, self.key))
        rows = (blocks[:, None] * self.block_rows + np.arange(self.block_rows)).ravel()
        return rows[rows < self.rows]

    def group_of(self, row: int) -> int:
        """Return the group of a row."""
        block = row // self.block_rows
        if self.key is not None:
            block = int(unpermute(np.array([block]), self.blocks, self.key)[0])
        return ((block + 1) * self.groups - 1) // self.blocks


@dataclass(frozen=True, slots=True)
class _Filled:
    """The windows of one group in one epoch, in the order in which they are shown.

    ``starts`` (int64[windows + 1]) is the first of each one's rows in ``rows``.
    """

    rows: Rows
    starts: Rows


class WindowPlan:
    """The windows of all epochs of a store; threads may share it.

    ``shuffle`` "block" deals blocks of 256 rows to groups of about 131,072 rows, "full" deals
    single rows. With "none" groups are neighbouring rows, windows come fullest first, samples of
    one length take their places in manifest order, and every epoch is the same.
    """

    def __init__(
        self,
        sizes: Sizes,
        packing: Packing,
        *,
        seed: int = 0,
        shuffle: Shuffle = "block",
        group_rows: int = GROUP_ROWS,
    ) -> None:
        """Count the windows; looks at every row's length once.

        Args:
            sizes: The shape of every row, of the stream that is packed.
            packing: How rows become windows.
            seed: What all orders are drawn from.
            shuffle: How rows are dealt to groups, and whether epochs differ.
            group_rows: Rows of a group, about.

        Raises:
            JobError: the stream has no ids, a sample is too long, or there is none to pack.
        """
        _check(sizes, packing)
        self._sizes, self._seed, self._shuffle = sizes, seed, shuffle
        self._length = packing.length
        self._deal = Deal.of(sizes.rows, seed, shuffle, group_rows=group_rows)
        rooms = packing.room_of(sizes.positions)
        self._lengths = np.unique(rooms[rooms > 0])
        # The number of each shape's length; the one behind the last for those that are left out.
        self._numbers = np.searchsorted(self._lengths, rooms)
        self._numbers[rooms == 0] = len(self._lengths)
        self._left_out = int(sizes.counts[rooms == 0].sum())
        self._ids = int((rooms * sizes.counts).sum())
        self._counts = np.array([self._count(g) for g in range(self._deal.groups)], np.int64)
        self._turn: tuple[int, Rows, Rows] = -1, self._counts, self._counts
        self._kept: tuple[tuple[tuple[int, int], _Filled], ...] = ()

    @property
    def windows(self) -> int:
        """Windows of an epoch, which hold all rows once."""
        return int(self._counts.sum())

    @property
    def left_out(self) -> int:
        """Rows that no epoch shows: without a token, or dropped because they are too long."""
        return self._left_out

    @property
    def padding_share(self) -> float:
        """Share of an epoch's positions that hold no id."""
        return 1.0 - self._ids / (self.windows * self._length)

    def draw(self, epoch: int, places: Items) -> Drawn:
        """Return the rows of the windows at some places of an epoch.

        Raises:
            ValueError: a place is not in ``[0, windows)``.
        """
        if places.size and not 0 <= places.min() <= places.max() < self.windows:
            raise ValueError(f"places must be in [0, {self.windows})")
        groups, ends = self._groups(epoch)
        turns = np.searchsorted(ends, places, side="right")
        firsts = (ends - self._counts[groups])[turns]
        counts = np.empty(len(places), np.int64)
        found = []
        for turn in np.unique(turns).tolist():
            mine = np.flatnonzero(turns == turn)
            filled = self._fill(epoch, int(groups[turn]))
            starts = filled.starts[places[mine] - firsts[mine]]
            counts[mine] = filled.starts[places[mine] - firsts[mine] + 1] - starts
            found.append((mine, filled.rows[ragged(starts, counts[mine])]))
        rows = np.empty(int(counts.sum()), np.int64)
        begins = np.cumsum(counts) - counts
        for mine, some in found:
            rows[ragged(begins[mine], counts[mine])] = some
        return Drawn(rows, counts)

    def place_of(self, row: int, epoch: int) -> int | None:
        """Return the place in an epoch of the window that holds a row; None if it is left out."""
        group = self._deal.group_of(row)
        filled = self._fill(epoch, group)
        at = np.flatnonzero(filled.rows == row)
        if not len(at):
            return None
        groups, ends = self._groups(epoch)
        first = int(ends[groups == group][0] - self._counts[group])
        return first + int(np.searchsorted(filled.starts, at[0], side="right")) - 1

    def _groups(self, epoch: int) -> tuple[Rows, Rows]:
        """Return the order of an epoch's groups, and the windows up to each one's end."""
        held = self._turn
        if held[0] == epoch:
            return held[1], held[2]
        groups = np.arange(len(self._counts))
        if self._shuffle != "none":
            key = derive_key("group order", self._seed, epoch)
            groups = permute(groups, len(groups), key)
        ends = np.cumsum(self._counts[groups])
        self._turn = epoch, groups, ends
        return groups, ends

    def _histogram(self, group: int) -> tuple[Rows, Rows, Rows]:
        """Return a group's rows, the number of each one's length, and how many have each."""
        rows = self._deal.rows_of(group)
        numbers = self._numbers[self._sizes.codes(rows)]
        return rows, numbers, np.bincount(numbers, minlength=len(self._lengths) + 1)[:-1]

    def _count(self, group: int) -> int:
        _, _, counts = self._histogram(group)
        there = np.flatnonzero(counts)
        return count_windows(self._lengths[there], counts[there], self._length)

    def _fill(self, epoch: int, group: int) -> _Filled:
        """Return the windows of a group in an epoch; those of the last few are kept."""
        key = (epoch if self._shuffle != "none" else 0), group
        for held, filled in self._kept:
            if held == key:
                return filled
        made = self._filled(*key)
        self._kept = ((key, made), *self._kept[: KEPT_GROUPS - 1])
        return made

    def _filled(self, epoch: int, group: int) -> _Filled:
        rows, numbers, counts = self._histogram(group)
        there = np.flatnonzero(counts)
        windows = pack(self._lengths[there], counts[there], self._length)
        windows = Windows(windows.starts, there[windows.places])
        kept = numbers < len(self._lengths)
        mix = None
        if self._shuffle != "none":
            mix = _Mix.of(derive_key("packing", self._seed, epoch), group, windows)
        return _fill(windows, rows[kept], numbers[kept], mix)


@dataclass(frozen=True, slots=True, eq=False)
class PackedLane:
    """Windows of packed rows, as the items of a store; see `tokenmill.feed.lanes`.

    ``items`` may be less than the plan's windows, for an epoch of whole batches, whose last windows
    are then not shown; or more, to complete the last batch with the epoch's first windows.
    """

    plan: WindowPlan
    items: int

    def draw(self, numbers: Items) -> Drawn:
        """Return the rows of the windows of those numbers, which count over all epochs."""
        epochs = numbers // self.items
        places = (numbers - epochs * self.items) % self.plan.windows
        parts = [self.plan.draw(e, places[epochs == e]) for e in np.unique(epochs).tolist()]
        if len(parts) == 1:
            return parts[0]
        if not parts:
            return Drawn(np.empty(0, np.int64), np.empty(0, np.int64))
        # Epochs may come in any order: back to that of the numbers.
        order = np.argsort(np.argsort(epochs, kind="stable"), kind="stable")
        counts = np.concatenate([part.counts for part in parts if part.counts is not None])
        rows, starts = np.concatenate([part.rows for part in parts]), np.cumsum(counts) - counts
        return Drawn(rows[ragged(starts[order], counts[order])], counts[order])

    def numbers_of(self, row: int, epoch: int) -> list[int]:
        """Return the numbers of an epoch's windows that hold a row; mostly one, maybe none."""
        place = self.plan.place_of(row, epoch)
        if place is None:
            return []
        return [epoch * self.items + p for p in range(place, self.items, self.plan.windows)]


@dataclass(frozen=True, slots=True)
class _Mix:
    """How one epoch shuffles a group.

    ``order`` has the windows as they are shown; ``samples`` and ``places`` are random words, by
    which samples of one length and the rows of one window are put in order.
    """

    order: Rows
    samples: Words
    places: Words

    @classmethod
    def of(cls, seed: int, group: int, windows: Windows) -> _Mix:
        order = permute(np.arange(len(windows)), len(windows), derive_key("order", seed, group))
        draw = Draw(seed, group, 0, len(windows.places))
        return cls(order, draw.words("samples")[:, 0], draw.words("places")[:, 0])


def _fill(windows: Windows, rows: Rows, numbers: Rows, mix: _Mix | None) -> _Filled:
    """Put rows into the places of their lengths; ``numbers`` has the length of each row."""
    taken = np.empty_like(rows)
    samples = sorted_by(numbers, None if mix is None else mix.samples)
    taken[sorted_by(windows.places, None)] = rows[samples]
    sizes = np.diff(windows.starts)
    owners = np.repeat(np.arange(len(windows)), sizes)
    if mix is None:
        return _Filled(taken[np.lexsort((taken, owners))], windows.starts)
    turns = np.empty_like(mix.order)
    turns[mix.order] = np.arange(len(windows))
    starts = np.concatenate([[0], np.cumsum(sizes[mix.order])])
    return _Filled(taken[sorted_by(turns[owners], mix.places)], starts)


def sorted_by(keys: Rows, ties: Words | None) -> Rows:
    """Return the order that sorts ``keys`` (not negative), equal ones by ``ties`` or their place.

    Of the ties as many of the highest bits count as a word of 64 bits has left. Numbers are sorted
    as one word, which is several times as fast as sorting indices.
    """
    if not len(keys):
        return keys
    low, high = len(keys).bit_length(), max(1, int(keys.max()).bit_length())
    words = keys.astype(np.uint64) << np.uint64(64 - high)
    words |= np.arange(len(keys), dtype=np.uint64)
    if ties is not None:
        words |= (ties >> np.uint64(high + low)) << np.uint64(low)
    words.sort()
    return (words & np.uint64((1 << low) - 1)).astype(np.int64)


def _check(sizes: Sizes, packing: Packing) -> None:
    stream = sizes.stream
    if stream.kind != "index":
        raise JobError(
            f"stream {stream.name!r} has {stream.kind}, and only ids are packed",
            path="feed.packing",
        )
    lengths = sizes.positions
    long = lengths + packing.specials > packing.length
    if packing.long == "error" and long.any():
        raise JobError(
            f"{int(sizes.counts[long].sum())} of {sizes.rows} samples of {stream.name!r} are too "
            f"long for {packing.length} ids: the longest has {int(lengths.max())} and "
            f"{packing.specials} special ids; take longer windows, or long='truncate' or 'drop'",
            path="feed.packing",
        )
    if not (sizes.counts[packing.room_of(lengths) > 0]).any():
        raise JobError(f"no sample of {stream.name!r} can be packed", path="feed.packing")
