"""The codebook beside a store's tokens: written by the run, once, and left alone by everything."""

from __future__ import annotations

import errno
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.operators.store.scenes import JobOf, files, made, shown, sound
from tests.operators.store.test_gc import aged

from tokenmill.store import Store
from tokenmill.store.codebooks import has_codebook, put_codebook
from tokenmill.store.compact import compact
from tokenmill.store.gc import DAY_S, gc
from tokenmill.store.paths import CODEBOOKS, codebook_file
from tokenmill.store.purge import purge
from tokenmill.store.takedown import takedown
from tokenmill.testing.faults import BlockMeansEncoder, content_of
from tokenmill.testing.feed import build_store
from tokenmill.testing.storage import Fault, FaultPlan, FaultyStorage, Rule
from tokenmill.tokenizers.patch_vq import PatchVQ
from tokenmill.worker.worker import Worker
from tokenmill_infra.observe import SilentObserver
from tokenmill_infra.storage import Storage, open_storage
from tokenmill_pipelines.assemble import assemble
from tokenmill_pipelines.jobs import run_job
from tokenmill_schemas.errors import CorruptShardError, StoreError, TokenmillError
from tokenmill_schemas.job import Job

FINGERPRINT = "f" * 64
STORES = Path(__file__).parents[2] / "compat" / "stores"


@pytest.fixture
def patches(noise_job: JobOf) -> Callable[..., Job]:
    """Makes jobs of a tokenizer that has a codebook."""

    def make(**sections: Any) -> Job:
        view = {"kind": "center_crop", "size": 32, "rule": "bicubic"}
        return noise_job(tokenizer={"kind": "patch_vq"}, view=view, **sections)

    return make


def faulty(patch: pytest.MonkeyPatch, plan: FaultPlan) -> None:
    """Put faults between every store that is opened from now on and its storage."""

    def open_faulty(*args: object) -> Storage:
        return FaultyStorage(open_storage(*args), plan)  # type: ignore[arg-type]  # as it came

    patch.setattr("tokenmill.store.store.open_storage", open_faulty)


def test_a_run_writes_the_codebook_of_its_tokens(patches: Callable[..., Job]) -> None:
    """Its codes are the encoder's, one for every id, and the store gives them by version."""
    store = made(patches())
    book = store.codebook()
    assert list(book) == ["image"]
    assert (book["image"].dtype, book["image"].shape) == (np.dtype(np.float32), (4096, 40))
    np.testing.assert_array_equal(book["image"], PatchVQ().load().codebook()["image"])
    stream = store.snapshot().spec["image"]
    assert len(book["image"]) == stream.vocab_sizes[0]
    assert [path for path in files(Path(store.uri)) if path.startswith(CODEBOOKS)] == [
        codebook_file(store.snapshot().fingerprint)
    ]


def test_two_runs_write_the_same_bytes(patches: Callable[..., Job], tmp_path: Path) -> None:
    """Content follows from the fingerprint alone, whichever run or worker writes it."""
    stores = [made(patches(store=name, cluster={"actors": n})) for name, n in (("a", 1), ("b", 2))]
    found = [files(tmp_path / name) for name in ("a", "b")]
    path = codebook_file(stores[0].snapshot().fingerprint)
    assert found[0][path] == found[1][path]


