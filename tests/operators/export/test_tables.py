"""Parquet and Hugging Face exports, against the samples as they were stored."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.operators.export.conftest import Made

from tokenmill.export import export, open_exporter
from tokenmill.export.samples import plain_schema
from tokenmill.shards.columns import decode_stream, widen_bfloat16
from tokenmill_schemas.errors import JobError
from tokenmill_schemas.tokens import spec_from_json

HIDDEN = ((0, 3), (0, 20), (1, 0))
SHOWN = [row for row in range(29) if row not in (3, 20, 21)]


def wanted(made: Made, name: str) -> list[Any]:
    """A stream's arrays as they were stored, bfloat16 widened, of the rows in `SHOWN`."""
    stream = made.layout.spec[name]
    found: list[Any] = []
    for batch in made.batches:
        found += list(decode_stream(batch, stream, made.layout.packing))
    arrays = [found[row] for row in SHOWN]
    return [widen_bfloat16(a) if stream.dtype == "bfloat16" else a for a in arrays]


def plain(value: Any) -> Any:
    """A value whose NaNs are equal to each other."""
    return "nan" if isinstance(value, float) and math.isnan(value) else value


def check_rows(table: pa.Table, made: Made) -> None:
    """All tokens and companions of a table are those of the rows in `SHOWN`, in order."""
    for stream in made.layout.spec.streams:
        flat = table[stream.name].to_pylist()
        shapes = (
            [stream.shape] * len(flat)
            if stream.is_fixed
            else table[f"{stream.name}.shape"].to_pylist()
        )
        expected = wanted(made, stream.name)
        assert len(flat) == len(expected)
        for values, shape, array in zip(flat, shapes, expected, strict=True):
            assert tuple(shape) == array.shape
            np.testing.assert_array_equal(np.array(values, array.dtype).reshape(shape), array)
    stored = made.table().take(SHOWN)
    for name in ("sample_id", "asset_key", *made.layout.extras.names):
        got = [plain(v) for v in table[name].to_pylist()]
        assert got == [plain(v) for v in stored[name].to_pylist()], name


def test_parquet_has_every_shown_sample_and_the_spec(made: Made, tmp_path: Path) -> None:
    """Streams of every kind are unpacked to lists; what was taken down is not there."""
    made.take_down(*HIDDEN)
    done = export(made.store.at(), "parquet", str(tmp_path / "out"))
    table = pq.read_table(tmp_path / "out" / "part-00000.parquet")
    assert done.samples == table.num_rows == len(SHOWN)
    check_rows(table, made)
    assert table.schema.equals(plain_schema(made.layout), check_metadata=False)
    metadata = {k.decode(): v.decode() for k, v in table.schema.metadata.items()}
    assert spec_from_json(json.loads(metadata["tokenmill.spec"])) == made.layout.spec
    assert metadata["tokenmill.fingerprint"] == made.store.snapshot().fingerprint
    assert metadata["tokenmill.content_id"] == made.store.snapshot().content_id


def test_files_are_cut_at_the_limit(made: Made, tmp_path: Path) -> None:
    """Rows stay in order over files, which are numbered."""
    made.take_down(*HIDDEN)
    out = tmp_path / "out"
    done = export(made.store.at(), open_exporter("parquet", {"file_bytes": 2000}), str(out))
    files = sorted(out.glob("part-*.parquet"))
    assert done.files == len(files) > 2
    tables = [pq.read_table(file) for file in files]
    check_rows(pa.concat_tables(tables), made)
    assert [path.name for path in files] == [f"part-{i:05d}.parquet" for i in range(len(files))]


def yaml(text: str) -> Any:
    """The head of a card, read with the YAML library that others would use."""
    return pytest.importorskip("yaml").safe_load(text.split("---\n")[1])


def test_a_card_says_what_the_files_hold(made: Made, tmp_path: Path) -> None:
    """Features, counts and the split's files stand in the head of the card."""
    made.take_down(*HIDDEN)
    out = tmp_path / "out"
    done = export(made.store.at(), open_exporter("huggingface", {"split": "validation"}), str(out))
    table = pq.read_table(out / "data" / "validation-00000.parquet")
    check_rows(table, made)
    card = (out / "README.md").read_text()
    head = yaml(card)
    info = head["dataset_info"]
    split = {"split": "validation", "path": "data/validation-*"}
    assert head["configs"] == [{"config_name": "default", "data_files": [split]}]
    assert info["splits"][0]["num_examples"] == done.samples == len(SHOWN)
    assert info["splits"][0]["name"] == "validation"
    features = {entry.pop("name"): entry for entry in info["features"]}
    assert list(features) == table.schema.names
    assert features["image"] == {"sequence": {"dtype": "uint16"}, "length": 12}
    assert features["latent"] == {"sequence": {"dtype": "float16"}, "length": 8}
    assert features["mesh"] == {"sequence": {"dtype": "uint8"}}
    assert features["score"] == {"dtype": "float32"}
    assert features["taken"] == {"dtype": "timestamp[us]"}
    assert "| image | index | 4 x 3 | uint16 | 1024 |" in card
    assert "| mesh | index | any x 3 | uint8 | 128 |" in card


def test_nested_columns_are_features(tmp_path: Path) -> None:
    """Structs, lists of structs and lists of lists are told; what has no feature is refused."""
    from tokenmill.export.huggingface import _features

    pair = pa.struct([("a", pa.int32()), ("b c", pa.list_(pa.float64()))])
    kinds = {"one": pair, "many": pa.list_(pair), "deep": pa.list_(pa.list_(pa.bool_(), 2))}
    text = "\n".join(_features(pa.schema(kinds)))
    read = yaml(f"---\n{text}\n---\n")
    struct = [
        {"name": "a", "dtype": "int32"},
        {"name": "b c", "sequence": {"dtype": "float64"}},
    ]
    assert read == [
        {"name": "one", "struct": struct},
        {"name": "many", "list": struct},
        {"name": "deep", "sequence": {"sequence": {"dtype": "bool"}, "length": 2}},
    ]
    with pytest.raises(JobError, match=r"'m': map<string, int8> is no feature"):
        list(_features(pa.schema({"m": pa.map_(pa.string(), pa.int8())})))


def test_datasets_opens_the_folder(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hugging Face's own library reads it, and finds the counts that the card claims."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    datasets = pytest.importorskip("datasets", reason="needs Hugging Face datasets")
    made.take_down(*HIDDEN)
    export(made.store.at(), "huggingface", str(tmp_path / "out"))
    found = datasets.load_dataset(
        str(tmp_path / "out"), cache_dir=str(tmp_path / "cache"), verification_mode="all_checks"
    )["train"]
    check_rows(found.data.table, made)
    assert os.environ["HF_HUB_OFFLINE"] == "1"


@pytest.mark.parametrize("split", ["", "a/b", "tr ain", "../x"])
def test_a_split_has_a_plain_name(made: Made, tmp_path: Path, split: str) -> None:
    """It becomes part of a path and of YAML."""
    with pytest.raises(JobError, match=r"format.split: .* is no name of a split"):
        export(
            made.store.at(), open_exporter("huggingface", {"split": split}), str(tmp_path / "out")
        )
