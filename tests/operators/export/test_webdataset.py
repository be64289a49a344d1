"""WebDataset exports and their indexes, read back with tarfile, webdataset and sqlite."""

from __future__ import annotations

import io
import json
import sqlite3
import tarfile
import uuid
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.operators.export.conftest import Made
from tests.operators.export.test_tables import HIDDEN, SHOWN, plain, wanted

from tokenmill.export import export, open_exporter
from tokenmill.export.indexes import Member, dali_index, energon_index
from tokenmill_schemas.arrow import ShardLayout
from tokenmill_schemas.errors import JobError
from tokenmill_schemas.tokens import Axis, Stream, TokenSpec

SMALL = {"file_bytes": 64 * 1024}


@pytest.fixture
def out(made: Made, tmp_path: Path) -> Path:
    """The export of a store of which three samples are hidden, in tars of a few samples each."""
    made.take_down(*HIDDEN)
    done = export(made.store.at(), open_exporter("webdataset", SMALL), str(tmp_path / "out"))
    assert done.samples == len(SHOWN)
    return tmp_path / "out"


def tars(out: Path) -> list[Path]:
    """The tars of an export, in order; more than one."""
    found = sorted(out.glob("*.tar"))
    assert len(found) > 2
    return found


def samples(path: Path) -> Iterator[list[tarfile.TarInfo]]:
    """The members of each sample: neighbours whose names agree up to the first dot."""
    group: list[tarfile.TarInfo] = []
    with tarfile.open(path) as tar:
        for member in tar:
            assert member.isreg()
            if group and group[0].name.split(".")[0] != member.name.split(".")[0]:
                yield group
                group = []
            group.append(member)
    yield group


def test_every_shown_sample_is_a_group_of_members(made: Made, out: Path) -> None:
    """One .npy for each stream as it was encoded, one .json with all companions; keys count on."""
    rows = 0
    expected = {s.name: wanted(made, s.name) for s in made.layout.spec.streams}
    stored = made.table().take(SHOWN).to_pylist()
    for path in tars(out):
        assert path.stat().st_size <= SMALL["file_bytes"]
        with tarfile.open(path) as tar:
            for group in samples(path):
                files = {m.name: tar.extractfile(m).read() for m in group}  # type: ignore[union-attr]
                key = f"{rows:09d}"
                document = json.loads(files.pop(f"{key}.json"))
                assert set(files) == {f"{key}.{name}.npy" for name in expected}
                for name, arrays in expected.items():
                    got = np.load(io.BytesIO(files[f"{key}.{name}.npy"]), allow_pickle=False)
                    assert got.dtype == arrays[rows].dtype
                    np.testing.assert_array_equal(got, arrays[rows])
                assert set(document) == {"sample_id", "asset_key", *made.layout.extras.names}
                for name in ("sample_id", "view.flip", "caption", "count", "tags", "view.size"):
                    assert plain(document[name]) == plain(stored[rows][name])
                rows += 1
    assert rows == len(SHOWN)


def test_plain_webdataset_reads_it(made: Made, out: Path) -> None:
    """Its safe decoders suffice; the order is the version's."""
    webdataset = pytest.importorskip("webdataset")
    urls = [str(path) for path in tars(out)]
    found = list(webdataset.WebDataset(urls, shardshuffle=False, empty_check=False).decode())
    ids = made.table()["sample_id"].take(SHOWN).to_pylist()
    assert [sample["json"]["sample_id"] for sample in found] == ids
    np.testing.assert_array_equal(
        np.stack([s["image.npy"] for s in found]), np.stack(wanted(made, "image"))
    )


def test_energons_index_points_at_samples(out: Path) -> None:
    """8 little-endian bytes a sample, the header of its first member, then the archive's end."""
    for path in tars(out):
        offsets = np.frombuffer(path.with_suffix(".tar.idx").read_bytes(), "<u8").tolist()
        groups = list(samples(path))
        assert offsets[:-1] == [group[0].offset for group in groups]
        with tarfile.open(path) as tar:
            tar.getmembers()
            # Where tarfile stops after the last member is what Energon's own indexer writes last.
            assert offsets[-1] == tar.offset
        data = path.read_bytes()
        assert data[offsets[-1] :] == bytes(1024)
        for start, stop, group in zip(offsets[:-1], offsets[1:], groups, strict=True):
            with tarfile.open(fileobj=io.BytesIO(data[start:stop] + bytes(1024))) as part:
                assert part.getnames() == [member.name for member in group]


