"""MDS and LitData, which only their own libraries write."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any, Self

import numpy as np
import pytest
from tests.operators.export.conftest import Made
from tests.operators.export.test_tables import HIDDEN, SHOWN, wanted

from tokenmill.export import export, open_exporter
from tokenmill.testing.shards import EXTRAS, SPEC
from tokenmill_schemas.arrow import ShardLayout
from tokenmill_schemas.errors import JobError
from tokenmill_schemas.tokens import TokenSpec

FIXED = TokenSpec(tuple(stream for stream in SPEC.streams if stream.is_fixed))


@pytest.mark.parametrize(
    ("name", "module", "message"),
    [
        ("mds", "streaming", "format: mds needs the library mosaicml-streaming"),
        ("litdata", "litdata.streaming.writer", "format: litdata needs the library litdata"),
    ],
)
def test_without_its_library_a_format_says_what_it_needs(
    made: Made, tmp_path: Path, name: str, module: str, message: str
) -> None:
    """And writes nothing."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, module, None)
        with pytest.raises(JobError, match=message):
            export(made.store.at(), name, str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


class Writer:
    """What MDSWriter does to samples, as its documentation says: types and shapes are held."""

    def __init__(self, *, out: str, columns: dict[str, str], size_limit: int) -> None:
        self.out, self.columns, self.size_limit = Path(out), columns, size_limit
        self.samples: list[dict[str, Any]] = []
        self.out.mkdir()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            (self.out / "index.json").write_text(json.dumps(self.columns))
            (self.out / "shard.00000.mds").write_bytes(b"shard")

    def write(self, sample: dict[str, Any]) -> None:
        """Take a sample whose columns are those that were said."""
        assert sample.keys() == self.columns.keys()
        for name, encoding in self.columns.items():
            kind, *how = encoding.split(":")
            if kind == "ndarray":
                assert sample[name].dtype.name == how[0]
                shape = tuple(map(int, how[1].split(","))) if how[1:] else sample[name].shape
                assert sample[name].shape == shape
            else:
                assert kind == "json"
                json.dumps(sample[name])
        self.samples.append(sample)


@pytest.fixture
def writers(monkeypatch: pytest.MonkeyPatch) -> list[Writer]:
    """Stand-ins for the library's writers, in the order they were made."""
    made: list[Writer] = []
    module = ModuleType("streaming")

    def make(**options: Any) -> Writer:
        made.append(Writer(**options))
        return made[-1]

    module.MDSWriter = make  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "streaming", module)
    return made


def test_mds_gets_arrays_of_the_types_it_was_told(tmp_path: Path, writers: list[Writer]) -> None:
    """Fixed streams with their shape; all companions as one JSON column; the index comes last."""
    made = Made(str(tmp_path / "store"), layout=ShardLayout(FIXED, "bits", EXTRAS))
    made.add(21, 8)
    made.take_down(*HIDDEN)
    done = export(made.store.at(), open_exporter("mds", {"file_bytes": 999}), str(tmp_path / "out"))
    (writer,) = writers
    assert (done.samples, done.files, writer.size_limit) == (len(SHOWN), 2, 999)
    assert writer.columns["image"] == "ndarray:uint16:4,3"
    assert writer.columns["code"] == "ndarray:uint8:2,2,18"
    assert writer.columns["brain"] == "ndarray:float32:2,3"
    for stream in FIXED.streams:
        got = np.stack([sample[stream.name] for sample in writer.samples])
        np.testing.assert_array_equal(got, np.stack(wanted(made, stream.name)))
    ids = [sample["json"]["sample_id"] for sample in writer.samples]
    assert ids == made.table()["sample_id"].take(SHOWN).to_pylist()
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["index.json", "shard.00000.mds"]


def test_mds_has_no_empty_arrays(made: Made, tmp_path: Path, writers: list[Writer]) -> None:
    """Its encoding refuses them, so the export says which sample has one."""
    with pytest.raises(JobError, match=r"MDS stores no empty arrays: mesh of .*asset_key"):
        export(made.store.at(), "mds", str(tmp_path / "out"))
    assert writers[0].columns["mesh"] == "ndarray:uint8"


def test_litdata_reads_what_it_wrote(made: Made, tmp_path: Path) -> None:
    """Arrays of every kind and the companions' JSON; the same version gives the same bytes."""
    litdata = pytest.importorskip("litdata", reason="needs litdata")
    made.take_down(*HIDDEN)
    folders = [tmp_path / "one", tmp_path / "two"]
    for folder in folders:
        export(made.store.at(), open_exporter("litdata", {"file_bytes": 5000}), str(folder))
    files = [{path.name: path.read_bytes() for path in folder.iterdir()} for folder in folders]
    assert files[0] == files[1]
    assert len(files[0]) > 2
    dataset = litdata.StreamingDataset(str(folders[0]))
    rows = [dataset[index] for index in range(len(dataset))]
    for stream in made.layout.spec.streams:
        for row, array in zip(rows, wanted(made, stream.name), strict=True):
            np.testing.assert_array_equal(row[stream.name], array)
    ids = [json.loads(row["json"])["sample_id"] for row in rows]
    assert ids == made.table()["sample_id"].take(SHOWN).to_pylist()
