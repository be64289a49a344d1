"""Packed windows: every sample once an epoch, in as many windows, and any of them by its number."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenmill.feed.rows.sizes import Sizes
from tokenmill.feed.sequence.dealing import Deal, sorted_by
from tokenmill.feed.sequence.order import SHUFFLES, Shuffle
from tokenmill.feed.sequence.packing import PackedLane, Packing, WindowPlan
from tokenmill_schemas.errors import JobError
from tokenmill_schemas.tokens import Axis, Stream

TEXT = Stream("text", "index", (Axis("n"),), (1000,))
GRID = Stream("grid", "index", (Axis("h"), Axis("w")), (1000,))


def sizes_of(lengths: list[int] | np.ndarray) -> Sizes:
    """Rows of these lengths."""
    table = np.asarray(lengths, np.int64)[:, None]
    return Sizes.of(TEXT, len(table), [table] if len(table) else [])


def plan_of(
    lengths: list[int] | np.ndarray, shuffle: Shuffle = "block", *, seed: int = 0, length: int = 64
) -> WindowPlan:
    """A plan of groups of about 500 rows."""
    packing = Packing("text", length)
    return WindowPlan(sizes_of(lengths), packing, seed=seed, shuffle=shuffle, group_rows=500)


def windows(plan: WindowPlan, epoch: int, places: np.ndarray | None = None) -> list[list[int]]:
    """The rows of some windows of an epoch, or of all."""
    drawn = plan.draw(epoch, np.arange(plan.windows) if places is None else places)
    assert drawn.counts is not None
    assert drawn.counts.sum() == len(drawn.rows)
    parts = np.split(drawn.rows, np.cumsum(drawn.counts)[:-1])
    return [part.tolist() for part in parts]


@given(
    st.lists(st.integers(1, 64), min_size=1, max_size=60),
    st.integers(1, 40),
    st.sampled_from(SHUFFLES),
    st.integers(0, 3),
)
@settings(max_examples=60, deadline=None)
def test_an_epoch_is_every_row_once_in_windows_that_hold_them(
    lengths: list[int], repeats: int, shuffle: Shuffle, epoch: int
) -> None:
    """Whatever the shuffle and the epoch: no row twice, none missing, no window too full."""
    every = np.tile(lengths, repeats)
    plan = plan_of(every, shuffle)
    found = windows(plan, epoch)
    assert len(found) == plan.windows
    assert sorted(row for window in found for row in window) == list(range(len(every)))
    assert all(0 < every[window].sum() <= 64 for window in found)
    assert plan.padding_share == pytest.approx(1 - every.sum() / (64 * plan.windows))
    assert plan.left_out == 0


@pytest.mark.parametrize("shuffle", SHUFFLES)
def test_any_window_is_a_function_of_its_number(shuffle: Shuffle) -> None:
    """Drawn one by one, in any order, or all at once: the same rows."""
    every = np.random.default_rng(0).integers(1, 65, 2700)
    sequential = windows(plan_of(every, shuffle), 2)
    places = np.random.default_rng(1).permutation(len(sequential))[:200]
    fresh = plan_of(every, shuffle)
    assert windows(fresh, 2, places) == [sequential[i] for i in places]
    assert [windows(fresh, 2, np.array([i]))[0] for i in places[:9]] == [
        sequential[i] for i in places[:9]
    ]


def test_epochs_have_other_windows_of_the_same_number() -> None:
    """Counts are those of the lengths; contents, their order and the order of groups are not."""
    every = np.random.default_rng(0).integers(1, 30, 2000)
    plan = plan_of(every)
    one, other = windows(plan, 0), windows(plan, 1)
    assert len(one) == len(other)
    assert len({tuple(sorted(w)) for w in one} & {tuple(sorted(w)) for w in other}) < 30
    groups = [[plan._deal.group_of(w[0]) for w in some] for some in (one, other)]
    assert groups[0] != groups[1]
    assert windows(plan_of(every, seed=1), 0) != one
    # Lengths are not sorted in a window, as best fit leaves them.
    falling = [list(every[w]) == sorted(every[w], reverse=True) for w in one]
    assert sum(falling) < len(one) / 2


def test_without_shuffle_epochs_are_one_and_the_same() -> None:
    """Fullest windows first, rows ascending in each, groups in manifest order."""
    every = np.random.default_rng(0).integers(1, 30, 2000)
    plan = plan_of(every, "none")
    found = windows(plan, 0)
    assert found == windows(plan, 5) == windows(plan_of(every, "none", seed=9), 0)
    assert all(window == sorted(window) for window in found)
    groups = [plan._deal.group_of(window[0]) for window in found]
    assert groups == sorted(groups)
    first = [int(every[w].sum()) for w, g in zip(found, groups, strict=True) if g == 0]
    assert first == sorted(first, reverse=True)


def test_full_shuffle_mixes_rows_from_everywhere() -> None:
    """Single rows are dealt: a window of "block" comes from few blocks, one of "full" from all."""
    every = np.full(20_000, 4)
    spread = {}
    for shuffle in ("block", "full"):
        some = windows(plan_of(every, shuffle), 0, np.arange(50))
        spread[shuffle] = len({row // 256 for window in some for row in window})
    assert spread["block"] <= 4
    assert spread["full"] > 70


@pytest.mark.parametrize("shuffle", SHUFFLES)
def test_numbers_of_a_row_are_those_of_the_windows_that_hold_it(shuffle: Shuffle) -> None:
    """The inverse of drawing, also where epochs show some windows twice, or not all."""
    every = np.random.default_rng(2).integers(1, 65, 1300)
    plan = plan_of(every, shuffle)
    for items in (plan.windows, plan.windows - 5, plan.windows + 7):
        lane = PackedLane(plan, items)
        for epoch in (0, 3):
            drawn = lane.draw(np.arange(epoch * items, (epoch + 1) * items))
            assert drawn.counts is not None
            owners = np.repeat(np.arange(items), drawn.counts) + epoch * items
            for row in range(0, 1300, 37):
                wanted = owners[drawn.rows == row].tolist()
                assert lane.numbers_of(row, epoch) == wanted
                assert wanted or items < plan.windows


def test_a_lane_draws_over_the_ends_of_epochs() -> None:
    """In the order of the numbers, whichever epochs those are of."""
    plan = plan_of(np.random.default_rng(2).integers(1, 65, 900))
    lane = PackedLane(plan, plan.windows + 3)
    numbers = np.array([2 * lane.items + 1, lane.items - 1, lane.items, 0, 2 * lane.items])
    drawn = lane.draw(numbers)
    assert drawn.counts is not None
    parts = np.split(drawn.rows, np.cumsum(drawn.counts)[:-1])
    for number, part in zip(numbers.tolist(), parts, strict=True):
        epoch, place = divmod(number, lane.items)
        assert [part.tolist()] == windows(plan, epoch, np.array([place % plan.windows]))
    empty = lane.draw(np.empty(0, np.int64))
    assert (len(empty.rows), empty.counts.tolist()) == (0, [])  # type: ignore[union-attr]


def test_places_outside_of_an_epoch_are_refused() -> None:
    """A mistake of the caller's."""
    plan = plan_of([3, 4])
    with pytest.raises(ValueError, match=r"places must be in \[0, 1\)"):
        plan.draw(0, np.array([1]))


