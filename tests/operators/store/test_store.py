"""Commits, tags and verification of real stores, damaged for real."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from tokenmill.store import Commit, Store
from tokenmill.store.identity import differences
from tokenmill.store.segments import reject_table
from tokenmill.store.tables import put_table
from tokenmill.store.verify import verify_store
from tokenmill_infra.observe import SilentObserver
from tokenmill_pipelines.assemble import assemble
from tokenmill_pipelines.jobs import run_job
from tokenmill_pipelines.run import Run
from tokenmill_pipelines.stages import encode_stage, list_stage, plan_stage
from tokenmill_schemas.canonical import canonical_json
from tokenmill_schemas.errors import (
    ConflictError,
    CorruptShardError,
    FingerprintError,
    SnapshotNotFoundError,
    StoreError,
)
from tokenmill_schemas.job import Job
from tokenmill_schemas.snapshot import SEGMENT_SCHEMA, Receipt, Snapshot

JobOf = Callable[..., Job]
BAD = {"source": {"count": 10, "faults": {"picture-0003": "error"}, "repeated": ["picture-0001"]}}


def encoded(job: Job, folder: Path) -> tuple[Run, Commit]:
    """Everything of a run but its commit, and that."""
    run = Run(assemble(job), SilentObserver(), folder)
    for stage in (list_stage, plan_stage, encode_stage):
        stage(run)
    identity = run.assembly.identity
    commit = Commit(run.encoding.receipts, run.planned.plans, identity, base=run.base)
    return run, commit


def a_store(job: Job) -> tuple[Store, Snapshot]:
    """The store of a job that was run, and its newest version."""
    store = Store.open(run_job(job, observer=SilentObserver()).store_uri)
    return store, store.snapshot()


def units(store: Store) -> list[str]:
    """The units of the newest version, in order."""
    names: list[str] = store.segments(store.snapshot()).column("unit_id").to_pylist()
    return names


def test_a_first_commit_is_version_1_and_holds_what_was_made(
    noise_job: JobOf, tmp_path: Path
) -> None:
    """Totals, segments, rejects and parts agree with the receipts."""
    run, commit = encoded(noise_job(**BAD), tmp_path)
    store = run.assembly.store
    with pytest.raises(StoreError, match="is not a token store, or has no snapshot yet"):
        Store.open(store.uri)
    snapshot = store.commit(commit)
    assert (snapshot.number, snapshot.parent, snapshot.commit_id) == (1, "", commit.commit_id)
    assert snapshot.totals == {
        "shards": 2,
        "samples": 9,
        "tokens": sum(r.tokens for r in commit.receipts),
        "bytes": sum(r.bytes for r in commit.receipts),
        "assets": 11,
        "rejected": 2,
    }
    assert store.rejects(snapshot) == reject_table(commit.receipts)
    segments = store.segments(snapshot)
    assert segments.schema == SEGMENT_SCHEMA
    assert segments.column("sha256").to_pylist() == [r.sha256 for r in commit.receipts]
    assert segments.column("rejected").to_pylist() == [1, 1]
    assert store.snapshot() == Store.open(store.uri).snapshot(1) == snapshot


def test_the_same_receipts_twice_make_one_version(noise_job: JobOf, tmp_path: Path) -> None:
    """The second commit finds that nothing is new and returns the first."""
    run, commit = encoded(noise_job(), tmp_path)
    first = run.assembly.store.commit(commit)
    again = run.assembly.store.commit(replace(commit, commit_id="another"))
    assert again == first
    assert run.assembly.store.log.numbers() == [1]


def test_commits_that_race_all_come_in(noise_job: JobOf, tmp_path: Path) -> None:
    """Two threads, two sets of units, one store: versions 1 and 2, and the second has both."""
    jobs = [noise_job(source={"count": 6, "start": start}) for start in (0, 100)]
    made = []
    for index, job in enumerate(jobs):
        folder = tmp_path / str(index)
        folder.mkdir()
        made.append(encoded(job, folder))
    store, barrier = made[0][0].assembly.store, threading.Barrier(2)
    found: list[Snapshot] = []

    def commit(one: Commit) -> None:
        barrier.wait()
        found.append(store.commit(one))

    threads = [threading.Thread(target=commit, args=(one,)) for _, one in made]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(s.number for s in found) == store.log.numbers() == [1, 2]
    newest = store.snapshot(2)
    assert newest.parent == store.snapshot(1).commit_id
    assert set(units(store)) == {r.unit_id for _, one in made for r in one.receipts}
    assert newest.totals["samples"] == 12
    assert verify_store(store, newest).problems == ()


def test_other_units_of_the_same_pictures_conflict(noise_job: JobOf, tmp_path: Path) -> None:
    """Two runs that listed a growing source at two moments must not both count its pictures."""
    folders = [tmp_path / "a", tmp_path / "b"]
    for folder in folders:
        folder.mkdir()
    run, first = encoded(noise_job(source={"count": 8}), folders[0])
    _, second = encoded(noise_job(source={"count": 10}), folders[1])
    store = run.assembly.store
    assert first.receipts[0].unit_id == second.receipts[0].unit_id
    store.commit(first)
    with pytest.raises(ConflictError, match=r"2 of the same assets \(picture-0006") as caught:
        store.commit(second)
    assert (caught.value.asked, caught.value.found) == (1, 1)
    assert store.log.numbers() == [1]
    result = run_job(noise_job(source={"count": 10}), observer=SilentObserver())
    assert result.done["assets"] == 2
    assert verify_store(store, store.snapshot()).problems == ()


def test_a_later_run_only_adds_what_is_new(noise_job: JobOf) -> None:
    """Its version holds the old segments first; older versions stay readable."""
    store, first = a_store(noise_job(source={"count": 6}))
    run_job(noise_job(source={"count": 9}), observer=SilentObserver())
    second = store.snapshot()
    before, after = store.segments(first), store.segments(second)
    assert after.slice(0, before.num_rows) == before
    assert (first.totals["samples"], second.totals["samples"]) == (6, 9)
    assert [s.number for s in store.snapshots()] == [2, 1]
    assert verify_store(store, first).problems == verify_store(store, second).problems == ()


def test_another_tokenizer_is_refused_with_what_differs(noise_job: JobOf) -> None:
    """Before any work is done; the message names the key and both values."""
    store, _ = a_store(noise_job())
    other = noise_job(view={"kind": "center_crop", "size": 24, "rule": "bicubic"})
    with pytest.raises(FingerprintError) as caught:
        run_job(other, observer=SilentObserver())
    assert "view.size" in str(caught.value)
    assert "32" in str(caught.value)
    assert "24" in str(caught.value)
    assert store.log.numbers() == [1]


def test_other_columns_are_refused(noise_job: JobOf) -> None:
    """The tokens would be equal, the shards not readable together."""
    a_store(noise_job())
    with pytest.raises(FingerprintError, match="other columns"):
        run_job(noise_job(shards={"packing": "bits"}), observer=SilentObserver())


def test_another_format_is_refused(noise_job: JobOf) -> None:
    """Also when nothing is new: a feed reads one format, and the job's word would not be kept."""
    store, _ = a_store(noise_job(source={"count": 6}))
    for count in (6, 9):
        tar = noise_job(source={"count": count}, shards={"format": "webdataset"})
        with pytest.raises(FingerprintError, match="have the format arrow, asked for is webdatas"):
            run_job(tar, observer=SilentObserver())
    assert store.log.numbers() == [1]


