"""Exports with column groups: streams and columns that were added to samples later."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.operators.export.conftest import Made
from tests.operators.export.test_delta import ids, rows_of

from tokenmill.export import export
from tokenmill.shards.columns import encode_streams
from tokenmill.store.groups import GroupInput, add_group, from_table
from tokenmill_schemas.arrow import ShardLayout
from tokenmill_schemas.errors import JobError
from tokenmill_schemas.tokens import Axis, Stream, TokenSpec

#: Raw tokens beside packed ones.
SECOND = Stream("second", "index", (Axis("n", 3),), vocab_sizes=(300,))
TOKENS = np.arange(12).reshape(4, 3)
SAMPLES = ["s0/0.png", "s0/5.png", "s0/20.png", "s1/7.png"]


@pytest.fixture
def grouped(made: Made) -> Made:
    """A store with a score for some samples and a second tokenizer's stream for others."""
    scores = {"sample_id": [*SAMPLES[1:], "s0/9.png"], "quality": [1.0, 2.0, 3.0, 4.0]}
    add_group(made.store, "scores", from_table(pa.table(scores)))
    layout = ShardLayout(TokenSpec((SECOND,)), "raw", pa.schema([]))

    def read() -> Iterator[pa.RecordBatch]:
        (column,) = encode_streams(layout, {"second": TOKENS})
        yield pa.RecordBatch.from_arrays([pa.array(SAMPLES), column], ["sample_id", "second"])

    add_group(made.store, "second", GroupInput(layout, "sample_id", read, {"made": "later"}))
    return made


def test_a_group_adds_its_streams_and_columns(grouped: Made, tmp_path: Path) -> None:
    """Only samples that have values in every group are there; filters may ask for its columns."""
    version = grouped.store.at()
    export(version, "parquet", str(tmp_path / "both"), groups=["scores", "second"])
    both = pq.read_table(tmp_path / "both")
    assert both["sample_id"].to_pylist() == SAMPLES[1:]
    assert both["quality"].to_pylist() == [1.0, 2.0, 3.0]
    assert both["second"].to_pylist() == TOKENS[1:].tolist()
    assert b'"second"' in both.schema.metadata[b"tokenmill.spec"]
    assert not [name for name in both.schema.names if name.endswith(".present")]
    done = export(
        version, "webdataset", str(tmp_path / "good"), groups=["scores"], where="quality > 2.5"
    )
    assert done.samples == 2
    assert export(version, "parquet", str(tmp_path / "plain")).samples == 29


def test_a_delta_table_shows_groups(grouped: Made, tmp_path: Path) -> None:
    """Its columns are the table's; a table without them is another one."""
    out = tmp_path / "out"
    export(grouped.store.at(), "delta", str(out), groups=["scores"])
    table = rows_of(out / "samples")
    assert ids(table) == {*SAMPLES[1:], "s0/9.png"}
    assert sorted(table["quality"].to_pylist()) == [1.0, 2.0, 3.0, 4.0]
    assert export(grouped.store.at(), "delta", str(out), groups=["scores"]).files == 0
    with pytest.raises(JobError, match="other tokens or columns"):
        export(grouped.store.at(), "delta", str(out))


def test_an_unknown_group_is_refused(grouped: Made, tmp_path: Path) -> None:
    """With the nearest name."""
    with pytest.raises(JobError, match=r"no column group 'score'; did you mean 'scores'\?"):
        export(grouped.store.at(), "parquet", str(tmp_path / "out"), groups=["score"])
    with pytest.raises(JobError, match="unknown column quality"):
        export(grouped.store.at(), "parquet", str(tmp_path / "out"), where="quality > 1")
    assert not (tmp_path / "out").exists()