def test_special_ids_take_room() -> None:
    """A begin and an end of every sample count."""
    packing = Packing("text", 10, bos=1, eos=2)
    plan = WindowPlan(sizes_of([3, 3, 8]), packing, shuffle="none")
    assert windows(plan, 0) == [[0, 1], [2]] or windows(plan, 0) == [[2], [0, 1]]
    assert plan.padding_share == 0.0


def test_samples_that_are_too_long_fail_are_cut_or_left_out() -> None:
    """As asked for; how many are left out is told. Samples without a token always are."""
    sizes = sizes_of([3, 11, 0, 70, 9])
    with pytest.raises(JobError, match=r"feed.packing: 2 of 5 samples .*has 70 and 1 special ids"):
        WindowPlan(sizes, Packing("text", 10, bos=1))
    cut = WindowPlan(sizes, Packing("text", 10, bos=1, long="truncate"))
    assert sorted(row for window in windows(cut, 0) for row in window) == [0, 1, 3, 4]
    assert (cut.left_out, cut.windows) == (1, 4)
    dropped = PackedLane.of(sizes, Packing("text", 10, bos=1, long="drop"))
    assert sorted(dropped.draw(np.arange(dropped.items)).rows.tolist()) == [0, 4]
    assert dropped.plan.left_out == 3
    assert dropped.numbers_of(1, 0) == []
    with pytest.raises(JobError, match="no sample of 'text' can be packed"):
        WindowPlan(sizes_of([70, 0]), Packing("text", 10, long="drop"))