def test_differences_name_leaves() -> None:
    """Nested, missing and changed keys, and nothing that is equal."""
    old = {"a": {"b": 1, "c": [1, 2]}, "d": None}
    new = {"a": {"b": 2, "c": [1, 2]}, "e": "x"}
    assert differences(old, new) == [
        "a.b is 1 there and 2 here",
        "e is None there and 'x' here",
    ]
    assert differences(old, old) == []


def test_tags_never_move(noise_job: JobOf) -> None:
    """The same tag twice is fine, on another version it is a conflict; names are checked."""
    store, _ = a_store(noise_job(source={"count": 6}))
    store.tag("v1")
    store.tag("v1", 1)
    run_job(noise_job(source={"count": 9}), observer=SilentObserver())
    with pytest.raises(ConflictError, match="a tag never moves") as caught:
        store.tag("v1", 2)
    assert (caught.value.asked, caught.value.found) == (2, 1)
    assert store.tags() == {"v1": 1}
    assert store.snapshot("v1").number == 1
    assert store.snapshot("latest").number == store.snapshot(None).number == 2
    for name in ("2", "a/b", "", "../x", "-x"):
        with pytest.raises(StoreError, match="must start with a letter"):
            store.tag(name)
    with pytest.raises(SnapshotNotFoundError, match="no version 'v2'; tags: v1"):
        store.snapshot("v2")
    with pytest.raises(SnapshotNotFoundError, match=r"no snapshot 7; there are \[1, 2\]"):
        store.snapshot(7)


