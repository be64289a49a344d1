"""A reader of whole stores made of pyarrow and the words of schemas/FORMAT.md alone."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tokenmill_infra.observe import SilentObserver
from tokenmill_pipelines.jobs import run_job
from tokenmill_schemas.job import read_job

JOB = Path(__file__).parents[2] / "pipelines" / "jobs" / "tiny.toml"


def canonical(value: Any) -> bytes:
    """Canonical JSON: UTF-8, sorted keys, no spaces."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def checked(root: Path, ref: dict[str, Any]) -> pa.Table:
    """A Parquet file that a snapshot names, after comparing its hash."""
    data = (root / ref["path"]).read_bytes()
    assert (hashlib.sha256(data).hexdigest(), len(data)) == (ref["sha256"], ref["bytes"])
    return pq.read_table(pa.BufferReader(data))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's store."""
    root = tmp_path_factory.mktemp("compat") / "store"
    overrides = (f"store.uri={root}", "cluster.backend=local")
    run_job(read_job(JOB, overrides=overrides), observer=SilentObserver())
    return root


def test_the_format_page_is_enough_to_read_a_store(store: Path) -> None:
    """From the log to every row, with all hashes, and the ledger, without this library."""
    newest = max((store / "_log").iterdir())
    snapshot = json.loads(newest.read_bytes())
    assert newest.read_bytes() == canonical(snapshot) + b"\n"
    assert newest.stem == f"{snapshot['number']:020d}"
    parts = canonical(snapshot["fingerprint_parts"])
    assert hashlib.sha256(parts).hexdigest() == snapshot["fingerprint"]
    content = {key: snapshot[key] for key in ("spec", "fingerprint", "layout")}
    for key in ("segments", "rejects", "plans", "tombstones"):
        content[key] = [ref["sha256"] for ref in snapshot[key]]
    assert hashlib.sha256(canonical(content)).hexdigest() == snapshot["content_id"]
    keys: set[str] = set()
    for shard in (s for ref in snapshot["segments"] for s in checked(store, ref).to_pylist()):
        data = (store / shard["path"]).read_bytes()
        assert hashlib.sha256(data).hexdigest() == shard["sha256"]
        assert shard["path"] == f"data/{shard['unit_id']}-{shard['sha256'][:16]}.arrow"
        table = pa.ipc.open_file(data).read_all()
        assert table.num_rows == shard["samples"]
        keys.update(table.column("asset_key").to_pylist())
    rejected = {
        r["asset_key"] for ref in snapshot["rejects"] for r in checked(store, ref).to_pylist()
    }
    listed = {k for ref in snapshot["plans"] for k in checked(store, ref).column("key").to_pylist()}
    assert keys | rejected == listed
    assert not keys & rejected
    assert len(listed) == 40


def test_the_format_page_names_what_receipts_and_plans_hold(store: Path) -> None:
    """A receipt's unit is a row group of its plan part, whose footer names the units."""
    receipts = [json.loads(path.read_bytes()) for path in sorted((store / "receipts").iterdir())]
    assert len(receipts) == 3
    for receipt in receipts:
        with pq.ParquetFile(store / receipt["plan"]) as part:
            units = json.loads(part.metadata.metadata[b"tokenmill.units"])
            assert units[receipt["row_group"]] == receipt["unit_id"]
            assert part.metadata.row_group(receipt["row_group"]).num_rows == receipt["assets"]
            names = part.schema_arrow.names
        assert names[:6] == ["key", "uri", "locator", "modality", "size_bytes", "version"]
