"""The names of columns: each is one stream's or column's in the whole of a version."""

from __future__ import annotations

from collections.abc import Iterable

from tokenmill.store.refs import NAME
from tokenmill_schemas.arrow import ShardLayout
from tokenmill_schemas.errors import JobError
from tokenmill_schemas.snapshot import ColumnGroup, Snapshot
from tokenmill_schemas.strict import nearest
from tokenmill_schemas.tokens import TokenSpec

#: How the column's name ends that says which rows of a group have values.
PRESENT = ".present"


def present_name(group: str) -> str:
    """Return the name of the column that says which rows of a group have values."""
    return group + PRESENT


def stored_names(spec: TokenSpec) -> list[str]:
    """Return the columns that hold the streams of ``spec``."""
    return [
        name
        for stream in spec.streams
        for name in ((stream.name,) if stream.is_fixed else (stream.name, f"{stream.name}.shape"))
    ]


def names_of(group: ColumnGroup) -> list[str]:
    """Return the columns that a group adds: its streams', its own, and that of what is there."""
    return [*stored_names(group.spec), *group.columns, present_name(group.name)]


def find_group(snapshot: Snapshot, name: str) -> ColumnGroup:
    """Return a group of a version.

    Raises:
        JobError: it has none of that name; names the nearest one.
    """
    for group in snapshot.groups:
        if group.name == name:
            return group
    there = [group.name for group in snapshot.groups]
    hint = nearest(name, there) if there else "it has none"
    raise JobError(f"snapshot {snapshot.number} has no column group {name!r}; {hint}", path="group")


def owners(snapshot: Snapshot) -> dict[str, str]:
    """Return by each stream and column that groups add the name of its group."""
    return {
        name: group.name
        for group in snapshot.groups
        for name in (*(s.name for s in group.spec.streams), *names_of(group))
    }


def check_names(snapshot: Snapshot, layout: ShardLayout, name: str, wanted: Iterable[str]) -> None:
    """Check that a group may be called ``name`` and add the columns ``wanted``.

    Raises:
        JobError: a name is malformed, or stands for something else in the version already.
    """
    if not NAME.fullmatch(name):
        raise JobError(
            f"{name!r} must start with a letter and hold only letters, digits, _ . -", path="group"
        )
    wanted = list(wanted)
    if sum(column.endswith(PRESENT) for column in wanted) > 1:
        raise JobError(f"no column's name may end in {PRESENT!r}", path="columns")
    others = {key: group for key, group in owners(snapshot).items() if group != name}
    for column in wanted:
        if column in layout.schema.names:
            raise JobError(f"the store has a {column!r} already; call it another", path="columns")
        if column in others:
            raise JobError(
                f"the column group {others[column]!r} has a {column!r} already; call it another",
                path="columns",
            )
