from pathlib import Path

import numpy as np
import pytest

from tokenmill.shards.columns import decode_stream
from tokenmill.shards.webdataset import WebDatasetFormat
from tokenmill.testing.shards import sample_batch, sample_layout

wds = pytest.importorskip("webdataset")


def test_plain_webdataset_reads_a_tar_shard_with_its_safe_decoders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One sample per row: arrays from ``.npy``, companion values from ``.json``, no pickle."""
    monkeypatch.setattr("pickle.loads", lambda *_: pytest.fail("something was unpickled"))
    monkeypatch.setattr("pickle.load", lambda *_: pytest.fail("something was unpickled"))
    layout = sample_layout("raw")
    batch = sample_batch(layout, 11)
    path = tmp_path / "shard.tar"
    writer = WebDatasetFormat().writer(path, layout, batch_rows=4)
    writer.write(batch)
    writer.close()
    samples = list(wds.WebDataset(str(path), shardshuffle=False).decode())
    assert [s["__key__"] for s in samples] == [f"{row:09d}" for row in range(11)]
    assert [s["json"]["sample_id"] for s in samples] == batch.column("sample_id").to_pylist()
    assert [s["json"]["caption"] for s in samples] == batch.column("caption").to_pylist()
    for stream in layout.spec.streams:
        if stream.kind == "bits":  # packed: bytes, as FORMAT.md says
            packed = [s[f"{stream.name}.npy"].tobytes() for s in samples]
            assert packed == batch.column(stream.name).to_pylist()
            continue
        wanted = decode_stream(batch, stream, "raw")
        for sample, want in zip(samples, wanted, strict=True):
            got = sample[f"{stream.name}.npy"]
            assert got.dtype == want.dtype
            assert np.array_equal(got, want)
