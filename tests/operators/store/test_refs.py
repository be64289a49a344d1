"""Versions by number, tag, branch and date, and what a name may be."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tokenmill.store import Store, paths
from tokenmill.store.refs import parse_date, split_uri
from tokenmill.testing.stores import add_assets, shown
from tokenmill_schemas.errors import ConflictError, SnapshotNotFoundError, StoreError


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """A store of three versions."""
    store = Store.of(str(tmp_path / "store"))
    for key in "abc":
        add_assets(store, {key: "1"})
    return store


def test_a_version_has_many_names(store: Store) -> None:
    """Number, tag, branch, branch:number; a Version reads what was there then."""
    store.tag("good", 2)
    store.create_branch("exp", "good")
    names: list[int | str] = [2, "2", "good", "exp", "main:2", "exp:2", "exp:1"]
    assert [store.snapshot(name).number for name in names] == [2, 2, 2, 2, 2, 2, 1]
    assert shown(store.at("good")) == {"a": "1", "b": "1"}
    assert shown(store.at()) == {"a": "1", "b": "1", "c": "1"}
    assert store.snapshot("main").number == store.snapshot("latest").number == 3


def test_a_branch_goes_its_own_way(store: Store) -> None:
    """Commits to it do not show on main, and main's not on it; numbers go on from the fork."""
    exp = store.create_branch("exp", 2)
    assert shown(exp.at()) == {"a": "1", "b": "1"}
    made = add_assets(exp, {"x": "1"})
    assert (made.number, made.branch, made.parent) == (3, "exp", store.snapshot(2).commit_id)
    assert shown(exp.at()) == {"a": "1", "b": "1", "x": "1"}
    assert "x" not in shown(store.at())
    assert [s.branch for s in exp.snapshots()] == ["exp", "main", "main"]
    exp.tag("kept")
    assert store.snapshot("kept") == made
    assert {name: head.number for name, head in store.branches().items()} == {"main": 3, "exp": 3}
    deeper = exp.create_branch("deeper")
    assert shown(deeper.at()) == shown(exp.at())
    assert add_assets(deeper, {"y": "1"}).number == 4


def test_branches_are_forgotten_unless_something_lies_on_them(store: Store) -> None:
    """A tag or another branch holds one; main cannot go."""
    exp = store.create_branch("exp")
    exp.create_branch("deeper")
    add_assets(exp, {"x": "1"})
    exp.create_branch("on-top")
    with pytest.raises(ConflictError, match="held by on-top"):
        store.delete_branch("exp")
    store.delete_branch("on-top")
    exp.tag("here")
    with pytest.raises(ConflictError, match="held by here"):
        store.delete_branch("exp")
    store.delete_branch("deeper")
    assert list(store.branches()) == ["main", "exp"]
    with pytest.raises(SnapshotNotFoundError, match="no branch 'gone'"):
        store.delete_branch("gone")
    with pytest.raises(StoreError):
        store.delete_branch("main")


def test_names_are_of_one_thing_only(store: Store) -> None:
    """No tag is called like a branch, no branch like a tag; beginning a branch twice is fine."""
    store.tag("one", 1)
    store.create_branch("two", 2)
    store.create_branch("two", 2)
    with pytest.raises(ConflictError, match="is a tag"):
        store.create_branch("one")
    with pytest.raises(ConflictError, match="is a branch"):
        store.tag("two")
    with pytest.raises(ConflictError, match="begins elsewhere"):
        store.create_branch("two", 3)
    for name in ("main", "latest", "a/b", "7", ""):
        with pytest.raises(StoreError):
            store.create_branch(name)


def test_a_date_is_the_newest_version_until_its_end(store: Store) -> None:
    """Whatever a wrong clock did to the order of times, a number never counts back."""
    log = store.log
    for number, day in ((1, 3), (2, 5), (3, 4)):
        made = replace(store.snapshot(number), created_at=f"2026-03-{day:02d}T12:00:00+00:00")
        store.storage.delete(paths.log_file(number))
        log.append(made)
    wanted = {"2026-03-03": 1, "2026-03-04": 3, "2026-03-04T11:59:00": 1, "2026-03-09": 3}
    assert {ref: store.snapshot(ref).number for ref in wanted} == wanted
    assert store.snapshot("2026-03-04T13:00:00+02:00").number == 1
    with pytest.raises(SnapshotNotFoundError, match="no snapshot was made until"):
        store.snapshot("2026-03-02")


def test_dates_are_read_as_iso_says() -> None:
    """A date means its last moment; a time without a zone is UTC; the rest is no date."""
    assert parse_date("2026-01-31") == datetime(2026, 1, 31, 23, 59, 59, 999999, UTC)
    assert parse_date("2026-01-31T05:06") == datetime(2026, 1, 31, 5, 6, tzinfo=UTC)
    assert parse_date("yesterday") is None
    assert parse_date("2026-02-31") is None


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("/data/store", ("/data/store", None)),
        ("/data/store@v1", ("/data/store", "v1")),
        ("s3://bucket/store@exp:4", ("s3://bucket/store", "exp:4")),
        ("s3://key@bucket/store", ("s3://key@bucket/store", None)),
        ("s3://key@bucket/store@2026-01-31", ("s3://key@bucket/store", "2026-01-31")),
        ("@3", ("@3", None)),
    ],
)
def test_store_at_ref_is_split_at_its_last_sign(text: str, wanted: tuple[str, str | None]) -> None:
    """But not where a user's name stands before a bucket."""
    assert split_uri(text) == wanted
