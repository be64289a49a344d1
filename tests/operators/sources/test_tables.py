import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tokenmill.plugins import open_operator
from tokenmill.sources.jsonl import JsonlSource
from tokenmill.sources.parquet import ParquetSource
from tokenmill.testing.sources import check_source
from tokenmill_schemas.asset import AssetRef
from tokenmill_schemas.errors import AssetError, JobError, Reason

ROWS: list[dict[str, Any]] = [
    {"uri": "img/0.jpg", "caption": "a cat", "score": 1, "ok": True, "tags": ["x"]},
    {"uri": "img/1.jpg", "caption": None, "score": 0.5, "ok": None, "tags": None},
    {"uri": "img/gone.jpg", "caption": "gone", "score": None, "ok": False, "tags": []},
]
GONE = frozenset({"img/gone.jpg"})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two pictures, and room for a listing that names three."""
    (tmp_path / "img").mkdir()
    for number in range(2):
        (tmp_path / "img" / f"{number}.jpg").write_bytes(b"x" * (number + 1))
    return tmp_path


def _jsonl(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("\n".join(json.dumps(row) for row in rows) + "\n\n")
    return str(path)


def test_jsonl_types_are_inferred_over_all_lines(folder: Path) -> None:
    """Numbers widen to float, lists are JSON text, nulls stay; a missing file is an asset too."""
    url = _jsonl(folder / "list.jsonl", ROWS)
    source = JsonlSource((url,), columns=("caption", "score", "ok", "tags"))
    refs = check_source(source, bad=GONE)
    assert source.companions().types == [pa.string(), pa.float64(), pa.bool_(), pa.string()]
    assert [r.size_bytes for r in refs] == [1, 2, -1]
    assert refs[0].columns == {"caption": "a cat", "score": 1.0, "ok": True, "tags": '["x"]'}
    assert refs[1].columns == {"caption": None, "score": 0.5, "ok": None, "tags": None}


def test_jsonl_faults_name_the_line_or_the_column(folder: Path) -> None:
    """A line that is no object, and a column of two types."""
    rows: list[dict[str, Any]] = [{"uri": "a", "n": 1}, {"uri": "b", "n": "one"}]
    mixed = _jsonl(folder / "mixed.jsonl", rows)
    with pytest.raises(JobError, match=r"source\.types\.n: .* line 2"):
        JsonlSource((mixed,), columns=("n",)).companions()
    with pytest.raises(JobError, match=r"source\.types\.n"):
        list(JsonlSource((mixed,), columns=("n",), types={"n": "int"}).list())
    (folder / "bad.jsonl").write_text('{"uri": "a"}\n{"uri": \n')
    with pytest.raises(JobError, match="line 2"):
        list(JsonlSource((str(folder / "bad.jsonl"),)).list())


def test_jsonl_base_key_and_null_uris(folder: Path) -> None:
    """``base`` replaces the listing's folder; a row without uri is listed and not found."""
    (folder / "lists").mkdir()
    rows: list[dict[str, Any]] = [{"uri": "0.jpg", "id": "cat"}, {"uri": None, "id": None}]
    url = _jsonl(folder / "lists" / "l.jsonl", rows)
    source = JsonlSource((url,), key="id", base=str(folder / "img"))
    refs = check_source(source, bad=frozenset({"l#2"}))
    assert [r.key for r in refs] == ["cat", "l#2"]


def test_parquet_uris_carry_typed_companions(folder: Path) -> None:
    """Arrow types as they are, nulls kept, relative uris below the listing."""
    table = pa.table(
        {
            "uri": [row["uri"] for row in ROWS],
            "caption": [row["caption"] for row in ROWS],
            "label": pa.array([3, None, 4], pa.int16()),
        }
    )
    pq.write_table(table, folder / "list.parquet")
    source = ParquetSource((f"{folder}/*.parquet",), columns=("label", "caption"))
    refs = check_source(source, bad=GONE)
    assert source.companions().types == [pa.int16(), pa.string()]
    assert refs[1].columns == {"label": None, "caption": None}
    with pytest.raises(JobError, match=r"^source\.columns: .* has no column 'nope'"):
        ParquetSource((f"{folder}/*.parquet",), columns=("nope",)).companions()


@pytest.mark.parametrize("option", ["uri", "key", "size", "version", "bytes"])
def test_a_missing_column_is_named_by_the_option_that_asks_for_it(
    folder: Path, option: str
) -> None:
    """The path is the key of the job that is to be mended."""
    pq.write_table(pa.table({"uri": ["0.jpg"]}), folder / "list.parquet")
    options = {"urls": [f"{folder}/*.parquet"], option: "nope"}
    with pytest.raises(JobError, match="has no column 'nope'") as caught:
        open_operator("tokenmill.sources", "parquet", options, path="source").companions()
    assert caught.value.path == f"source.{option}"


@pytest.mark.parametrize("column", ["image", "image.bytes"])
def test_parquet_bytes_come_back_in_any_order(tmp_path: Path, column: str) -> None:
    """Each row's own bytes over row groups, forwards and backwards; a null row is not found."""
    data: list[bytes | None] = [bytes([i % 251]) * (i + 1) for i in range(500)]
    data[7] = None
    values = data if column == "image" else [{"bytes": d, "path": "p"} for d in data]
    pq.write_table(pa.table({"image": values}), tmp_path / "t.parquet", row_group_size=150)
    source = ParquetSource((str(tmp_path / "t.parquet"),), bytes=column)
    refs = check_source(source, bad=frozenset({"t#7"}))
    assert len(refs) == 500
    for row in (499, 0, 160, 149, 150, 3):
        assert source.open(refs[row]).read() == data[row]
    with pytest.raises(AssetError) as caught:
        source.open(AssetRef("k", str(tmp_path / "none.parquet"), "row=0"))
    assert caught.value.reason == Reason.NOT_FOUND


def test_a_file_that_is_not_parquet_is_the_jobs_fault(tmp_path: Path) -> None:
    """Said with its name."""
    (tmp_path / "x.parquet").write_bytes(b"not")
    with pytest.raises(JobError, match="is not Parquet"):
        ParquetSource((str(tmp_path / "x.parquet"),)).companions()
