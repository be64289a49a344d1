"""States on another version, branch or reader: what may happen to a store meanwhile."""

import json
import pickle
import threading
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tokenmill.feed import Feed, Follow, Packing
from tokenmill.store import Store
from tokenmill.store.compact import compact
from tokenmill.store.gc import gc
from tokenmill.store.takedown import takedown
from tokenmill.testing.stores import add_assets
from tokenmill_schemas.errors import JobError, StoreError

ALL: dict[str, Any] = {"batch_size": 4, "seed": 3, "threads": 0}


def assets(first: int, count: int) -> dict[str, str]:
    """Assets a<first>, a<first + 1>, ..."""
    return {f"a{i:03d}": "1" for i in range(first, first + count)}


def names(feed: Feed, steps: int) -> list[list[str]]:
    """The assets of the next steps."""
    return [[str(n)[:4] for n in batch["sample_id"]] for batch in islice(feed, steps)]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Forty assets."""
    made = Store.of(str(tmp_path / "store"))
    add_assets(made, assets(0, 40))
    return made


def carried(store: Store, step: int, **options: Any) -> Feed:
    """A feed that was carried over at ``step`` to a version of 16 more assets."""
    state = Feed(store, **ALL, **options).state_at(step)
    add_assets(store, assets(40, 16))
    feed = Feed(store, **ALL, **options)
    feed.migrate(state)
    return feed


@pytest.mark.parametrize("behind", [0, 20])
def test_steps_of_the_version_before_are_not_made_up(store: Store, behind: int) -> None:
    """In the epoch that was carried over, and in one behind it: their samples are not known."""
    feed = carried(store, 5)
    feed.load_state_dict(feed.state_at(5 + behind))
    for ask in (feed.samples_of, feed.state_at):
        with pytest.raises(JobError, match="version before"):
            ask(4)
    with pytest.raises(JobError, match=r"no position|version before"):
        feed.load_state_dict({**feed.state_at(5), "position": 0})


def test_a_carried_feed_is_pickled_with_its_past(store: Store) -> None:
    """A loader's worker goes on with the same batches, in the epoch and behind it."""
    feed = carried(store, 5)
    for ahead in (0, 11):
        names(feed, ahead)
        copy = pickle.loads(pickle.dumps(feed))
        assert copy.state_dict() == feed.state_dict()
        assert names(copy, 6) == names(feed, 6)


@pytest.mark.parametrize("drop_last", [True, False])
def test_carried_over_at_the_end_of_an_epoch(tmp_path: Path, drop_last: bool) -> None:
    """The last step, the first of the next, and an epoch that has no whole batch left."""
    store = Store.of(str(tmp_path / "store"))
    add_assets(store, assets(0, 42))
    old = Feed(store, **ALL, drop_last=drop_last)
    states = [old.state_at(step) for step in range(8, 13)]
    shown = names(old, 13)
    if not drop_last:  # what completes the last batch are the first of what was left, not of all
        shown[10] = shown[10][:2] * 2
    for step, state in zip(range(8, 13), states, strict=True):
        feed = Feed(store, **ALL, drop_last=drop_last)
        books = feed.migrate(state)
        assert books.seen + books.left + books.gone == 42
        assert feed.step == step
        assert names(feed, 1) == shown[step : step + 1]


def test_not_carried_over_to_an_older_version(store: Store) -> None:
    """Its shards are fewer; that is said, and a feed of the newer one takes the state as before."""
    add_assets(store, assets(40, 16))
    state = Feed(store, **ALL).state_at(5)
    with pytest.raises(StoreError, match=r"16 samples of version 2 .* left out by version 1"):
        Feed(store, ref=1, **ALL).migrate(state)
    with pytest.raises(StoreError, match="no snapshot 3"):
        Feed(store, ref=1, **ALL).migrate({**state, "number": 3})


def test_carried_over_along_a_branch(store: Store) -> None:
    """Versions of the branch's own log, whichever the store stands on."""
    branch = store.create_branch("dev")
    add_assets(branch, assets(40, 8))
    add_assets(store, assets(60, 8))
    state = Feed(store, ref="dev", **ALL).state_at(3)
    add_assets(branch, assets(48, 8))
    feed = Feed(store, ref="dev", **ALL)
    assert feed.migrate(state).fresh == 8
    again = Feed(branch, **ALL)
    again.load_state_dict(feed.state_dict())
    assert names(again, 5) == names(feed, 5)


def test_a_chain_that_would_not_fit_a_state_is_refused(store: Store) -> None:
    """With what to do; the state that was is still good."""
    options = {**ALL, "seed": 2**62, "where": "sample_id != 'x'", "packing": Packing("image", 9)}
    states = [Feed(store, **options).state_at(1)]

    def carry() -> None:
        for i in range(9):
            add_assets(store, assets(100 + 8 * i, 8))
            feed = Feed(store, **options)
            feed.migrate(states[-1])
            states.append(feed.state_dict())

    with pytest.raises(JobError, match="Finish the epoch on version"):
        carry()
    assert len(states) > 2
    assert max(len(json.dumps(state)) for state in states) < 300


def test_a_position_behind_the_end_is_not_carried_over(store: Store) -> None:
    """No feed writes it."""
    state = Feed(store, **ALL).state_at(2)
    with pytest.raises(JobError, match="no position 400"):
        Feed(store, **ALL).migrate({**state, "position": 400})


def test_a_diff_is_not_carried_over(store: Store) -> None:
    """A feed of what is new cannot finish an epoch of all."""
    state = Feed(store, **ALL).state_at(2)
    add_assets(store, assets(40, 16))
    with pytest.raises(JobError, match="since="):
        Feed(store, since=1, **ALL).migrate(state)


