"""Jobs that run again and again over sources that change; each run held against a dict."""

from __future__ import annotations

import io
import json
import os
import tarfile
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from tokenmill.feed import Feed
from tokenmill.sources.base import Source
from tokenmill.sources.hashing import content_hash
from tokenmill.store import Store
from tokenmill.store.intents import live
from tokenmill.store.takedown import takedown
from tokenmill.store.verify import verify_store
from tokenmill.testing.pictures import encoded
from tokenmill_infra.observe import SilentObserver
from tokenmill_pipelines.cli import render
from tokenmill_pipelines.jobs import plan_job, retry_store, run_job
from tokenmill_pipelines.run import RunResult, open_run, result_of
from tokenmill_pipelines.stages import STAGES, MissingAssetsError, run_stage
from tokenmill_schemas.asset import AssetRef
from tokenmill_schemas.errors import JobError
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
        found[key] = int(np.asarray(batch["image"]).ravel()[0])
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


GREYS = {"a": (10, 1), "b": (20, 1), "c": (30, 1)}


def test_what_is_again_as_it_was_is_tokenized_again(tmp_path: Path) -> None:
    """Its unit is one that the store has, with its samples hidden; the new one has another name."""
    corpus = Corpus(tmp_path)
    for grey in (10, 11, 10, 11, 10):
        corpus.run({"a": (grey, grey)})
    assert corpus.number == 5
    store = Store.open(str(tmp_path / "store"))
    units = store.segments(store.snapshot(), ["unit_id"]).column("unit_id").to_pylist()
    assert len(set(units)) == 5


def test_changed_assets_may_be_left(tmp_path: Path) -> None:
    """With on_changed = "keep" old samples stay, in quarantine too, and come back when asked."""
    corpus = Corpus(tmp_path, increment={"on_changed": "keep", "on_missing": "drop"})
    result = run(corpus.job(GREYS | {"d": (BROKEN, 1)}))
    changed = {"a": (12, 2), "b": (20, 1), "d": (40, 2)}
    result = run(corpus.job(changed))
    assert (result.listed["changed"], result.done["assets"]) == (2, 0)
    assert (result.committed, result.listed["missing"]) == (True, 1)
    assert shown(Store.open(result.store_uri)) == {"a": 10, "b": 20}
    corpus.increment["on_changed"] = "replace"
    result = run(corpus.job(changed | {"c": (31, 1)}))
    assert (result.done["assets"], result.listed["returned"]) == (2, 1)
    assert shown(Store.open(result.store_uri)) == {"a": 12, "b": 20, "c": 30, "d": 40}


def test_to_begin_to_drop_what_is_missing_is_news_once(tmp_path: Path) -> None:
    """The samples of what went before are hidden by the next run; to keep again shows none."""
    corpus = Corpus(tmp_path)
    corpus.run(GREYS)
    left = {"a": (10, 1)}
    corpus.run(left)
    dropping = Corpus(tmp_path, increment={"on_missing": "drop"})
    result = run(dropping.job(left))
    assert (result.committed, result.snapshot_number) == (True, 3)
    assert shown(Store.open(result.store_uri)) == {"a": 10}
    for again in (dropping, corpus):
        result = run(again.job(left))
        assert (result.committed, shown(Store.open(result.store_uri))) == (False, {"a": 10})
    result = run(dropping.job(GREYS))
    assert (result.committed, result.done["units"]) == (True, 0)
    assert shown(Store.open(result.store_uri)) == {"a": 10, "b": 20, "c": 30}


