"""What differs between versions, against a plain comparison of what they show."""

from __future__ import annotations

from pathlib import Path

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


def test_of_an_asset_that_changed_while_it_was_rejected_the_newest_reading_counts(
    store: Store,
) -> None:
    """Its first listing row has neither samples nor a rejection any more."""
    add_assets(store, {"a": "1", "b": "1"}, rejected="a")
    add_assets(store, {"a": "2"}, rejected="a")
    add_assets(store, {"a": "3"})
    add_assets(store, {}, vanished=frozenset("a"), drop_missing=True)
    found = {(i, j): changes(store.at(i), store.at(j)) for i in range(1, 5) for j in range(1, 5)}
    assert {pair: found[pair] for pair in ((1, 2), (1, 3), (2, 3), (3, 1))} == {
        pair: {"a": "changed"} for pair in ((1, 2), (1, 3), (2, 3), (3, 1))
    }
    assert found[1, 4] == found[2, 4] == found[3, 4] == {"a": "removed"}
    assert found[4, 1] == found[4, 3] == {"a": "added"}


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
    st.tuples(st.just("add"), st.frozensets(KEYS, min_size=1)),
    st.tuples(st.just("bad"), st.frozensets(KEYS, min_size=1)),
    st.tuples(st.just("drop"), st.frozensets(KEYS, min_size=1)),
    st.tuples(st.just("return"), st.frozensets(KEYS, min_size=1)),
)
#: What a version has of an asset: samples or not, and of which reading.
State = dict[str, tuple[bool, str]]


@given(st.lists(STEP, min_size=1, max_size=7), st.data())
@settings(max_examples=25, deadline=None)
def test_any_history_differs_by_what_became_of_assets(
    tmp_path_factory: pytest.TempPathFactory,
    steps: list[tuple[str, frozenset[str]]],
    data: st.DataObject,
) -> None:
    """Between any two versions, in both directions; whatever was rejected or hidden between."""
    store = Store.of(str(tmp_path_factory.mktemp("diff") / "store"))
    add_assets(store, {"a": "0", "b": "0"})
    state: State = {"a": (True, "0"), "b": (True, "0")}
    gone: State = {}
    versions = {1: dict(state)}
    for number, (kind, keys) in enumerate(steps, 1):
        if kind in ("add", "bad"):
            new = {key: str(number) for key in sorted(keys - gone.keys())}
            if new:
                add_assets(store, new, rejected=keys if kind == "bad" else ())
                state |= {key: (kind == "add", text) for key, text in new.items()}
        elif kind == "drop":
            lost = frozenset(key for key in keys if state.get(key, (False, ""))[0])
            add_assets(store, {}, vanished=lost, drop_missing=True)
            gone |= {key: state.pop(key) for key in lost}
        else:
            back = frozenset(keys & gone.keys())
            add_assets(store, {}, returned=back)
            state |= {key: gone.pop(key) for key in back}
        versions[store.snapshot().number] = dict(state)
    assert shown(store.at()) == {key: text for key, (good, text) in state.items() if good}
    one, other = (data.draw(st.sampled_from(sorted(versions))) for _ in range(2))
    assert changes(store.at(one), store.at(other)) == compared(versions[one], versions[other])


def compared(before: State, after: State) -> dict[str, str]:
    """The changes between two plain dictionaries."""
    found = dict.fromkeys(after.keys() - before.keys(), "added")
    found |= dict.fromkeys(before.keys() - after.keys(), "removed")
    for key in before.keys() & after.keys():
        (good, old), (also_good, new) = before[key], after[key]
        if old != new:
            found[key] = "changed"
        elif good != also_good:
            found[key] = "retokenized"
    return found