def test_dalis_index_points_at_data(out: Path) -> None:
    """A line a sample: extension, offset, size and name of every member, as wds2idx 1.2 writes."""
    for path in tars(out):
        groups = list(samples(path))
        lines = [f"v1.2 {len(groups)}"]
        for group in groups:
            words = [f"{m.name.split('.', 1)[1]} {m.offset_data} {m.size} {m.name}" for m in group]
            lines.append(" ".join(words))
        text = "\n".join(lines) + "\n"
        assert path.with_suffix(".idx").read_bytes() == text.encode()


def test_energons_metadata_counts_and_finds_every_sample(made: Made, out: Path) -> None:
    """.info counts, split.yaml lists, index.sqlite locates; all documents are JSON, so YAML."""
    meta = out / ".nv-meta"
    names = [path.name for path in tars(out)]
    counts = [len(list(samples(path))) for path in tars(out)]
    info = json.loads((meta / ".info.json").read_text())
    assert info["shard_counts"] == dict(zip(names, counts, strict=True))
    assert (meta / ".info.yaml").read_bytes() == (meta / ".info.json").read_bytes()
    split = json.loads((meta / "split.yaml").read_text())
    assert split == {"split_parts": {"train": names, "val": [], "test": []}, "exclude": []}
    kind = json.loads((meta / "dataset.yaml").read_text())
    assert kind == {"__module__": "megatron.energon", "__class__": "CrudeWebdataset"}
    uuid.UUID((meta / "index.uuid").read_text())
    with closing(sqlite3.connect(meta / "index.sqlite")) as database:
        rows = database.execute("SELECT * FROM samples ORDER BY sample_key").fetchall()
        parts = database.execute(
            "SELECT * FROM sample_parts ORDER BY tar_file_id, sample_index, content_byte_offset"
        ).fetchall()
    want_rows, want_parts = [], []
    for tar, path in enumerate(tars(out)):
        ends = np.frombuffer(path.with_suffix(".tar.idx").read_bytes(), "<u8").tolist()
        for index, group in enumerate(samples(path)):
            key = group[0].name.split(".")[0]
            want_rows.append((tar, key, index, ends[index], ends[index + 1] - ends[index]))
            for member in group:
                part = member.name.split(".", 1)[1]
                want_parts.append((tar, index, part, member.offset_data, member.size))
    assert rows == want_rows
    assert parts == want_parts
    facts = json.loads((out / "tokenmill.json").read_text())
    assert facts["spec"] == made.layout.spec.to_json()
    assert facts["content_id"] == made.store.snapshot().content_id


def test_an_export_to_another_split(made: Made, tmp_path: Path) -> None:
    """Any name goes; Energon's own three are always there."""
    export(made.store.at(), open_exporter("webdataset", {"split": "probe"}), str(tmp_path / "out"))
    split = json.loads((tmp_path / "out/.nv-meta/split.yaml").read_text())["split_parts"]
    assert split == {"train": [], "val": [], "test": [], "probe": ["shard-000000.tar"]}


def test_a_sample_larger_than_a_file_gets_one_of_its_own(made: Made, tmp_path: Path) -> None:
    """The limit never cuts a sample."""
    done = export(
        made.store.at(), open_exporter("webdataset", {"file_bytes": 1}), str(tmp_path / "o")
    )
    assert len(list((tmp_path / "o").glob("*.tar"))) == done.samples == 29


def test_indexes_of_members_without_data() -> None:
    """An empty member's data begins behind its header, and no alignment is added for it."""
    members = [Member("000.a", 0, 0), Member("000.b.c", 512, 513)]
    assert dali_index([members]) == b"v1.2 1\na 512 0 000.a b.c 1024 513 000.b.c\n"
    assert energon_index([members], 2048) == (0).to_bytes(8, "little") + (2048).to_bytes(
        8, "little"
    )


@pytest.mark.parametrize(
    ("stream", "extra", "message"),
    [
        ("json", "x", "a stream called 'json'"),
        ("Image", "x", "names of a-z"),
        ("image", None, "has no JSON form"),
    ],
)
def test_what_has_no_form_in_a_tar_is_refused(
    tmp_path: Path, stream: str, extra: Any, message: str
) -> None:
    """Before a file is published."""
    import pyarrow as pa

    spec = TokenSpec((Stream(stream, "index", (Axis("n", 2),), vocab_sizes=(9,)),))
    kind = pa.string() if extra else pa.map_(pa.string(), pa.int8())
    layout = ShardLayout(spec, "raw", pa.schema([pa.field("extra", kind)]))
    made = Made(str(tmp_path / "store"), layout=layout)
    made.add(2)
    with pytest.raises(JobError, match=message):
        export(made.store.at(), "webdataset", str(tmp_path / "out"))
    assert not list((tmp_path / "out").glob("**/*.tar"))