def test_a_source_that_is_half_gone_stops_the_run(tmp_path: Path) -> None:
    """Nothing is committed or written; `plan` says how many are missing instead of failing."""
    corpus = Corpus(tmp_path, increment={"on_missing": "drop", "max_missing_fraction": 0.5})
    corpus.run(GREYS | {"d": (40, 1)})
    before = everything(str(tmp_path / "store"))
    job = corpus.job({"a": (10, 1), "e": (50, 1)})
    assert (plan_job(job).missing, plan_job(job).new_assets) == (3, 1)
    with pytest.raises(MissingAssetsError, match=r"^3 of 4 assets.*'daily'.*= 0\.5 allows.*source"):
        run(job)
    with pytest.raises(MissingAssetsError, match="4 of 4"):
        run(corpus.job({}))
    assert everything(str(tmp_path / "store")) == before
    corpus.run({"a": (10, 1), "b": (20, 1), "e": (50, 1)})
    corpus.run({"a": (10, 1), "e": (50, 1)})
    assert corpus.missing == {"b", "c", "d"}, "of three that were there one is missing"


def test_a_source_may_end_empty_if_the_job_says_so(tmp_path: Path) -> None:
    """One that never listed anything is a slip all the same."""
    with pytest.raises(JobError, match="lists no assets"):
        run(Corpus(tmp_path).job({}))
    corpus = Corpus(tmp_path)
    corpus.run(GREYS)
    corpus.run({})
    assert (corpus.number, corpus.missing) == (2, {"a", "b", "c"})


def test_jobs_mind_their_own_assets(tmp_path: Path) -> None:
    """Two jobs on one store miss nothing of each other's; a job by another name is another job."""
    uri = str(tmp_path / "store")
    ours, theirs = (
        Corpus(_made(tmp_path / name), name=name, store_uri=uri, increment={"on_missing": "drop"})
        for name in ("ours", "theirs")
    )
    run(ours.job(GREYS))
    assert run(theirs.job({"x": (70, 1), "y": (80, 1)})).listed["missing"] == 0
    result = run(ours.job({"a": (10, 1)}))
    assert (result.listed["missing"], result.committed) == (2, True)
    assert run(theirs.job({"x": (70, 1), "y": (80, 1)})).committed is False
    result = run(theirs.job({"x": (70, 1)}))
    assert (result.listed["missing"], shown(Store.open(uri))) == (1, {"a": 10, "x": 70})
    ours.name = "renamed"
    result = run(ours.job({"f": (60, 1)}))
    assert (result.listed["missing"], shown(Store.open(uri))) == (0, {"a": 10, "x": 70, "f": 60})
    assert verify_store(Store.open(uri), Store.open(uri).snapshot()).problems == ()


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


def test_a_retry_takes_up_what_changed_and_what_came_back(tmp_path: Path) -> None:
    """What is mended leaves the quarantine; what was missing and is there is missing no more."""
    corpus = Corpus(tmp_path, increment={"on_missing": "drop", "identity": "content"})
    broken = dict.fromkeys(("d", "e", "f"), (BROKEN, 1))
    corpus.run(GREYS | broken)
    corpus.run(GREYS | {"d": (BROKEN, 1)})
    corpus.job(GREYS | {"d": (41, 2), "e": (51, 2)})
    result = retry_store(str(tmp_path / "store"), observer=SilentObserver())
    corpus.number += 1
    corpus.tokenized |= {"d": (41, 2), "e": (51, 2)}
    corpus.missing = {"f"}
    assert (result.committed, result.done["assets"]) == (True, 2)
    corpus.check(result)
    corpus.run(GREYS | {"d": (41, 3), "e": (51, 2)})
    assert corpus.number == 3, "the retry's plan has the hashes too"


def test_only_one_row_of_a_repeated_key_is_retried(tmp_path: Path) -> None:
    """The other is accounted for already, under a key of its own."""
    write_files(tmp_path / "files", {"d": (BROKEN, 1)})

    def as_twice(root: Path, state: State) -> dict[str, Any]:
        source = as_jsonl(root, state)
        lines = (root / "list.jsonl").read_text()
        (root / "list.jsonl").write_text(lines * 2)
        return source

    job = Corpus(tmp_path, as_twice).job({"d": (BROKEN, 1)})
    assert run(job).totals["rejected"] == 2
    write_files(tmp_path / "files", {"d": (40, 2)})
    result = retry_store(job.store.uri, observer=SilentObserver())
    store = Store.open(job.store.uri)
    assert verify_store(store, store.snapshot()).problems == ()
    assert (shown(store), result.totals["rejected"]) == ({"d": 40}, 1)


