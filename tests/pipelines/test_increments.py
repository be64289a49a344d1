"""Jobs that run again and again over sources that change; each run held against a dict."""

from __future__ import annotations

import io
import json
import os
import tarfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from tokenmill.feed import Feed
from tokenmill.store import Store
from tokenmill.store.verify import verify_store
from tokenmill.testing.pictures import encoded
from tokenmill_infra.observe import SilentObserver
from tokenmill_pipelines.jobs import plan_job, run_job
from tokenmill_pipelines.run import RunResult
from tokenmill_schemas.job import Job, parse_job

BROKEN = -1
#: An asset by what it is: the grey of its picture, or `BROKEN`, and its version.
Asset = tuple[int, int]
State = dict[str, Asset]

#: Five runs: pictures come, change, are touched, go, come back, and one that is broken is mended.
HISTORY: tuple[State, ...] = (
    {"a": (10, 1), "b": (20, 1), "c": (30, 1), "d": (BROKEN, 1)},
    {"a": (10, 1), "b": (21, 2), "c": (30, 1), "d": (BROKEN, 1), "e": (50, 2)},
    {"a": (10, 3), "b": (21, 2), "d": (BROKEN, 1), "e": (50, 2)},
    {"a": (10, 3), "b": (20, 1), "c": (30, 1), "d": (40, 4), "e": (50, 2)},
    {"a": (12, 5), "b": (21, 2), "c": (31, 5), "f": (60, 5)},
)


def picture(grey: int) -> bytes:
    """A PNG whose every token is ``grey``, or no PNG at all."""
    return b"no picture" if grey == BROKEN else encoded(Image.new("L", (40, 40), grey), "PNG")


def write_files(folder: Path, state: State) -> None:
    """Make ``folder`` hold exactly the pictures of ``state``, as old as their versions say."""
    folder.mkdir(exist_ok=True)
    for path in folder.glob("*.png"):
        if path.stem not in state:
            path.unlink()
    for key, (grey, version) in state.items():
        path = folder / f"{key}.png"
        path.write_bytes(picture(grey))
        os.utime(path, ns=(version * 10**9, version * 10**9))


def as_files(root: Path, state: State) -> dict[str, Any]:
    """A folder."""
    write_files(root / "files", state)
    return {"kind": "files", "urls": [str(root / "files")]}


def as_jsonl(root: Path, state: State) -> dict[str, Any]:
    """A listing of files, whose versions are looked up."""
    write_files(root / "files", state)
    lines = [json.dumps({"key": f"{key}.png", "uri": f"files/{key}.png"}) for key in sorted(state)]
    (root / "list.jsonl").write_text("\n".join([*lines, ""]))
    return {"kind": "jsonl", "urls": [str(root / "list.jsonl")], "key": "key"}


def as_etags(root: Path, state: State) -> dict[str, Any]:
    """A table of files and of their versions."""
    write_files(root / "files", state)
    rows = [
        {"key": f"{key}.png", "uri": f"files/{key}.png", "etag": f"etag-{version}", "size": None}
        for key, (_, version) in sorted(state.items())
    ]
    schema = pa.schema([(n, pa.string()) for n in ("key", "uri", "etag")] + [("size", pa.int64())])
    pq.write_table(pa.Table.from_pylist(rows, schema), root / "list.parquet")
    names = {"key": "key", "version": "etag", "size": "size"}
    return {"kind": "parquet", "urls": [str(root / "list.parquet")], **names}


def as_table(root: Path, state: State) -> dict[str, Any]:
    """A table with the pictures in it: one version for all."""
    rows = [{"key": f"{key}.png", "png": picture(grey)} for key, (grey, _) in sorted(state.items())]
    pq.write_table(pa.Table.from_pylist(rows), root / "table.parquet", row_group_size=2)
    return {"kind": "parquet", "urls": [str(root / "table.parquet")], "key": "key", "bytes": "png"}


def as_tar(root: Path, state: State) -> dict[str, Any]:
    """An archive: one version for all, and places that move."""
    with tarfile.open(root / "pack.tar", "w") as archive:
        for key, (grey, _) in sorted(state.items()):
            data = picture(grey)
            info = tarfile.TarInfo(f"{key}.png")
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return {"kind": "tars", "urls": [str(root / "pack.tar")]}


Writer = Callable[[Path, State], dict[str, Any]]


def run(job: Job) -> RunResult:
    """Run a job."""
    return run_job(job, observer=SilentObserver())


def shown(store: Store) -> dict[str, int]:
    """The grey of every sample that a feed gives, by the asset's name."""
    found: dict[str, int] = {}
    for batch in Feed(store, batch_size=1, epochs=1, shuffle="none"):
        (name,) = batch["sample_id"]
        key = str(name).partition("#")[0].rpartition("/")[2].removesuffix(".png")
        assert key not in found, "an asset is shown twice"
        found[key] = int(batch["image"].ravel()[0])
    return found


