"""What differs between versions, against a plain comparison of what they show."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenmill.store import Store, Version
from tokenmill.store.diff import diff
from tokenmill.testing.stores import add_assets, shown


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """A store that has no version yet."""
    return Store.of(str(tmp_path / "store"))


def changes(before: Version, after: Version) -> dict[str, str]:
    """The kind of change by asset."""
    table = diff(before, after).table
    return dict(zip(*(table.column(n).to_pylist() for n in ("asset_key", "change")), strict=True))


def test_each_kind_of_change_is_told(store: Store) -> None:
    """Added, changed, removed (dropped because it is gone), and tokenized again after a retry."""
    add_assets(store, dict.fromkeys("abcdefgh", "1"), rejected="h")
    add_assets(store, {"b": "2", "x": "1"})
    add_assets(store, {}, vanished=frozenset("d"), drop_missing=True)
    add_assets(store, {"h": "1"}, salt="again")
    assert changes(store.at(1), store.at(2)) == {"b": "changed", "x": "added"}
    assert changes(store.at(2), store.at(3)) == {"d": "removed"}
    assert changes(store.at(3), store.at(4)) == {"h": "retokenized"}
    wanted = {"b": "changed", "x": "added", "d": "removed", "h": "retokenized"}
    assert changes(store.at(1), store.at(4)) == wanted
    found = store.diff(1, 4)
    assert found.counts == {"added": 1, "removed": 1, "changed": 1, "retokenized": 1}
    row = next(row for row in found.table.to_pylist() if row["asset_key"] == "b")
    assert (row["version_before"], row["version_after"]) == ("1", "2")
    assert changes(store.at(4), store.at(4)) == {}


def test_what_is_new_is_found_row_by_row(store: Store) -> None:
    """Of an asset that returned the old samples, of one that changed the new ones."""
    add_assets(store, dict.fromkeys("abcd", "1"), views=2)
    add_assets(store, {}, vanished=frozenset("c"), drop_missing=True)
    add_assets(store, {"a": "2", "e": "1"}, views=2, returned=frozenset("c"))
    found = store.diff(2, 3).new_samples()
    assert sorted(found.column("sample_id").to_pylist()) == [
        "a#0",
        "a#1",
        "c#0",
        "c#1",
        "e#0",
        "e#1",
    ]


def test_two_stores_of_the_same_assets_hardly_differ(store: Store, tmp_path: Path) -> None:
    """Made in other units, they have the same assets; what differs is told as within one."""
    other = Store.of(str(tmp_path / "other"))
    add_assets(store, dict.fromkeys("abcdef", "1"))
    add_assets(other, dict.fromkeys("ab", "1"))
    add_assets(other, dict.fromkeys("cdg", "1"))
    assert changes(store.at(), other.at()) == {"e": "removed", "f": "removed", "g": "added"}


KEYS = st.sampled_from("abcdefgh")
STEP = st.one_of(
    st.tuples(st.just("add"), st.dictionaries(KEYS, st.sampled_from("123"), min_size=1)),
    st.tuples(st.just("drop"), st.frozensets(KEYS, min_size=1)),
    st.tuples(st.just("return"), st.frozensets(KEYS, min_size=1)),
)


@given(st.lists(STEP, min_size=1, max_size=6), st.data())
@settings(max_examples=25, deadline=None)
def test_any_history_differs_by_what_is_shown(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, Any]], data: st.DataObject
) -> None:
    """Between any two versions, in both directions."""
    store = Store.of(str(tmp_path_factory.mktemp("diff") / "store"))
    add_assets(store, {"a": "1", "b": "1"})
    for kind, what in steps:
        now = shown(store.at())
        known = set(store.at().missing().column("asset_key").to_pylist())
        if kind == "add":
            new = {k: v for k, v in what.items() if now.get(k) != v and k not in known}
            if new:
                add_assets(store, new)
        elif kind == "drop":
            add_assets(store, {}, vanished=what.intersection(now), drop_missing=True)
        else:
            add_assets(store, {}, returned=what.intersection(known))
    numbers = st.sampled_from(store.log.numbers())
    one, other = store.at(data.draw(numbers)), store.at(data.draw(numbers))
    before, after = shown(one), shown(other)
    wanted = dict.fromkeys(after.keys() - before.keys(), "added")
    wanted |= dict.fromkeys(before.keys() - after.keys(), "removed")
    wanted |= {k: "changed" for k in before.keys() & after.keys() if before[k] != after[k]}
    assert changes(one, other) == wanted