def test_ranks_of_a_carried_feed_agree_among_takedowns(store: Store) -> None:
    """A takedown between two versions, then a restore: both ranks show the same, without it."""
    state = Feed(store, **ALL).state_at(4)
    takedown(store, keys=["a007"], reason="asked for")
    add_assets(store, assets(40, 9))
    feed = Feed(store, **ALL)
    books = feed.migrate(state)
    assert books.seen + books.left + books.gone == 40
    saved = feed.state_at(6)
    ranks = [Feed(store, **ALL, rank=r, world_size=2) for r in range(2)]
    for rank in ranks:
        rank.load_state_dict(saved)
    feed.load_state_dict(saved)
    joined = [
        list(chain.from_iterable(parts))
        for parts in zip(*(names(r, 12) for r in ranks), strict=True)
    ]
    assert joined == names(feed, 12)
    assert "a007" not in list(chain.from_iterable(joined))


# --- following ------------------------------------------------------------------------------------

FAST = Follow("whole", poll_s=0.01, patience_s=0.05)


def test_a_tag_of_another_branch_ends_nothing(store: Store) -> None:
    """Its version has a number on this branch, too, and is another one."""
    branch = store.create_branch("dev")
    add_assets(branch, assets(40, 8))
    add_assets(store, assets(60, 8))
    branch.tag("whole")
    with pytest.raises(StoreError, match="tag 'whole' is of branch 'dev', the feed follows 'main'"):
        Feed(store, follow=FAST, **ALL)
    followed = Feed(branch, follow=FAST, **ALL)
    shown = list(chain.from_iterable(names(followed, 99)))
    assert sorted(shown) == sorted(assets(0, 48))
    with pytest.raises(StoreError, match="version 2 is of branch 'dev'"):
        Feed(store, ref="dev:2", follow=FAST, **ALL)


def test_a_tag_that_was_passed_ends_the_feed_where_it_is(store: Store) -> None:
    """Whoever looked before the tag was set has no more steps than who came later."""
    add_assets(store, assets(40, 8))
    early = Feed(store, follow=FAST, **ALL)
    assert len(early) == 12
    store.tag("whole", 1)
    late = Feed(store, follow=FAST, **ALL)
    with pytest.raises(StoreError, match="before version 2"):
        Feed(store, ref=2, follow=FAST, **ALL)
    early.seek(12)
    assert list(early) == []
    assert early.total_steps == late.total_steps == 10


@pytest.mark.parametrize("until", ["latest", "main", "7", "2026-01-01", ""])
def test_only_a_tag_ends_a_followed_store(until: str) -> None:
    """What always names a version would end it at once."""
    with pytest.raises(JobError, match=r"feed\.follow\.until"):
        Follow(until)


def test_a_branch_does_not_end_a_followed_store(store: Store) -> None:
    """Its newest version is none to stop at."""
    store.create_branch("dev")
    with pytest.raises(StoreError, match="'dev' is a branch"):
        Feed(store, follow=Follow("dev"), **ALL)


def test_a_state_from_ahead_is_waited_for(store: Store) -> None:
    """A restored rank whose listing is late waits for the commits that its state has seen."""
    feed = Feed(store, follow=FAST, **ALL)
    feed.load_state_dict(feed.state_at(11))
    with pytest.raises(IndexError, match="not committed yet"):
        feed.samples_of(11)
    with pytest.raises(StoreError, match="no commit for"):
        next(iter(feed))
    add_assets(store, assets(40, 16))
    assert len(names(feed, 1)[0]) == 4
    assert feed.step == 12


def test_looks_from_several_threads_open_every_chapter_once(store: Store) -> None:
    """However many look while commits come."""
    feed = Feed(store, follow=FAST, **ALL)
    chapters = feed.source.schedule.chapters  # type: ignore[union-attr]
    for first in (40, 50, 60):
        add_assets(store, assets(first, 10))
        threads = [threading.Thread(target=chapters.look) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert [part.snapshot.number for part in feed.parts] == [1, 2, 3, 4]
    assert chapters.ends == [40, 50, 60, 70]


def test_a_followed_store_cannot_complete_its_last_batch(store: Store) -> None:
    """Its epoch has no first samples until it is over."""
    with pytest.raises(JobError, match="drop_last"):
        Feed(store, follow=FAST, drop_last=False, **ALL)


def test_a_compaction_between_chapters_shows_nothing_twice(store: Store) -> None:
    """It adds no samples, and later chapters are of its shards; who comes late sees the same."""
    add_assets(store, assets(40, 16))
    early = Feed(store, follow=FAST, **ALL)
    shown = names(early, 10)
    compact(store)
    add_assets(store, assets(56, 8))
    store.tag("whole")
    shown += names(early, 99)
    assert sorted(chain.from_iterable(shown)) == sorted(assets(0, 64))
    assert [part.snapshot.number for part in early.parts] == [1, 2, 4]
    assert names(Feed(store, follow=FAST, **ALL), 99) == shown


def test_what_compaction_and_gc_take_from_a_carried_state_is_said(store: Store) -> None:
    """Onto the new shards it cannot go; its own version takes it until one of its past is gone."""
    feed = carried(store, 3)
    state, want = feed.state_at(5), feed.samples_of(5)
    compact(store)
    with pytest.raises(StoreError, match="written anew"):
        Feed(store, **ALL).migrate(state)
    again = Feed(store, ref=2, **ALL)
    again.load_state_dict(state)
    assert np.array_equal(again.samples_of(5).rows, want.rows)
    store.tag("kept", 2)
    gc(store, grace_s=0, expire_older_than_s=0)
    with pytest.raises(StoreError, match="no snapshot 1"):
        Feed(store, ref=2, **ALL).load_state_dict(state)
