"""Delta tables: read by the protocol's own rules, by deltalake, and by DuckDB through it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.operators.export.conftest import Made
from tests.operators.export.test_tables import HIDDEN, SHOWN, plain

from tokenmill.export import export
from tokenmill.export.base import Target
from tokenmill.export.delta_log import DataFile, Table, commit, read
from tokenmill.export.delta_types import delta_type, nest, nested, schema_json, statistics
from tokenmill_infra.storage import open_storage
from tokenmill_schemas.errors import ConflictError, JobError
from tokenmill_schemas.snapshot import SEGMENT_SCHEMA

DEEP = [[{"k 1": 1, "t": [2]}], None, [None, {"k 1": None, "t": None}]]
NANOSECONDS = 1_700_000_000_123_456_789


def replay(table: Path, version: int | None = None) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return metadata and live files of a version: what PROTOCOL.md says a reader does."""
    metadata: dict[str, Any] = {}
    files: dict[str, Any] = {}
    logs = sorted((table / "_delta_log").glob("*.json"))
    assert [path.name for path in logs] == [f"{n:020d}.json" for n in range(len(logs))]
    for path in logs[: None if version is None else version + 1]:
        for line in path.read_text().splitlines():
            ((kind, action),) = json.loads(line).items()
            if kind == "protocol":
                assert action == {"minReaderVersion": 1, "minWriterVersion": 2}
            elif kind == "metaData":
                metadata = action
            elif kind == "add":
                assert (table / action["path"]).stat().st_size == action["size"]
                assert action["partitionValues"] == {}
                assert action["dataChange"] is True
                files[action["path"]] = action
            elif kind == "remove":
                del files[action["path"]]
            else:
                assert kind == "commitInfo"
    return metadata, files


def rows_of(table: Path, version: int | None = None) -> pa.Table:
    """All rows of a version, by the protocol."""
    files = replay(table, version)[1]
    return pa.concat_tables([pq.read_table(table / path) for path in files])


def ids(table: pa.Table) -> set[str]:
    """The samples of a table."""
    return set(table["sample_id"].to_pylist())


def test_the_samples_table_has_every_companion_and_its_place(made: Made, tmp_path: Path) -> None:
    """Dotted names are structs; shard.path and shard.row find the tokens in the store."""
    made.take_down(*HIDDEN)
    done = export(made.store.at(), "delta", str(tmp_path / "out"))
    table = rows_of(tmp_path / "out" / "samples").sort_by("sample_id")
    stored = made.table().take(SHOWN).sort_by("sample_id")
    assert done.samples == table.num_rows == len(SHOWN)
    view = table["view"].to_pylist()
    assert [v["flip"] for v in view] == stored["view.flip"].to_pylist()
    assert [v["box"] for v in view] == stored["view.box"].to_pylist()
    for name in ("sample_id", "asset_key", "caption", "score", "count", "thumbnail", "tags"):
        wanted = [plain(value) for value in stored[name].to_pylist()]
        assert [plain(value) for value in table[name].to_pylist()] == wanted
    assert [m["shape"] for m in table["mesh"].to_pylist()] == stored["mesh.shape"].to_pylist()
    taken = [t and t.replace(tzinfo=None) for t in table["taken"].to_pylist()]
    assert taken == stored["taken"].to_pylist()
    for row in table.select(["sample_id", "shard"]).to_pylist():
        with made.store.shard(row["shard"]["path"]) as shard:
            batches = pa.Table.from_batches(shard.batches())
        assert batches["sample_id"][row["shard"]["row"]].as_py() == row["sample_id"]


def test_the_shards_table_is_the_manifest(made: Made, tmp_path: Path) -> None:
    """A row a shard, as the store says it."""
    made.add(5)
    export(made.store.at(), "delta", str(tmp_path / "out"))
    table = rows_of(tmp_path / "out" / "shards")
    names = [name for name in SEGMENT_SCHEMA.names if name != "shapes"]
    assert table.schema.names == names
    segments = made.store.segments(made.store.snapshot(), names)
    assert table.sort_by("unit_id").to_pylist() == segments.sort_by("unit_id").to_pylist()


def test_a_later_version_is_the_next_version_of_the_tables(made: Made, tmp_path: Path) -> None:
    """New shards are added, shards of which rows were hidden replaced, all others left alone."""
    out = tmp_path / "out"
    first = export(made.store.at(), "delta", str(out))
    before = replay(out / "samples")[1]
    made.add(4)
    made.take_down((1, 0))
    second = export(made.store.at(), "delta", str(out))
    assert (first.samples, second.samples) == (29, 32)
    after = replay(out / "samples")[1]
    assert len(before) == 2
    assert len(after) == 3
    assert len(before.keys() & after.keys()) == 1
    assert ids(rows_of(out / "samples", 0)) - ids(rows_of(out / "samples")) == {"s1/0.png"}
    assert second.files == 5  # two data files, the new segment and two commits
    info = json.loads((out / "samples/_delta_log" / f"{1:020d}.json").read_text().splitlines()[0])
    assert info["commitInfo"]["operationParameters"]["number"] == "2"


