import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenmill_infra.storage import open_ranges, open_storage
from tokenmill_infra.storage.ranges import RangeFile

DATA = bytes(range(256)) * 4


@given(st.lists(st.tuples(st.integers(0, 1100), st.integers(0, 300)), max_size=8))
def test_any_seeks_and_reads_give_the_files_bytes(steps: list[tuple[int, int]]) -> None:
    """Reading through ranges is reading the file, past its end too."""
    storage = open_storage("memory://ranges")
    if not storage.exists("file"):
        storage.create("file", DATA)
    stream = RangeFile(lambda start, stop: storage.read("file", start, stop), len(DATA))
    for start, count in steps:
        assert stream.seek(start) == start
        assert stream.read(count) == DATA[start : start + count]
        assert stream.tell() == min(start + count, max(start, len(DATA)))
    assert stream.seek(-4, os.SEEK_END) == len(DATA) - 4
    assert stream.readall() == DATA[-4:]


@pytest.mark.parametrize("uri", ["memory://none", "local"])
def test_a_missing_file_is_said_at_once(uri: str, tmp_path: Path) -> None:
    """Opening what is not there raises, on a disk and elsewhere."""
    storage = open_storage(str(tmp_path) if uri == "local" else uri)
    with pytest.raises(FileNotFoundError):
        open_ranges(storage, "nothing")
    assert storage.size("nothing") is None