def test_content_is_read_only_where_the_version_is_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thousand files that nobody touched cost a look at each, not a reading."""
    read: list[str] = []

    def spied(source: Source, ref: AssetRef) -> str:
        read.append(_stem(ref.key))
        return content_hash(source, ref)

    monkeypatch.setattr("tokenmill.sources.hashing.content_hash", spied)
    corpus = Corpus(tmp_path, increment={"identity": "content"})
    run(corpus.job(GREYS))
    assert sorted(read) == ["a", "b", "c"]
    read.clear()
    result = run(corpus.job({"a": (10, 2), "b": (21, 2), "c": (30, 1), "d": (40, 1)}))
    assert sorted(read) == ["a", "b", "d"]
    assert result.done["assets"] == 2


def test_a_file_that_changes_under_a_run_is_told_and_mended_by_the_next(tmp_path: Path) -> None:
    """Between the listing and the reading; whichever way the job tells its assets."""
    for number, identity in enumerate(("version", "content")):
        corpus = Corpus(_made(tmp_path / f"{number}"), increment={"identity": identity})
        job = corpus.job(GREYS)
        with open_run(job, SilentObserver()) as state:
            for name, stage in STAGES:
                run_stage(state, name, stage)
                if name == "plan":
                    write_files(corpus.root / "files", GREYS | {"a": (BROKEN, 2)})
            (quarantined,) = result_of(state).quarantine
        assert quarantined[:2] == ("a.png", "changed")
        result = run(corpus.job(GREYS))
        assert (result.listed["changed"], result.done["quarantined"]) == (0, 0)
        result = run(corpus.job(GREYS | {"a": (11, 3)}))
        assert (result.listed["changed"], result.totals["rejected"]) == (1, 0)


def test_what_was_taken_down_does_not_come_back(tmp_path: Path) -> None:
    """Neither as it is, nor changed, nor does anybody miss it."""
    corpus = Corpus(tmp_path, increment={"on_missing": "drop", "max_missing_fraction": 0.0})
    run(corpus.job(GREYS))
    store = Store.open(str(tmp_path / "store"))
    takedown(store, keys=["a.png"], reason="test")
    for state in (GREYS, GREYS | {"a": (11, 2)}):
        result = run(corpus.job(state))
        assert (result.listed["withheld"], result.committed) == (1, False)
    result = run(corpus.job({"b": (20, 1), "c": (30, 1), "d": (40, 1)}))
    assert (result.listed["withheld"], result.listed["missing"]) == (0, 0)
    assert shown(store) == {"b": 20, "c": 30, "d": 40}


def test_a_run_holds_the_store_for_as_long_as_it_works(tmp_path: Path) -> None:
    """A run with nothing to do writes nothing at all; `plan` neither."""
    job = Corpus(tmp_path).job(GREYS)
    with open_run(job, SilentObserver()) as state:
        storage = state.assembly.store.storage
        for name, stage in STAGES:
            assert bool(live(storage)) == (name not in {"list", "plan"}), name
            run_stage(state, name, stage)
        (intent,) = live(storage)
        assert (intent.kind, intent.note) == ("run", "daily")
    assert live(storage) == []
    with open_run(job, SilentObserver()) as state:
        for name, stage in STAGES:
            run_stage(state, name, stage)
        assert live(storage) == []


def test_an_interrupted_increment_goes_on_from_its_receipts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where it replaces what the store has under the same names."""
    corpus = Corpus(tmp_path, increment={"on_missing": "drop"})
    for grey in (10, 11):
        corpus.run({"a": (grey, grey), "b": (20, 1)})
    job = corpus.job({"a": (10, 10), "c": (30, 1)})

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as killed:
        killed.setattr(Store, "commit", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run(job)
    result = run(job)
    assert (result.done["units"], result.done["reused_units"], result.committed) == (0, 1, True)
    assert shown(Store.open(result.store_uri)) == {"a": 10, "c": 30}


def test_people_are_told_what_a_run_would_do_and_did(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In words, and only of what there is; the report counts the same."""
    corpus = Corpus(tmp_path, increment={"on_missing": "drop"})
    corpus.run(GREYS)
    corpus.run({"a": (10, 1), "b": (20, 1)})
    takedown(Store.open(str(tmp_path / "store")), keys=["b.png"], reason="test")
    job = corpus.job({"a": (11, 2), "b": (20, 1), "c": (30, 1), "d": (40, 1)})
    summary = plan_job(job)
    render.plan({**{name: getattr(summary, name) for name in summary.__slots__}, "streams": []})
    told = capsys.readouterr().out.split()
    for words in ("4 listed, 2 to do", "new 1", "changed 1", "returned 1", "withheld 1"):
        assert words in " ".join(told)
    assert "missing" not in told
    result = run(job)
    render.result(asdict(result))
    said = " ".join(capsys.readouterr().out.split())
    assert "listed 4: 1 new, 1 changed, 1 returned, 1 withheld" in said
    page = " ".join(Path(result.report).read_text().split())
    assert "<dt>returned assets</dt><dd>1</dd>" in page
    render.result(asdict(run(job)))
    assert "listed 4: 1 withheld" in " ".join(capsys.readouterr().out.split())


def test_a_long_hashing_says_how_far_it_is(tmp_path: Path) -> None:
    """The total is unknown while a source is being listed."""
    said: list[tuple[int, int]] = []

    class Watcher(SilentObserver):
        """Keeps how far a run says to be."""

        def progress(self, done_assets: int, total_assets: int, **facts: Any) -> None:
            """Keep it."""
            said.append((done_assets, total_assets))

    run_job(Corpus(tmp_path, increment={"identity": "content"}).job(GREYS), observer=Watcher())
    assert said[0] == (3, 0)
    assert said[-1] == (3, 3)


@pytest.mark.s3
def test_increments_on_an_object_store(s3_root: str, tmp_path: Path) -> None:
    """Pictures and store on S3: etags tell a change, and the same bytes are no news."""
    folder = s3_root.rpartition("/")[0] + "/pictures"

    def as_objects(root: Path, state: State) -> dict[str, Any]:
        fs, path = fsspec.core.url_to_fs(folder, use_listings_cache=False)
        there = {_stem(name): name for name in fs.find(path)}
        for key in there.keys() - state.keys():
            fs.rm_file(there[key])
        for key, (grey, _) in state.items():
            fs.pipe_file(f"{path}/{key}.png", picture(grey))
        return {"kind": "files", "urls": [folder]}

    # An etag is a digest of the bytes, so content is what versions say.
    states = [{key: (grey, grey) for key, (grey, _) in state.items()} for state in HISTORY]
    for identity, history in (("version", states), ("content", states[2:4])):
        increment = {"identity": identity, "on_missing": "drop"}
        corpus = Corpus(tmp_path, as_objects, increment, f"{s3_root}-{identity}")
        for state in history:
            corpus.run(state)


def test_two_drivers_of_one_job_do_what_is_news_once(tmp_path: Path) -> None:
    """Whoever commits second finds all of it done, and hides nothing of what the first one made."""
    corpus = Corpus(tmp_path, increment={"on_missing": "drop"})
    corpus.run(GREYS | {"d": (BROKEN, 1), "e": (BROKEN, 1)})
    job = corpus.job({"a": (11, 2), "b": (20, 1), "d": (40, 2), "e": (BROKEN, 2)})
    with open_run(job, SilentObserver()) as slow:
        for name, stage in STAGES:
            if name == "commit":
                assert run(job).committed
            run_stage(slow, name, stage)
        second = result_of(slow)
    assert (second.committed, second.snapshot_number) == (False, 2)
    corpus.tokenized |= {"a": (11, 2), "d": (40, 2), "e": (BROKEN, 2)}
    corpus.missing = {"c"}
    corpus.check(second)
