"""Going on from a state on another version: the rest of the epoch and the new, nothing twice."""

import functools
import json
import operator
from collections import Counter
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenmill.feed import Feed, Mixture, Packing, Part
from tokenmill.store import Store
from tokenmill.store.takedown import takedown
from tokenmill.testing.stores import add_assets
from tokenmill_schemas.errors import JobError, StoreError

ALL: dict[str, Any] = {"batch_size": 4, "seed": 3, "threads": 0}


def assets(first: int, count: int, version: str = "1") -> dict[str, str]:
    """Assets a<first>, a<first + 1>, ..."""
    return {f"a{i:03d}": version for i in range(first, first + count)}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Forty assets."""
    made = Store.of(str(tmp_path / "store"))
    add_assets(made, assets(0, 40))
    return made


def shown(feed: Feed, steps: int) -> list[str]:
    """The assets of the next steps."""
    return [str(name)[:4] for batch in islice(feed, steps) for name in batch["sample_id"]]


def left(feed: Feed) -> list[str]:
    """The assets of what is left of the epoch."""
    found: list[str] = []
    epoch = feed.epoch
    while feed.epoch == epoch:
        found += shown(feed, 1)
    return found


def carried(state: dict[str, Any]) -> dict[str, Any]:
    """The state as JSON gives it back."""
    text = json.dumps(state)
    assert len(text) < 300
    found: dict[str, Any] = json.loads(text)
    return found


@pytest.mark.parametrize("step", [0, 1, 5, 9, 10, 13])
def test_an_epoch_is_finished_with_the_rest_and_the_new(store: Store, step: int) -> None:
    """In the epoch that was begun every sample comes once; the next ones are the new version's."""
    old = Feed(store, **ALL)
    before = shown(old, step)[step // 10 * 40 :]
    add_assets(store, assets(40, 16))
    feed = Feed(store, **ALL)
    books = feed.migrate(carried(old.state_dict()))
    assert (feed.step, feed.epoch) == (step, step // 10)
    assert (books.seen, books.left, books.gone, books.fresh) == (
        len(before),
        40 - len(before),
        0,
        16,
    )
    rest = left(feed)
    assert len(rest) == 4 * books.steps
    assert sorted(before + rest) == sorted(assets(0, 56))
    assert sorted(left(feed)) == sorted(assets(0, 56))


def test_new_samples_are_dealt_evenly(store: Store) -> None:
    """They neither wait for the end nor come all at once."""
    old = Feed(store, **ALL)
    shown(old, 2)
    add_assets(store, assets(40, 32))
    feed = Feed(store, **ALL)
    feed.migrate(old.state_dict())
    new = [sum(int(name[1:]) >= 40 for name in shown(feed, 1)) for _ in range(16)]
    assert new == [2] * 16


def test_what_is_gone_leaves_no_hole(store: Store) -> None:
    """What was taken down or replaced is not shown; changed samples come in their new form."""
    old = Feed(store, **ALL)
    before = shown(old, 3)
    unseen = sorted(set(assets(0, 40)) - set(before))
    takedown(store, keys=[unseen[0], unseen[5], before[0]], reason="asked for")
    add_assets(store, {unseen[1]: "2", before[1]: "2"})
    feed = Feed(store, **ALL, drop_last=False)
    with pytest.raises(JobError, match="drop_last"):
        feed.migrate(old.state_dict())
    feed = Feed(store, **ALL)
    books = feed.migrate(carried(old.state_dict()))
    assert (books.seen, books.gone, books.fresh) == (12, 3, 2)
    rest = Counter(left(feed))
    # The changed ones count as new, also the one that was seen in its old form.
    assert set(rest) <= set(unseen) - {unseen[0], unseen[5]} | {before[1]}
    assert max(rest.values()) == 1
    assert sum(rest.values()) == (40 - 12 - 3 + 2) // 4 * 4


def test_a_takedown_alone_is_carried_over_too(store: Store) -> None:
    """The snapshot is the same, and a feed of it is not: the state says what it was."""
    old = Feed(store, **ALL)
    before = shown(old, 3)
    gone = sorted(set(assets(0, 40)) - set(before))[:4]
    takedown(store, keys=gone, reason="asked for")
    feed = Feed(store, **ALL)
    with pytest.raises(StoreError, match="migrate"):
        feed.load_state_dict(old.state_dict())
    books = feed.migrate(carried(old.state_dict()))
    assert (books.left, books.gone, books.fresh) == (24, 4, 0)
    rest = left(feed)
    assert sorted(before + rest + gone) == sorted(assets(0, 40))
    # And again, from a state that was made among takedowns.
    state = carried(feed.state_dict())
    takedown(store, keys=[before[0]], reason="asked for")
    again = Feed(store, **ALL)
    assert again.migrate(state).seen == 0
    assert len(left(again)) == 32


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_states_that_were_carried_over_restore_like_any_other(
    store: Store, world_size: int
) -> None:
    """At every step of the chapter and of the epochs behind it, on any number of ranks."""
    old = Feed(store, **ALL)
    shown(old, 13)
    add_assets(store, assets(40, 18))
    feed = Feed(store, **ALL)
    feed.migrate(old.state_dict())
    states, want = [], []
    for _ in range(30):
        states.append(carried(feed.state_dict()))
        want.append(shown(feed, 1))
    ranks = [Feed(store, **ALL, rank=r, world_size=world_size) for r in range(world_size)]
    for step in (0, 1, 7, 10, 11, 12, 25):
        for rank in ranks:
            rank.load_state_dict(states[step])
            assert rank.step == 13 + step
            assert rank.state_dict() == states[step]
        for ahead in range(3):
            parts = [shown(rank, 1) for rank in ranks]
            assert functools.reduce(operator.iadd, parts, []) == want[step + ahead]


@settings(max_examples=8, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=4))
def test_over_any_number_of_versions_in_one_epoch(
    tmp_path_factory: pytest.TempPathFactory, legs: list[tuple[int, int]]
) -> None:
    """However often it is carried over, an epoch shows nothing twice and loses nothing."""
    store = Store.of(str(tmp_path_factory.mktemp("many") / "store"))
    add_assets(store, assets(0, 24))
    feed = Feed(store, **ALL)
    seen: list[str] = []
    total = 24
    for steps, count in legs:
        steps = min(steps, (total - len(seen)) // 4 - 1)
        seen += shown(feed, max(0, steps))
        if count:
            add_assets(store, assets(total, count))
            total += count
        state = feed.state_dict()
        feed = Feed(store, **ALL)
        if count:
            assert feed.migrate(json.loads(json.dumps(state))).seen == len(seen)
        else:
            feed.load_state_dict(json.loads(json.dumps(state)))
    seen += left(feed)
    assert len(seen) == len(set(seen)) == total // 4 * 4
    assert set(seen) <= set(assets(0, total))


def test_packed_windows_are_carried_over(store: Store) -> None:
    """What was packed before keeps its windows, what is new gets its own."""
    packing = Packing("image", 9, eos=1000, pad=1001)
    options = {**ALL, "packing": packing}
    old = Feed(store, **options)
    before = [n[:4] for b in islice(old, 3) for window in b["sample_id"] for n in window]
    takedown(store, keys=[sorted(set(assets(0, 40)) - set(before))[0]], reason="asked for")
    add_assets(store, assets(40, 12))
    feed = Feed(store, **options, drop_last=False)
    with pytest.raises(JobError, match="drop_last"):
        feed.migrate(old.state_dict())
    feed = Feed(store, **options)
    books = feed.migrate(carried(old.state_dict()))
    rest = [n[:4] for b in islice(feed, books.steps) for window in b["sample_id"] for n in window]
    assert not set(before) & set(rest)
    assert len(rest) == len(set(rest))


def test_what_cannot_be_carried_over_says_so(store: Store, tmp_path: Path) -> None:
    """Buckets, mixtures, other stores."""
    state = Feed(store, **ALL).state_dict()
    add_assets(store, assets(40, 4))
    with pytest.raises(JobError, match="mixture"):
        Feed(Mixture([Part(store), Part(store)]), **ALL).migrate(state)
    other = Store.of(str(tmp_path / "other"))
    add_assets(other, assets(0, 41))
    with pytest.raises(StoreError, match="another store"):
        Feed(other, **ALL).migrate(state)
    with pytest.raises(JobError, match="seed"):
        Feed(store, **{**ALL, "seed": 4}).migrate(state)