def test_grids_are_as_long_as_their_positions() -> None:
    """A picture of 4 by 5 ids takes 20."""
    sizes = Sizes.of(GRID, 3, [np.array([[4, 5], [2, 10], [6, 4]])])
    plan = WindowPlan(sizes, Packing("grid", 40))
    assert sorted(len(window) for window in windows(plan, 0)) == [1, 2]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"length": 0}, "length is 0: it must hold a token and 0 special ids"),
        ({"length": 2, "bos": 0, "eos": 1}, "length is 2: it must hold a token and 2 special ids"),
        ({"pad": -1}, "pad is -1"),
        ({"eos": 2**32}, "eos is 4294967296"),
        ({"long": "trunkate"}, "long is 'trunkate'; did you mean 'truncate'"),
    ],
)
def test_settings_that_cannot_be_are_refused(change: dict[str, object], message: str) -> None:
    """With the job's words for where they are."""
    with pytest.raises(JobError, match=message) as caught:
        Packing(**{"stream": "text", "length": 8} | change)  # type: ignore[arg-type]
    assert caught.value.path == "feed.packing"


def test_only_ids_are_packed() -> None:
    """Latents have no special ids and no padding."""
    stream = Stream("latent", "float", (Axis("n"),), channels=3, dtype="float16")
    with pytest.raises(JobError, match="'latent' has values of kind float"):
        WindowPlan(Sizes.of(stream, 1, [np.array([[3]])]), Packing("latent", 8))


def test_a_plan_survives_pickling() -> None:
    """Workers of a loader get one."""
    plan = plan_of(np.random.default_rng(2).integers(1, 65, 900))
    wanted = windows(plan, 1)
    assert windows(pickle.loads(pickle.dumps(plan)), 1) == wanted


@given(st.integers(1, 5000), st.sampled_from(SHUFFLES), st.integers(1, 2000))
@settings(max_examples=50, deadline=None)
def test_every_row_is_dealt_to_one_group(rows: int, shuffle: Shuffle, group_rows: int) -> None:
    """Groups share the rows out, and a row tells its group."""
    deal = Deal.of(rows, 7, shuffle, group_rows=group_rows)
    groups = [deal.rows_of(group) for group in range(deal.groups)]
    assert sorted(np.concatenate(groups).tolist()) == list(range(rows))
    for number, group in enumerate(groups):
        assert group.tolist() == sorted(group.tolist())
        assert [deal.group_of(row) for row in group[:3].tolist()] == [number] * len(group[:3])


@given(st.lists(st.tuples(st.integers(0, 2**20), st.integers(0, 3)), max_size=50))
def test_keys_are_sorted_and_equal_ones_by_their_ties(pairs: list[tuple[int, int]]) -> None:
    """As Python sorts the pairs; without ties, as a stable sort does."""
    keys = np.array([key for key, _ in pairs], np.int64)
    ties = np.array([tie for _, tie in pairs], np.uint64) << np.uint64(60)
    places = range(len(pairs))
    assert sorted_by(keys, ties).tolist() == sorted(places, key=lambda i: (*pairs[i], i))
    assert sorted_by(keys, None).tolist() == sorted(places, key=lambda i: pairs[i][0])