@dataclass
class Corpus:
    """A source that is written anew before each run, a job over it, and what must come of it."""

    root: Path
    writer: Writer = as_files
    increment: dict[str, Any] = field(default_factory=dict)
    store_uri: str = ""
    name: str = "daily"
    tokenized: State = field(default_factory=dict)
    missing: set[str] = field(default_factory=set)
    number: int = 0

    def job(self, state: State) -> Job:
        """Write the source and return the job."""
        table = {
            "name": self.name,
            "source": self.writer(self.root, state),
            "tokenizer": {"kind": "tokenmill.testing.faults:BlockMeans"},
            "shards": {"unit_assets": 2},
            "store": {"uri": self.store_uri or str(self.root / "store")},
            "cluster": {"backend": "local", "actors": 1},
            "increment": {"max_missing_fraction": 1.0, **self.increment},
        }
        return parse_job(table)

    def run(self, state: State) -> RunResult:
        """Run once, check all that came of it, and that running again does nothing."""
        job = self.job(state)
        expected = self._expected(state)
        planned = plan_job(job)
        result = run(job)
        assert {name: result.listed[name] for name in expected} == expected
        assert (planned.new_assets, planned.changed) == (expected["new"], expected["changed"])
        assert (planned.missing, planned.returned) == (expected["missing"], expected["returned"])
        news = sum(expected.values())
        assert result.committed == (news > 0)
        self.number += result.committed
        assert result.snapshot_number == self.number
        self.check(result)
        before = everything(result.store_uri)
        again = run(job)
        assert (again.committed, again.snapshot_number) == (False, self.number)
        assert everything(result.store_uri) == before
        return result

    def check(self, result: RunResult) -> None:
        """The store is sound, shows what it should, and misses what is gone."""
        store = Store.open(result.store_uri)
        assert verify_store(store, store.snapshot()).problems == ()
        assert shown(store) == self.shown()
        assert result.totals["samples"] == len(self.shown())
        version = store.at()
        missing = version.missing().to_pylist()
        assert {row["scope"] for row in missing} <= {self.name}
        assert sorted(_stem(row["asset_key"]) for row in missing) == sorted(self.missing)
        broken = sorted(key for key, (grey, _) in self.tokenized.items() if grey == BROKEN)
        rejected = version.rejects().column("asset_key").to_pylist()
        assert sorted(map(_stem, rejected)) == broken

    def shown(self) -> dict[str, int]:
        """What a feed must show."""
        hidden = self.missing if self.increment.get("on_missing") == "drop" else set()
        good = {key: grey for key, (grey, _) in self.tokenized.items() if grey != BROKEN}
        return {key: grey for key, grey in good.items() if key not in hidden}

    def _expected(self, state: State) -> dict[str, int]:
        """What a run must find, after taking it as done."""
        by_content = self.increment.get("identity") == "content"
        new = state.keys() - self.tokenized.keys()
        changed = {
            key
            for key in state.keys() & self.tokenized.keys()
            if state[key][0] != self.tokenized[key][0]
            or (state[key] != self.tokenized[key] and not by_content)
        }
        gone = self.tokenized.keys() - state.keys() - self.missing
        back = self.missing & state.keys()
        replaces = self.increment.get("on_changed") != "keep"
        self.tokenized |= {key: state[key] for key in new | (changed if replaces else set())}
        self.missing = (self.missing | gone) - back
        found = {"new": new, "changed": changed, "missing": gone, "returned": back}
        return {name: len(keys) for name, keys in found.items()}


def _stem(key: str) -> str:
    return key.rpartition("/")[2].removesuffix(".png")


def everything(uri: str) -> set[str]:
    """The names of all files of a store."""
    fs, path = fsspec.core.url_to_fs(uri, use_listings_cache=False)
    return set(fs.find(path))


SOURCES: dict[str, tuple[Writer, dict[str, Any]]] = {
    "files": (as_files, {}),
    "files, dropped": (as_files, {"on_missing": "drop"}),
    "files by content": (as_files, {"identity": "content", "on_missing": "drop"}),
    "jsonl": (as_jsonl, {}),
    "etags": (as_etags, {"on_missing": "drop"}),
    "table": (as_table, {"identity": "content"}),
    "tar": (as_tar, {"identity": "content", "on_missing": "drop"}),
}


@pytest.mark.parametrize("name", SOURCES)
def test_five_runs_over_a_source_that_changes(name: str, tmp_path: Path) -> None:
    """Each tokenizes what is news, marks what is gone, commits once, and is sound."""
    writer, increment = SOURCES[name]
    corpus = Corpus(tmp_path, writer, increment)
    for state in HISTORY:
        corpus.run(state)
    assert corpus.number == 5
    store = Store.open(str(tmp_path / "store"))
    for snapshot in store.snapshots():
        assert verify_store(store, snapshot).problems == (), "old versions are as they were"
