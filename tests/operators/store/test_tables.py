"""Tables in files: appended, filtered and read back as one plain list would be."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenmill.store import tables
from tokenmill.store.tables import (
    append_rows,
    filter_rows,
    put_table,
    read_head,
    read_table,
    read_tables,
)
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


@pytest.mark.parametrize("rows", [1, 3, 4, 9, 10])
@pytest.mark.parametrize("group_rows", [3, 100])
def test_the_head_of_a_table_is_its_first_rows(
    storage: Storage, monkeypatch: pytest.MonkeyPatch, rows: int, group_rows: int
) -> None:
    """Of small files and of large ones, whose rows may lie in groups."""
    names = [f"{group_rows} {i}" for i in range(10)]
    write = pq.write_table
    monkeypatch.setattr(pq, "write_table", partial(write, row_group_size=group_rows))
    ref = put_table(storage, "heads", a_table(names))
    for whole in (0, ref.bytes):
        monkeypatch.setattr(tables, "WHOLE_BYTES", whole)
        head = read_head(storage, ref, ["name"], rows)
        assert head.column("name").to_pylist() == names[:rows]
    storage.delete(ref.path)
    with pytest.raises(CorruptShardError, match="is missing"):
        read_head(storage, ref, ["name"], rows)


def test_rows_that_are_long_make_more_files(storage: Storage) -> None:
    """Nobody has to hold more of a table than `FILE_BYTES` to read or to append to it."""
    blobs = pa.schema([pa.field("blob", pa.binary(), nullable=False)])
    values = [bytes([i]) * 100 for i in range(50)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tables, "FILE_BYTES", 1500)
        refs = tables.put_rows(storage, "t", pa.table({"blob": values[:40]}, schema=blobs))
        assert {ref.rows for ref in refs} <= {14, 12}
        for value in values[40:]:
            refs = append_rows(storage, "t", refs, pa.table({"blob": [value]}, schema=blobs))
    assert read_tables(storage, refs, blobs).column("blob").to_pylist() == values
    assert max(ref.rows for ref in refs) == 14


def test_a_column_without_a_value_is_not_written(storage: Storage) -> None:
    """Tables of writers that know of it are those of writers that do not, to the byte."""
    newer = pa.schema([*SCHEMA, pa.field("blob", pa.binary())])
    (old,) = append_rows(storage, "t", (), a_table(["x", "y"]))
    nothing = pa.table({"name": ["x", "y"], "blob": [None, None]}, schema=newer)
    assert append_rows(storage, "t", (), nothing) == (old,)
    some = pa.table({"name": ["z"], "blob": [b"1"]}, schema=newer)
    both = append_rows(storage, "t", (old,), some)
    assert read_tables(storage, both, newer).column("blob").to_pylist() == [None, None, b"1"]
    assert read_tables(storage, both, SCHEMA).column("name").to_pylist() == ["x", "y", "z"]
    assert read_tables(storage, (old,), newer, ["blob"]).column("blob").to_pylist() == [None] * 2
