"""A feed of what is new: the samples that one version has and an earlier one had not."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import pytest

from tokenmill.feed import Feed
from tokenmill.store import Store
from tokenmill.testing.stores import add_assets, ids_of
from tokenmill_schemas.errors import StoreError


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Three versions: six assets; one changed, two new; one gone, one new."""
    store = Store.of(str(tmp_path / "store"))
    add_assets(store, dict.fromkeys("abcdef", "1"), views=2)
    add_assets(store, {"b": "2", "g": "2", "h": "2"}, views=2)
    add_assets(store, {"i": "3"}, views=2, vanished=frozenset("h"), drop_missing=True)
    return store


def samples(feed: Feed) -> dict[str, list[int]]:
    """The ids of an epoch's samples, by sample id."""
    found: dict[str, list[int]] = {}
    for batch in islice(feed, len(feed)):
        names = [str(name) for name in batch["sample_id"]]
        found |= dict(zip(names, (ids.tolist() for ids in batch["image"]), strict=True))
    return found


def test_only_what_is_new_is_shown(store: Store) -> None:
    """Changed assets with their new tokens, and nothing of what has gone again."""
    feed = Feed(store, since=1, batch_size=1)
    wanted = {"b": "2", "g": "2", "i": "3"}
    assert samples(feed) == {
        f"{key}#{view}": ids_of(key, version, view).tolist()
        for key, version in wanted.items()
        for view in (0, 1)
    }
    assert feed.rows == 6
    assert samples(Feed(store, ref=2, since=1, batch_size=2)).keys() == {
        f"{key}#{view}" for key in "bgh" for view in (0, 1)
    }


def test_its_state_is_of_both_versions(store: Store) -> None:
    """It is not taken by a feed of all samples, nor by one of what is new since another version."""
    state = Feed(store, since=1, batch_size=2).state_dict()
    Feed(store, since=1, batch_size=2).load_state_dict(state)
    for since in (None, 2):
        with pytest.raises(StoreError, match="belongs to snapshot 3"):
            Feed(store, since=since, batch_size=2).load_state_dict(state)


def test_nothing_new_is_said(store: Store) -> None:
    """Rather than an endless wait for a first batch."""
    with pytest.raises(StoreError, match="snapshot 3 has nothing new since 3"):
        Feed(store, since=3, batch_size=1)