def test_the_same_version_again_makes_none(made: Made, tmp_path: Path) -> None:
    """Neither table moves and nothing is written."""
    out = tmp_path / "out"
    export(made.store.at(), "delta", str(out), where="view.flip")
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    again = export(made.store.at(), "delta", str(out), where="view.flip = true")
    assert (again.files, again.samples) == (0, rows_of(out / "samples").num_rows)
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before
    export(made.store.at(), "delta", str(out), where="not view.flip")
    flips = rows_of(out / "samples")["view"].to_pylist()
    assert {view["flip"] for view in flips} == {False}
    assert len(list((out / "samples" / "_delta_log").iterdir())) == 2
    assert len(list((out / "shards" / "_delta_log").iterdir())) == 1


def test_a_table_without_rows_is_a_table(made: Made, tmp_path: Path) -> None:
    """A filter that nothing passes gives a schema and no files."""
    done = export(made.store.at(), "delta", str(tmp_path / "o"), where="asset_key = 'none'")
    metadata, files = replay(tmp_path / "o" / "samples")
    assert (done.samples, files) == (0, {})
    names = [field["name"] for field in json.loads(metadata["schemaString"])["fields"]]
    assert names[:3] == ["sample_id", "asset_key", "view"]


def test_places_that_hold_something_else_are_left_alone(made: Made, tmp_path: Path) -> None:
    """Other files, other stores' tables, and tables that others have changed."""
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thing").write_bytes(b"!")
    with pytest.raises(JobError, match="holds thing, which is of no such export"):
        export(made.store.at(), "delta", str(tmp_path / "other"))
    stranger = Made(str(tmp_path / "stranger"), "raw", None)
    stranger.identity = stranger.identity.__class__(
        stranger.layout.spec, {"made": "elsewhere"}, stranger.layout, "arrow"
    )
    stranger.add(3)
    export(stranger.store.at(), "delta", str(tmp_path / "out"))
    with pytest.raises(JobError, match="is a table of other tokens or columns"):
        export(made.store.at(), "delta", str(tmp_path / "out"))
    log = tmp_path / "out" / "shards" / "_delta_log"
    (log / f"{1:020d}.json").write_text('{"protocol":{"minReaderVersion":3,"minWriterVersion":7}}')
    with pytest.raises(JobError, match="cannot continue: its protocol is"):
        export(stranger.store.at(), "delta", str(tmp_path / "out"))
    (log / f"{0:020d}.json").unlink()
    with pytest.raises(JobError, match="does not begin at version 0"):
        export(stranger.store.at(), "delta", str(tmp_path / "out"))


def test_of_two_commits_at_once_one_wins(tmp_path: Path) -> None:
    """The other one is told to export again, and the log holds one of them."""
    target = Target(open_storage(str(tmp_path)))
    facts = {"timestamp": 0}
    table = read(target, "t")
    assert table == Table("t")
    one, other = DataFile("a.parquet", 1, '{"numRecords":1}'), DataFile("b.parquet", 1, "{}")
    assert commit(target, table, [one], metadata={"id": "x"}, facts=facts) == 0
    with pytest.raises(ConflictError, match="another export made version 0 of t"):
        commit(target, table, [other], metadata={"id": "x"}, facts=facts)
    assert read(target, "t") == Table("t", 0, {"id": "x"}, {"a.parquet": 1})