def test_the_first_receipt_of_a_unit_wins(noise_job: JobOf, tmp_path: Path) -> None:
    """Later ones are answered with it; what shard they made is left to gc."""
    run, commit = encoded(noise_job(source={"count": 6}), tmp_path)
    store, (winner,) = run.assembly.store, commit.receipts
    assert store.publish(replace(winner, seconds={"encode": 9.0})) == winner
    assert store.storage.exists(winner.path)
    store.storage.create("data/loser.arrow", b"other bytes")
    assert store.publish(replace(winner, path="data/loser.arrow")) == winner
    assert store.receipt(winner.unit_id) == winner


def damaged(store: Store, path: str, change: Callable[[bytearray], None]) -> None:
    """Change a file's bytes where it lies."""
    file = Path(store.uri, path)
    data = bytearray(file.read_bytes())
    change(data)
    file.write_bytes(data)


def flip(data: bytearray) -> None:
    """Flip one bit in the middle."""
    data[len(data) // 2] ^= 1


def first_shard(store: Store) -> str:
    """Path of the first shard."""
    return str(store.segments(store.snapshot()).column("path")[0].as_py())


def problems(store: Store) -> str:
    """What verification says of the newest version."""
    return "\n".join(verify_store(store, store.snapshot()).problems)


def test_a_sound_store_has_no_problems(noise_job: JobOf) -> None:
    """Everything that was written is counted and read."""
    store, snapshot = a_store(noise_job(**BAD))
    report = verify_store(store, snapshot)
    assert (report.problems, report.shards, report.samples, report.assets) == ((), 2, 9, 11)
    assert report.checked_bytes >= snapshot.totals["bytes"]
    assert verify_store(store, snapshot, deep=False).problems == ()


@pytest.mark.parametrize("folder", ["data", "manifest", "plans", "quarantine"])
def test_one_flipped_bit_is_found(noise_job: JobOf, folder: str) -> None:
    """In a shard, a segment, a plan or the quarantine table; the file is named."""
    store, _ = a_store(noise_job(**BAD))
    (path, *_) = (entry.path for entry in store.storage.list(folder))
    damaged(store, path, flip)
    assert any(line.startswith(path) for line in problems(store).splitlines())
    assert "never listed" not in problems(store)


def spoilt(data: bytes) -> dict[str, bytes]:
    """A JSON record's bytes, damaged in every way."""
    value = json.loads(data)
    few = {key: entry for key, entry in value.items() if key not in {"number", "unit_id"}}
    wrong = {key: [entry] for key, entry in value.items()}
    return {
        "not JSON": b"{",
        "not UTF-8": b'{"a": "\xff"}',
        "empty": b"",
        "no object": b"[]",
        "no keys": b"{}",
        "a key less": canonical_json(few),
        "other types": canonical_json(wrong),
    }


@pytest.mark.parametrize("record", ["_log", "_refs/tags", "receipts"])
def test_a_damaged_record_is_told_by_name(noise_job: JobOf, record: str) -> None:
    """A snapshot, a tag, a receipt: whatever is wrong with the file, the store is at fault."""
    store, _ = a_store(noise_job(source={"count": 6}))
    store.tag("v1")
    path = next(entry.path for entry in store.storage.list(record))
    (unit,) = units(store)
    whole = Path(store.uri, path).read_bytes()
    for how, data in spoilt(whole).items():
        Path(store.uri, path).write_bytes(data)
        with pytest.raises(CorruptShardError, match=rf"{path} is damaged: ") as caught:
            (Store.open(store.uri).snapshot("v1"), store.receipts([unit]))
        assert caught.value.uri == store.uri, how


def test_a_snapshot_under_another_number_is_damage(noise_job: JobOf) -> None:
    """A file that was copied over another."""
    store, _ = a_store(noise_job(source={"count": 6}))
    first = Path(store.uri, f"_log/{1:020d}.json")
    first.with_name(f"{2:020d}.json").write_bytes(first.read_bytes())
    with pytest.raises(CorruptShardError, match="it says that it is snapshot 1"):
        store.snapshot()


def test_keys_of_a_newer_library_are_ignored(noise_job: JobOf) -> None:
    """As FORMAT.md asks of readers."""
    store, snapshot = a_store(noise_job(source={"count": 6}))
    receipts = store.receipts(units(store))
    for folder in ("_log", "receipts"):
        file = Path(store.uri, next(entry.path for entry in store.storage.list(folder)))
        file.write_bytes(canonical_json(json.loads(file.read_bytes()) | {"new": {"a": 1}}))
    assert store.snapshot() == snapshot
    assert store.receipts(units(store)) == receipts


@pytest.mark.parametrize("folder", ["data", "manifest", "plans", "quarantine"])
def test_a_deleted_file_is_found(noise_job: JobOf, folder: str) -> None:
    """Its name is told, and of a shard the assets that nothing accounts for any more."""
    store, _ = a_store(noise_job(**BAD))
    path = next(entry.path for entry in store.storage.list(folder))
    store.storage.delete(path)
    assert f"{path} is missing" in problems(store).splitlines()
    assert "never listed" not in problems(store)
    if folder == "data":
        assert "listed assets are unaccounted for: picture-" in problems(store)
        assert verify_store(store, store.snapshot(), deep=False).problems


def test_a_cut_or_longer_shard_is_found(noise_job: JobOf) -> None:
    """Sizes are compared with what was committed."""
    store, _ = a_store(noise_job())
    damaged(store, first_shard(store), lambda data: data.extend(b"tail"))
    assert "its bytes are not those that were committed" in problems(store)
    with pytest.raises(CorruptShardError), store.shard(first_shard(store)):
        pass


def test_a_missing_shard_is_the_stores_fault(noise_job: JobOf) -> None:
    """As a damaged one is."""
    store, _ = a_store(noise_job())
    path = first_shard(store)
    store.storage.delete(path)
    with pytest.raises(CorruptShardError, match=f"{path} is missing"), store.shard(path):
        pass


def rewritten(store: Store, **changes: Any) -> None:
    """Change the newest snapshot's file, as somebody with an editor would."""
    snapshot = replace(store.snapshot(), **changes)
    file = Path(store.uri, f"_log/{snapshot.number:020d}.json")
    file.write_bytes(snapshot.to_bytes())


def segment(store: Store, change: Callable[[list[dict[str, Any]]], object]) -> None:
    """Change the manifest's rows, with all hashes made to fit."""
    rows = store.segments(store.snapshot()).to_pylist()
    change(rows)
    table = pa.Table.from_pylist(rows, SEGMENT_SCHEMA)
    rewritten(store, segments=(put_table(store.storage, "manifest", table),))


def test_a_shard_that_is_listed_twice_is_found(noise_job: JobOf) -> None:
    """Its samples occur twice, and the totals no longer agree."""
    store, _ = a_store(noise_job())
    segment(store, lambda rows: rows.append(rows[0]))
    assert "6 sample ids occur more than once: picture-0000#0" in problems(store)
    assert "the snapshot says 24 samples; shards hold 30" in problems(store)


def test_a_shard_that_is_left_out_is_found(noise_job: JobOf) -> None:
    """Listed assets that are in no shard, quarantine or filter are told."""
    store, _ = a_store(noise_job())
    segment(store, lambda rows: rows.pop())
    assert "6 listed assets are unaccounted for: picture-0018" in problems(store)


def test_an_asset_that_is_rejected_and_has_samples_is_found(noise_job: JobOf) -> None:
    """In exactly one of samples, quarantine and filtered."""
    store, snapshot = a_store(noise_job(**BAD))
    row = store.rejects(snapshot).to_pylist()[0] | {"asset_key": "picture-0000"}
    stranger = row | {"asset_key": "picture-9999"}
    schema = store.rejects(snapshot).schema
    extra = pa.Table.from_pylist([row, stranger], schema)
    ref = put_table(store.storage, "quarantine", extra)
    rewritten(store, rejects=(*snapshot.rejects, ref))
    assert "have samples and are rejected as well: picture-0000" in problems(store)
    assert "1 assets were never listed: picture-9999" in problems(store)
    rewritten(store, rejects=(*snapshot.rejects, *snapshot.rejects))
    assert "2 assets are rejected more than once" in problems(store)


def test_ids_outside_the_vocabulary_are_found(noise_job: JobOf) -> None:
    """A shard of 8-bit ids, of which the spec allows only the first 40, with a hash that fits."""
    store, snapshot = a_store(noise_job())
    spec = snapshot.spec
    grid = replace(spec["image"], vocab_sizes=(40,))
    small = replace(spec, streams=(grid, spec["run"]))
    for path in store.segments(snapshot).column("path").to_pylist():
        rename_spec(store, path, small)
    rewritten(store, spec=small)
    refit(store)
    assert "stream 'image' holds ids outside its vocabulary" in problems(store)


def rename_spec(store: Store, path: str, spec: Any) -> None:
    """Write a shard again with another spec in its metadata and the same bytes in its columns."""
    file = Path(store.uri, path)
    with pa.ipc.open_file(pa.BufferReader(file.read_bytes())) as reader:
        batches = [reader.get_batch(i) for i in range(reader.num_record_batches)]
        metadata = dict(reader.schema.metadata)
    metadata[b"tokenmill.spec"] = json.dumps(spec.to_json(), sort_keys=True).encode()
    schema = batches[0].schema.with_metadata(metadata)
    with pa.ipc.new_file(file, schema) as writer:
        for batch in batches:
            writer.write_batch(pa.RecordBatch.from_arrays(batch.columns, schema=schema))


def refit(store: Store) -> None:
    """Make the manifest's hashes fit the shards again."""
    import hashlib

    def change(rows: list[dict[str, Any]]) -> None:
        for row in rows:
            data = Path(store.uri, row["path"]).read_bytes()
            row |= {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}

    segment(store, change)


def test_a_shard_of_another_kind_is_found(noise_job: JobOf) -> None:
    """Its spec is not the store's."""
    store, snapshot = a_store(noise_job())
    grid = replace(snapshot.spec["image"], vocab_sizes=(255,))
    other = replace(snapshot.spec, streams=(grid, snapshot.spec["run"]))
    rename_spec(store, first_shard(store), other)
    refit(store)
    assert "its token spec is not the store's" in problems(store)


def test_a_fingerprint_that_is_not_its_parts_hash_is_found(noise_job: JobOf) -> None:
    """What a store says it holds is what it was hashed from."""
    store, snapshot = a_store(noise_job())
    rewritten(store, fingerprint_parts=snapshot.fingerprint_parts | {"tokenizer": {"kind": "x"}})
    assert "the fingerprint is not the hash of its parts" in problems(store)


def test_a_version_tells_the_layout_of_its_shards(noise_job: JobOf) -> None:
    """From the first shard there is; a version without any says so."""
    store, snapshot = a_store(noise_job())
    assert store.layout(snapshot).spec == snapshot.spec
    with pytest.raises(StoreError, match="has no samples"):
        store.layout(replace(snapshot, segments=()))


def test_receipts_are_found_by_unit(noise_job: JobOf) -> None:
    """Only those that were asked for and exist."""
    store, _ = a_store(noise_job())
    names = units(store)
    found = store.receipts([names[1], "0" * 32])
    assert list(found) == [names[1]]
    assert isinstance(found[names[1]], Receipt)
    path = Path(store.uri, f"receipts/{names[1]}.json")
    assert path.read_bytes() == canonical_json(found[names[1]].to_json())
