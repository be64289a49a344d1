import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenmill_infra.storage import open_ranges, open_storage, ranges
from tokenmill_infra.storage.ranges import AheadReads, RangeFile

DATA = bytes(range(256)) * 4


class Counted:
    """A file of some size, and the ranges that were asked of it."""

    def __init__(self, size: int) -> None:
        self.data = np.arange(size // 4 + 1, dtype=np.uint32).tobytes()[:size]
        self.asked: list[tuple[int, int]] = []

    def __call__(self, start: int, stop: int) -> bytes:
        """Return a range."""
        self.asked.append((start, stop))
        return self.data[start:stop]


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


@given(
    st.integers(1, 1000),
    st.lists(st.tuples(st.integers(0, 1000), st.integers(0, 300)), max_size=12),
    st.tuples(st.integers(1, 50), st.integers(50, 400), st.integers(1, 100)),
)
def test_reading_ahead_changes_no_byte(
    size: int, steps: list[tuple[int, int]], limits: tuple[int, int, int]
) -> None:
    """In any order of reads, and over the border of the end that was fetched first."""
    file = Counted(size)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in zip(("AHEAD", "MOST_AHEAD", "NEAR"), limits, strict=True):
            patch.setattr(ranges, f"{name}_BYTES", value)
        stream = RangeFile(AheadReads(file, size), size)
        for start, count in steps:
            stream.seek(start)
            assert stream.read(count) == file.data[start : start + count]
    assert all(0 <= start < stop <= size for start, stop in file.asked)


@pytest.mark.parametrize(("gap", "most"), [(200_000, 10), (2_000_000, 33)])
def test_parts_in_order_are_few_requests(gap: int, most: int) -> None:
    """Near each other they are read in large pieces, far from each other by themselves."""
    size = 16_000_000
    file = Counted(size)
    reads = AheadReads(file, size)
    assert reads(size - 10, size) == file.data[-10:]
    for start in range(0, size - gap, gap):
        for part in (start, start + 1000, start + 9000):
            assert reads(part, part + 500) == file.data[part : part + 500]
    assert len(file.asked) <= most
    fetched = sum(stop - start for start, stop in file.asked)
    assert fetched < (size + 2**22 if gap < 10**6 else size // 16)


@pytest.mark.parametrize("uri", ["memory://none", "local"])
def test_a_missing_file_is_said_at_once(uri: str, tmp_path: Path) -> None:
    """Opening what is not there raises, on a disk and elsewhere."""
    storage = open_storage(str(tmp_path) if uri == "local" else uri)
    with pytest.raises(FileNotFoundError):
        open_ranges(storage, "nothing")
    assert storage.size("nothing") is None