def test_types_find_their_nearest_in_delta() -> None:
    """Nothing overflows; finer times are cut off; what has no type is refused."""
    inside = [("k 1", pa.uint16()), ("t", pa.list_(pa.duration("s"), 1))]
    columns = {
        "u.a": pa.array([255], pa.uint8()),
        "u.b": pa.array([2**16 - 1], pa.uint16()),
        "u.c": pa.array([2**32 - 1], pa.uint32()),
        "u.d": pa.array([2**64 - 1], pa.uint64()),
        "u.e.deep": pa.array([[2**16 - 1]], pa.list_(pa.uint16(), 1)),
        "half": pa.array([0.5], pa.float16()),
        "at": pa.array([NANOSECONDS], pa.timestamp("ns")),
        "clock": pa.array([5], pa.time64("ns")),
        "clock32": pa.array([5], pa.time32("s")),
        "span": pa.array([7], pa.duration("ms")),
        "word": pa.array(["x"], pa.large_string()),
        "four": pa.array([b"1234"], pa.binary(4)),
        "none": pa.nulls(1),
        "pair x": pa.array([{"k 1": 200}], pa.struct([("k 1", pa.uint8())])),
        "price": pa.array([None], pa.decimal128(5, 2)),
        "day": pa.array([0], pa.date64()),
        "deep": pa.array([DEEP], pa.list_(pa.large_list(pa.struct(inside)), 3)),
    }
    schema = nested([pa.field(name, column.type) for name, column in columns.items()])
    batch = pa.RecordBatch.from_arrays(nest(columns, schema), schema=schema)
    row = batch.to_pylist()[0]
    assert {k: int(v) for k, v in row["u"].items() if k in "abcd"} == {
        "a": 255,
        "b": 2**16 - 1,
        "c": 2**32 - 1,
        "d": 2**64 - 1,
    }
    assert row["u"]["e"] == {"deep": [2**16 - 1]}
    assert (row["half"], row["clock"], row["clock32"], row["span"]) == (0.5, 5, 5, 7)
    assert row["at"].timestamp() == 1_700_000_000.123456
    assert (row["word"], row["four"], row["none"], row["pair_x"]) == (
        "x",
        b"1234",
        None,
        {"k_1": 200},
    )
    deep = row["deep"]
    assert deep == [[{"k_1": 1, "t": [2]}], None, [None, {"k_1": None, "t": None}]]
    types = {field["name"]: field["type"] for field in schema_json(schema)["fields"]}
    assert types["at"] == "timestamp"
    assert types["price"] == "decimal(5,2)"
    assert types["day"] == "date"
    inner = {field["name"]: field["type"] for field in types["u"]["fields"]}
    assert (inner["a"], inner["b"], inner["c"], inner["d"]) == (
        "short",
        "integer",
        "long",
        "decimal(20,0)",
    )
    with pytest.raises(JobError, match="is no type of Delta tables"):
        delta_type("m", pa.map_(pa.string(), pa.int8()))


@pytest.mark.parametrize(
    ("names", "message"),
    [(["a", "a.b"], "beginning of another's"), (["A", "a"], "two have one name"),
     (["x y", "x_y"], "beginning of another's"), (["v.X", "v.x"], "two have one name")],
)  # fmt: skip
def test_names_that_sql_cannot_tell_apart_are_refused(names: list[str], message: str) -> None:
    """They would read each other's values."""
    with pytest.raises(JobError, match=message):
        nested([pa.field(name, pa.int8()) for name in names])


def test_statistics_never_exclude_a_row() -> None:
    """Ranges are exact or left out: with a NaN, of long texts, of nothing but nulls."""
    table = pa.table(
        {
            "n": [3, None, 1],
            "nan": [1.0, float("nan"), 2.0],
            "f": [0.5, -1.5, None],
            "s": ["b", "a", None],
            "long": ["x" * 65, "a", "b"],
            "none": pa.nulls(3, pa.int32()),
            "st": pa.array([{"x": 1, "l": [1]}, {"x": None, "l": None}, None]),
            "b": [True, None, False],
        }
    )
    found = statistics(table)
    assert found["numRecords"] == 3
    assert found["minValues"] == {"n": 1, "f": -1.5, "s": "a", "st": {"x": 1}}
    assert found["maxValues"] == {"n": 3, "f": 0.5, "s": "b", "st": {"x": 1}}
    assert found["nullCount"] == {
        "n": 1, "nan": 0, "f": 1, "s": 1, "long": 0, "none": 3, "st": {"x": 2}, "b": 1,
    }  # fmt: skip


def test_deltalake_and_duckdb_query_it(made: Made, tmp_path: Path) -> None:
    """Two versions, time travel, pruning by statistics, SQL over structs and a join."""
    deltalake = pytest.importorskip("deltalake", reason="needs deltalake")
    duckdb = pytest.importorskip("duckdb", reason="needs duckdb")
    out = tmp_path / "out"
    export(made.store.at(), "delta", str(out))
    made.add(4)
    made.take_down(*HIDDEN)
    export(made.store.at(), "delta", str(out))
    table = deltalake.DeltaTable(out / "samples")
    assert table.version() == 1
    old = deltalake.DeltaTable(out / "samples", version=0).to_pyarrow_dataset()
    new = table.to_pyarrow_dataset()
    shards = deltalake.DeltaTable(out / "shards").to_pyarrow_dataset()
    assert ids(new.to_table()) == ids(rows_of(out / "samples"))
    assert ids(old.to_table()) == ids(rows_of(out / "samples", 0))
    connection = duckdb.connect()
    for name, dataset in (("new", new), ("old", old), ("shards", shards)):
        connection.register(name, dataset)
    count = "select count(*) from {} where view.flip and asset_key >= 'a0/' and asset_key < 'a1/'"
    flips = [row % 3 == 0 for row in range(21)]
    assert connection.sql(count.format("old")).fetchall() == [(sum(flips),)]
    shown = [flip for row, flip in enumerate(flips) if row not in (3, 20)]
    assert connection.sql(count.format("new")).fetchall() == [(sum(shown),)]
    joined = (
        "select s.unit_id, count(*), s.samples from new n join shards s on n.shard.path = s.path "
        "group by all order by 1"
    )
    rows = connection.sql(joined).fetchall()
    assert [(made_, of) for _, made_, of in rows] == [(19, 21), (7, 8), (4, 4)]
