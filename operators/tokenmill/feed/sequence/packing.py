"""Packing: variable-length samples put into windows of one fixed length, as the items of a lane.

Rows are dealt to groups in blocks, once for all epochs. A group's rows fill windows of their own by
best fit decreasing (`feed.sequence.best_fit`), as many in every epoch, for that depends on their
lengths only. An epoch has its own order of groups and of the windows in a group, and its own choice
of which sample takes which of the places that fit it. So any window is a function of its number,
for the cost of packing its group, of which the last few are kept; a buffer of samples that wait for
their window, which other packers lose when they stop, does not exist.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from tokenmill.feed.rows.sizes import Sizes
from tokenmill.feed.sequence.best_fit import Windows, count_windows, pack, ragged
from tokenmill.feed.sequence.dealing import GROUP_ROWS, Deal, sorted_by
from tokenmill.feed.sequence.draw import Draw, Words
from tokenmill.feed.sequence.lanes import Drawn, Items, Rows
from tokenmill.feed.sequence.order import Shuffle
from tokenmill.feed.sequence.permutation import derive_key, permute
from tokenmill_schemas.errors import JobError
from tokenmill_schemas.strict import nearest

Long = Literal["error", "truncate", "drop"]
LONGS: tuple[str, ...] = get_args(Long)
#: Ids are at most of 32 bits.
MAX_ID = 2**32 - 1
#: Groups whose windows are kept.
KEPT_GROUPS = 4


@dataclass(frozen=True, slots=True)
class Packing:
    """How samples of one stream become windows of ``length`` ids.

    Args:
        stream: The stream whose ids are packed, flattened in C order.
        length: Ids of a window.
        bos: Id before every sample, if any.
        eos: Id behind every sample, if any.
        pad: Id of what is left of a window; ``segment_ids`` tell it from a token of the same id.
        long: What becomes of a sample that does not fit a window: an error when the feed is made;
            "truncate" cuts its end off, ``eos`` with it; "drop" leaves it out.

    Raises:
        JobError: a value is out of its range.
    """

    stream: str
    length: int
    bos: int | None = None
    eos: int | None = None
    pad: int = 0
    long: Long = "error"

    def __post_init__(self) -> None:
        if self.length < 1 + self.specials:
            raise JobError(
                f"length is {self.length}: it must hold a token and {self.specials} special ids",
                path="feed.packing",
            )
        for name in ("bos", "eos", "pad"):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= MAX_ID:
                raise JobError(f"{name} is {value}, must be in [0, 2**32)", path="feed.packing")
        if self.long not in LONGS:
            hint = nearest(str(self.long), list(LONGS))
            raise JobError(f"long is {self.long!r}; {hint}", path="feed.packing")

    @property
    def specials(self) -> int:
        """Special ids that every sample gets."""
        return (self.bos is not None) + (self.eos is not None)

    def room_of(self, lengths: Rows) -> Rows:
        """Return the ids that samples of so many take in a window: int64, 0 if left out.

        Left out are samples without a token, and with ``long`` "drop" those that do not fit.
        """
        room = np.where(lengths > 0, lengths + self.specials, 0)
        if self.long == "drop":
            return np.where(room > self.length, 0, room)
        return np.minimum(room, self.length)


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
    """Windows of packed rows, as the items of a store; see `tokenmill.feed.sequence.lanes`.

    ``items`` may be less than the plan's windows, for an epoch of whole batches, whose last windows
    are then not shown; or more, to complete the last batch with the epoch's first windows.
    """

    plan: WindowPlan
    items: int

    @classmethod
    def of(
        cls, sizes: Sizes, packing: Packing, *, seed: int = 0, shuffle: Shuffle = "block"
    ) -> PackedLane:
        """Return the lane whose epochs are all windows; see `WindowPlan`."""
        plan = WindowPlan(sizes, packing, seed=seed, shuffle=shuffle)
        return cls(plan, plan.windows)

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


def _check(sizes: Sizes, packing: Packing) -> None:
    stream = sizes.stream
    if stream.kind != "index":
        raise JobError(
            f"{stream.name!r} has values of kind {stream.kind}: only ids are packed",
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