def test_the_codebook_comes_before_the_first_shard_and_is_written_once(
    patches: Callable[..., Job], tmp_path: Path
) -> None:
    """A second run, a second worker and a second put change nothing."""
    store = made(patches())
    fingerprint, root = store.snapshot().fingerprint, tmp_path / "store"
    book = root / codebook_file(fingerprint)
    first = min(path.stat().st_mtime_ns for path in (root / "data").iterdir())
    assert book.stat().st_mtime_ns < first
    before = book.stat()
    run_job(patches(source={"count": 30}), observer=SilentObserver())
    assert put_codebook(store, fingerprint, {"image": np.zeros((2, 2), np.float32)}) is False
    assert (book.stat().st_ino, book.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


@pytest.mark.parametrize("fault", ["busy", "lost"])
def test_a_storage_that_gives_up_costs_an_attempt(
    fault: Fault, patches: Callable[..., Job], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The unit is tried again on the spot; the store is as without the fault."""
    whole = content_of(made(patches(store="whole")).uri)
    plan = FaultPlan((Rule(fault, path="codebooks/*", operations=("create",)),))
    faulty(monkeypatch, plan)
    assert content_of(made(patches()).uri) == whole
    assert any(path.startswith(CODEBOOKS) for path in whole)


def test_a_full_disk_ends_the_run_before_its_first_shard(
    patches: Callable[..., Job], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing refers to a codebook that is not there; the next run completes it."""
    with monkeypatch.context() as patch:
        faulty(patch, FaultPlan((Rule("full", "codebooks/*", ("create",), times=0),)))
        with pytest.raises((TokenmillError, OSError), match=os.strerror(errno.ENOSPC)):
            run_job(patches(), observer=SilentObserver())
    assert not list((tmp_path / "store").glob("data/*"))
    assert not list((tmp_path / "store").glob("codebooks/*"))
    assert list(made(patches()).codebook()) == ["image"]


def test_a_codebook_of_another_fingerprint_is_another_file(tmp_path: Path) -> None:
    """Two kinds of tokens in one place (column groups) keep a codebook each."""
    store = build_store(tmp_path, [4])
    one, two = np.eye(3, dtype=np.float32), np.ones((2, 5), np.float32)
    assert put_codebook(store, FINGERPRINT, {"image": one})
    assert put_codebook(store, store.snapshot().fingerprint, {"image": two, "phi.0.bias": one[0]})
    assert has_codebook(store, FINGERPRINT)
    book = store.codebook()
    np.testing.assert_array_equal(book["image"], two)
    np.testing.assert_array_equal(book["phi.0.bias"], one[0])


def test_gc_compact_purge_and_verify_leave_it_alone(
    patches: Callable[..., Job], tmp_path: Path
) -> None:
    """However old, and although no version names it."""
    store, root = made(patches()), tmp_path / "store"
    path = root / codebook_file(store.snapshot().fingerprint)
    data = path.read_bytes()
    compact(store)
    takedown(store, keys=[shown(store)[0].split("#")[0]])
    aged(root, 30 * DAY_S)
    purge(store, grace_s=0)
    aged(root, 30 * DAY_S)
    gc(store, grace_s=0, expire_older_than_s=0)
    assert path.read_bytes() == data
    assert sound(store)


def test_a_store_without_one_says_so_and_what_to_do(noise_job: JobOf) -> None:
    """A tokenizer without codes writes nothing; asking names the fingerprint and the remedy."""
    store = made(noise_job())
    assert not any(store.storage.list(CODEBOOKS))
    with pytest.raises(StoreError, match=r"no codebook of fingerprint [0-9a-f]{12}.*put_codebook"):
        store.codebook()


def test_stores_of_old_keep_none_and_can_be_given_one(tmp_path: Path) -> None:
    """A golden store has no codebook; one that is put is read back."""
    with zipfile.ZipFile(STORES / "v1-arrow.zip") as archive:
        archive.extractall(tmp_path)
    root = next(path.parent for path in tmp_path.rglob("_log"))
    store = Store.open(str(root))
    with pytest.raises(StoreError, match="keeps no codebook"):
        store.codebook()
    put_codebook(store, store.snapshot().fingerprint, {"image": np.eye(2, dtype=np.float32)})
    np.testing.assert_array_equal(store.codebook()["image"], np.eye(2))


def test_a_damaged_codebook_is_a_store_error(tmp_path: Path) -> None:
    """Bytes that are no safetensors name the file."""
    store = build_store(tmp_path, [4])
    path = codebook_file(store.snapshot().fingerprint)
    store.storage.create(path, b"no tensors here, but long enough")
    with pytest.raises(CorruptShardError, match="codebooks/"):
        store.codebook()


def test_an_encoder_that_names_no_codes_writes_none(
    noise_job: JobOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An empty answer (FSQ, latents) is no file; the encoder is asked once a worker."""
    asked = []

    def codebook(self: BlockMeansEncoder) -> dict[str, Any]:
        asked.append(self)
        return {}

    monkeypatch.setattr(BlockMeansEncoder, "codebook", codebook, raising=False)
    store = made(noise_job())
    assert len(asked) == 1
    assert not any(store.storage.list(CODEBOOKS))


def test_a_worker_that_runs_nothing_writes_nothing(patches: Callable[..., Job]) -> None:
    """Loading alone, as for a trial or a benchmark, leaves a store as it was."""
    assembly = assemble(patches())
    assert assembly.worker_spec(0.0).fingerprint == assembly.identity.fingerprint
    Worker(assembly.worker_spec(0.0)).close()
    assert not assembly.store.storage.exists(codebook_file(assembly.identity.fingerprint))
