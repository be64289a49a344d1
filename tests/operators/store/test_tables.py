"""Tables in files: appended, filtered and read back as one plain list would be."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenmill.store import tables
from tokenmill.store.tables import append_rows, filter_rows, read_table, read_tables
from tokenmill_infra.storage import open_storage
from tokenmill_infra.storage.storage import Storage
from tokenmill_schemas.errors import CorruptShardError
from tokenmill_schemas.snapshot import FileRef

SCHEMA = pa.schema([pa.field("name", pa.string(), nullable=False)])


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Storage:
    """A folder for all examples: files are named by what they hold."""
    return open_storage(str(tmp_path_factory.mktemp("tables")))


def rows(storage: Storage, refs: tuple[FileRef, ...]) -> list[str]:
    """The names in a table."""
    names: list[str] = read_tables(storage, refs, SCHEMA).column("name").to_pylist()
    return names


def a_table(names: list[str]) -> pa.Table:
    """A table of names."""
    return pa.table({"name": names}, schema=SCHEMA)


@given(st.lists(st.lists(st.text("abc", max_size=2), max_size=9), max_size=12), st.integers(1, 40))
@settings(max_examples=40, deadline=None)
def test_a_table_is_its_rows_in_few_files(
    storage: Storage, commits: list[list[str]], most: int
) -> None:
    """Whatever was appended when; files are a logarithm of the rows, or full."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tables, "FILE_ROWS", most)
        refs: tuple[FileRef, ...] = ()
        for names in commits:
            refs = append_rows(storage, "t", refs, a_table(names))
    wanted = [name for names in commits for name in names]
    assert rows(storage, refs) == wanted
    assert sum(ref.rows for ref in refs) == len(wanted)
    assert all(0 < ref.rows <= most for ref in refs)
    assert len(refs) <= 2 * len(wanted) // most + len(wanted).bit_length() + 1
    kept = filter_rows(storage, "t", refs, column="name", without={"a", "bb"})
    assert rows(storage, kept) == [name for name in wanted if name not in ("a", "bb")]
    untouched = [r for r in refs if not {"a", "bb"}.intersection(rows(storage, (r,)))]
    assert [r for r in untouched if r not in kept] == []


def test_some_columns_of_a_large_file_are_read_without_the_rest(tmp_path: Path) -> None:
    """By ranges, each page checked by its own sum: damage is noticed where it is read."""
    storage = open_storage(str(tmp_path))
    count = 60_000
    table = pa.table({"a": range(count), "b": [f"{i * 7919 % count:032x}" for i in range(count)]})
    (ref,) = tables.put_rows(storage, "t", table)
    assert ref.bytes > tables.WHOLE_BYTES
    assert read_table(storage, ref, ["a"]).column("a").to_pylist() == list(range(count))
    file = tmp_path / ref.path
    data = bytearray(file.read_bytes())
    data[len(data) * 3 // 4] ^= 1
    file.write_bytes(data)
    assert read_table(storage, ref, ["a"]).num_rows == count
    with pytest.raises(CorruptShardError, match="is damaged"):
        read_table(storage, ref, ["b"])
    with pytest.raises(CorruptShardError, match="committed was"):
        read_table(storage, ref)
    file.write_bytes(data[:-1])
    with pytest.raises(CorruptShardError, match="bytes that were committed"):
        read_table(storage, ref, ["a"])
    file.unlink()
    with pytest.raises(CorruptShardError, match="is missing"):
        read_table(storage, ref, ["a"])


def test_columns_that_an_older_writer_left_out_are_empty(storage: Storage) -> None:
    """A manifest without bounds of keys is read, and says that it does not know them."""
    newer = pa.schema([*SCHEMA, pa.field("max_key", pa.string(), nullable=False)])
    refs = append_rows(storage, "t", (), a_table(["x"]))
    assert read_tables(storage, refs, newer).to_pylist() == [{"name": "x", "max_key": ""}]
    both = append_rows(
        storage, "t", refs, pa.table({"name": ["y"], "max_key": ["k"]}, schema=newer)
    )
    assert len(both) == 1
    assert read_tables(storage, both, newer).column("max_key").to_pylist() == ["", "k"]
