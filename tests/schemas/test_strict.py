from dataclasses import dataclass, field
from typing import Any, Literal

import pytest

from tokenmill_schemas.errors import JobError
from tokenmill_schemas.strict import build


@dataclass(frozen=True, slots=True)
class Inner:
    """A section."""

    size: int = 1
    names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.size < 0:
            raise ValueError("size must not be negative")


@dataclass(frozen=True, slots=True)
class Outer:
    """One field of every kind that jobs have."""

    name: str
    kind: Literal["arrow", "webdataset"] = "arrow"
    ratio: float = 1.0
    flag: bool = False
    side: int | tuple[int, int] = 1
    pair: tuple[int, float] = (0, 0.0)
    inner: Inner = field(default_factory=Inner)
    maybe: Inner | None = None
    table: dict[str, int] = field(default_factory=dict)
    free: dict[str, Any] = field(default_factory=dict)


GOOD: dict[str, Any] = {
    "name": "x",
    "kind": "webdataset",
    "ratio": 2,
    "flag": True,
    "side": [1, 2],
    "pair": [3, 4],
    "inner": {"size": 5, "names": ["a"]},
    "maybe": {"size": 6},
    "table": {"a": 1},
    "free": {"anything": [1, "two"]},
}


def test_a_table_becomes_the_dataclass_it_describes() -> None:
    """Lists become tuples, whole numbers stand for floats, tables become sections."""
    made = build(Outer, GOOD, path="job")
    assert made == Outer(
        "x",
        "webdataset",
        2.0,
        True,
        (1, 2),
        (3, 4.0),
        Inner(5, ("a",)),
        Inner(6),
        {"a": 1},
        {"anything": [1, "two"]},
    )
    assert isinstance(made.ratio, float)
    assert isinstance(made.pair[1], float)


@pytest.mark.parametrize(
    ("change", "path", "says"),
    [
        ({"nmae": "x"}, "job.nmae", "did you mean 'name'?"),
        ({"inner": {"sise": 1}}, "job.inner.sise", "did you mean 'size'?"),
        ({"inner": {"zzz": 1}}, "job.inner.zzz", "valid keys: names, size"),
        ({"name": 3}, "job.name", "must be str, got 3"),
        ({"flag": 1}, "job.flag", "must be bool, got 1"),
        ({"inner": {"size": True}}, "job.inner.size", "must be int, got True"),
        ({"ratio": True}, "job.ratio", "must be float, got True"),
        ({"ratio": "1"}, "job.ratio", "must be float, got '1'"),
        ({"kind": "webdatset"}, "job.kind", "did you mean 'webdataset'?"),
        ({"kind": 4}, "job.kind", "allowed: arrow, webdataset"),
        ({"side": [1, 2, 3]}, "job.side", "must have 2 entries, got 3"),
        ({"pair": 1}, "job.pair", "must be a list"),
        ({"inner": {"names": ["a", 2]}}, "job.inner.names[1]", "must be str, got 2"),
        ({"inner": {"size": -1}}, "job.inner", "size must not be negative"),
        ({"inner": 7}, "job.inner", "must be a table, got 7"),
        ({"maybe": {"size": "x"}}, "job.maybe.size", "must be int, got 'x'"),
        ({"table": {"a": "b"}}, "job.table.a", "must be int, got 'b'"),
        ({"table": []}, "job.table", "must be a table"),
    ],
)
def test_a_slip_names_its_dotted_path_and_what_was_meant(
    change: dict[str, Any], path: str, says: str
) -> None:
    """Unknown keys, wrong types and impossible values are told apart and located."""
    with pytest.raises(JobError) as caught:
        build(Outer, GOOD | change, path="job")
    assert caught.value.path == path
    assert says in str(caught.value)


def test_keys_at_the_top_of_a_file_have_no_prefix() -> None:
    """The dotted path is the one that a user would write after ``--set``."""
    for change, path in (({"nmae": "x"}, "nmae"), ({"inner": {"size": "x"}}, "inner.size")):
        with pytest.raises(JobError) as caught:
            build(Outer, GOOD | change, path="")
        assert caught.value.path == path
    with pytest.raises(JobError, match=r"^name: is required"):
        build(Outer, {}, path="")


def test_a_missing_key_is_named() -> None:
    """Only what has no default is required."""
    with pytest.raises(JobError, match=r"job\.name: is required"):
        build(Outer, {}, path="job")


def test_none_stands_for_an_absent_section() -> None:
    """A null is taken where the type allows it, and only there."""
    assert build(Outer, {"name": "x", "maybe": None}, path="job").maybe is None
    with pytest.raises(JobError, match=r"job\.inner"):
        build(Outer, {"name": "x", "inner": None}, path="job")
