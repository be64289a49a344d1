"""Following a store that grows: one frozen order, whoever looks when."""

import json
import threading
import time
from collections.abc import Iterator
from itertools import chain, islice
from pathlib import Path
from typing import Any

import pytest

from tokenmill.feed import Feed, Follow
from tokenmill.store import Store
from tokenmill.store.takedown import takedown
from tokenmill.testing.stores import add_assets
from tokenmill_schemas.errors import JobError, StoreError

FAST = Follow("whole", poll_s=0.02, patience_s=20)


def commit(store: Store, first: int, count: int) -> None:
    """Add assets a<first>, a<first + 1>, ..."""
    add_assets(store, {f"a{i:03d}": "1" for i in range(first, first + count)})


def names(feed: Iterator[Any]) -> list[list[str]]:
    """The samples of each batch."""
    return [batch["sample_id"].tolist() for batch in feed]


def follow(store: Store, **options: Any) -> Feed:
    """A feed that follows until the tag ``whole``."""
    options = {"batch_size": 4, "seed": 7, "threads": 1, "follow": FAST, **options}
    return Feed(store.uri, **options)


@pytest.fixture
def grown(tmp_path: Path) -> Store:
    """A store of five versions, 37 assets, the last one tagged."""
    store = Store.of(str(tmp_path / "store"))
    for first, count in ((0, 10), (10, 3), (13, 0), (13, 14), (27, 10)):
        if count:
            commit(store, first, count)
    store.tag("whole")
    return store


def test_every_sample_once_in_the_order_of_versions(grown: Store) -> None:
    """Chapter after chapter, each shuffled in itself; what fills no batch is left out."""
    shown = list(chain.from_iterable(names(iter(follow(grown)))))
    assert len(shown) == len(set(shown)) == 36
    keys = [int(name[1:4]) for name in shown]
    assert sorted(keys[:10]) == list(range(10))
    assert keys[:10] != sorted(keys[:10])
    assert sorted(keys[10:13]) == [10, 11, 12]
    assert sorted(keys[13:27]) == list(range(13, 27))


def test_a_trainer_that_waits_sees_what_one_that_came_late_sees(tmp_path: Path) -> None:
    """Batches are given out while commits come, and are those of a feed opened at the end."""
    store = Store.of(str(tmp_path / "store"))
    commit(store, 0, 9)
    seen: list[list[str]] = []
    times: list[float] = []

    def train() -> None:
        for batch in follow(store):
            seen.append(batch["sample_id"].tolist())  # type: ignore[union-attr]
            times.append(time.monotonic())

    trainer = threading.Thread(target=train)
    trainer.start()
    committed = []
    for first, count in ((9, 5), (14, 1), (15, 12)):
        time.sleep(0.2)
        commit(store, first, count)
        committed.append(time.monotonic())
    store.tag("whole")
    trainer.join(timeout=30)
    assert not trainer.is_alive()
    assert times[0] < committed[0]
    assert seen == names(iter(follow(store)))
    assert len(seen) == 27 // 4


def test_ranks_agree_though_they_look_at_different_times(grown: Store) -> None:
    """The ranks' parts, joined, are the batches of one rank, and `samples_of` names them."""
    ranks = [follow(grown, rank=rank, world_size=2) for rank in range(2)]
    whole = names(iter(follow(grown)))
    for step, parts in enumerate(zip(*(names(iter(r)) for r in ranks), strict=True)):
        assert list(chain.from_iterable(parts)) == whole[step]
        found = ranks[0].samples_of(step)
        assert len(found.rows) == len(found.parts) == 4


def test_a_restore_at_every_step_goes_on_exactly(grown: Store) -> None:
    """Also with a store that has grown since the state was taken."""
    whole = names(iter(follow(grown)))
    for step in range(len(whole)):
        feed = follow(grown)
        list(islice(feed, step))
        state = json.loads(json.dumps(feed.state_dict()))
        again = follow(grown, rank=0)
        again.load_state_dict(state)
        assert names(iter(again)) == whole[step:]
        assert len(json.dumps(state)) < 300


def test_a_feed_that_follows_nothing_else_takes_its_state(grown: Store) -> None:
    """Its order is another one than that of any version."""
    state = follow(grown).state_dict()
    with pytest.raises((JobError, StoreError)):
        Feed(grown, batch_size=4, seed=7).load_state_dict(state)


def test_patience_ends_with_what_to_look_at(tmp_path: Path) -> None:
    """No commit and no tag: the error names the version and the tag."""
    store = Store.of(str(tmp_path / "store"))
    commit(store, 0, 5)
    feed = follow(store, follow=Follow("whole", poll_s=0.02, patience_s=0.2))
    with pytest.raises(StoreError, match="version 1, and no tag 'whole'"):
        list(feed)
    assert feed.step == 1


def test_a_takedown_between_commits_is_no_chapter(tmp_path: Path) -> None:
    """What is taken down before its chapter is opened is never shown; others are."""
    store = Store.of(str(tmp_path / "store"))
    commit(store, 0, 8)
    takedown(store, keys=["a001"], reason="a test")
    commit(store, 8, 8)
    store.tag("whole")
    shown = list(chain.from_iterable(names(iter(follow(store, batch_size=1)))))
    assert len(shown) == 15
    assert not any(name.startswith("a001") for name in shown)


@pytest.mark.parametrize("option", [{"epochs": 2}, {"buckets": "image"}])
def test_what_needs_the_whole_store_is_refused(grown: Store, option: dict[str, Any]) -> None:
    """A store that grows has no epochs and no table of its shapes."""
    with pytest.raises(JobError, match="still written"):
        follow(grown, **option)
