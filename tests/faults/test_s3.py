"""Whole jobs on a real S3 server behind a proxy that fails: the store is the one without faults."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tokenmill.store import Store
from tokenmill.store.verify import verify_store
from tokenmill.testing.faults import CONTENT, content_of
from tokenmill.testing.s3proxy import Rule, s3_proxy
from tokenmill.testing.s3server import S3Server
from tokenmill.testing.storage_contract import check_storage
from tokenmill.testing.stores import encode_assets, shown
from tokenmill_infra.observe import SilentObserver
from tokenmill_infra.storage import open_storage
from tokenmill_infra.storage.objects import ObjectStorage
from tokenmill_infra.storage.retry import Retry
from tokenmill_pipelines.jobs import run_job
from tokenmill_pipelines.run import RunResult
from tokenmill_schemas.errors import TransientError
from tokenmill_schemas.job import Job, job_table

pytestmark = pytest.mark.s3

JobOf = Callable[..., Job]
DRIVE = Path(__file__).with_name("drive.py")

#: By ``each`` every single request that matches is struck, so that none is left out.
FAULTS = {
    "slow_down": (Rule("slow_down", "PUT", each=True), Rule("slow_down", "GET", times=5)),
    "unavailable": (Rule("unavailable", "GET", each=True), Rule("unavailable", "HEAD", times=3)),
    "internal_error": (Rule("internal_error", "GET", each=True),),
    "lost_requests": (Rule("lose_request", each=True),),
    "lost_replies": (Rule("lose_reply", "PUT", each=True),),
    "replies_lost_twice": (Rule("lose_reply", "PUT", "/_log/|/receipts/", times=2, each=True),),
    "cut_reads": (Rule("cut_body", "GET", each=True),),
    "delays": (Rule("delay", times=6, after=4, seconds=0.2),),
    "late_lists": (Rule("list_late", "GET", "list-type=2", times=0, seconds=3600),),
}


def at(job: Job, uri: str) -> Job:
    """The job with its store elsewhere."""
    return replace(job, store=replace(job.store, uri=uri))


def content(uri: str) -> dict[str, str]:
    """What `content_of` says of a local store, of one anywhere."""
    storage = open_storage(uri)
    paths = sorted(entry.path for folder in CONTENT for entry in storage.list(folder))
    return {path: hashlib.sha256(storage.read(path)).hexdigest() for path in paths}


def run(job: Job) -> RunResult:
    """Run a job to its end in this process."""
    return run_job(job, observer=SilentObserver())


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Filled by the first test that needs it: the content of the store that no fault touched."""
    return {}


def expected(whole: dict[str, str], noise_job: JobOf) -> dict[str, str]:
    """The content of the same job's store on a local disk."""
    if not whole:
        whole.update(content_of(run(noise_job("whole")).store_uri))
    return whole


def test_the_server_keeps_the_contract_of_a_storage(s3_root: str, tmp_path: Path) -> None:
    """What stores rely on, asked of SeaweedFS."""
    check_storage(open_storage(s3_root), tmp_path)


@pytest.mark.parametrize("fault", FAULTS)
def test_a_job_gives_the_same_store_whatever_fails_on_the_way(
    fault: str,
    noise_job: JobOf,
    s3: S3Server,
    s3_root: str,
    whole: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Byte for byte that of a local disk; one version; and every rule has struck."""
    wanted = expected(whole, noise_job)
    with s3_proxy(s3.endpoint_url, FAULTS[fault]) as proxy, monkeypatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", proxy.endpoint_url)
        result = run(at(noise_job(), s3_root))
    assert all(proxy.hits), proxy.hits
    assert result.committed
    assert content(s3_root) == wanted
    store = Store.open(s3_root)
    assert [snapshot.number for snapshot in store.snapshots()] == [1]
    assert verify_store(store, store.snapshot()).problems == ()
    again = run(at(noise_job(), s3_root))
    assert (again.committed, again.snapshot_number) == (False, 1)


def test_a_commit_whose_reply_was_lost_is_made_once(
    s3: S3Server, s3_root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three appends, each of whose replies are lost three times: three versions, nothing twice."""
    rule = Rule("lose_reply", "PUT", "/_log/", times=3, each=True)
    with s3_proxy(s3.endpoint_url, [rule]) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint_url)
        store = Store.of(s3_root)
        for number in (1, 2, 3):
            commit = encode_assets(store, {f"asset-{number}": "v1"})
            made = store.commit(commit)
            assert (made.number, made.commit_id) == (number, commit.commit_id)
    assert proxy.hits == [9]
    assert sorted(shown(store.at())) == ["asset-1", "asset-2", "asset-3"]


def test_a_request_of_ours_is_one_of_the_clients(
    s3: S3Server, s3_root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Retries do not multiply: a server that is always busy is asked once a wait, and no more."""
    retry, waits = Retry(deadline_s=1.0, first_s=0.2), 0

    def counted(self: Retry) -> object:
        nonlocal waits
        for wait in original(self):
            waits += 1
            yield wait

    original = Retry.waits
    monkeypatch.setattr(Retry, "waits", counted)
    with s3_proxy(s3.endpoint_url, [Rule("slow_down", times=0)]) as proxy:
        options = {**s3.options, "endpoint_url": proxy.endpoint_url}
        storage = ObjectStorage(s3_root, options, retry)
        with pytest.raises(TransientError, match="SlowDown"):
            storage.read("x")
    assert len(proxy.requests) == waits + 1 > 2


def test_two_drivers_at_once_make_one_version(
    noise_job: JobOf, s3_root: str, tmp_path: Path, whole: dict[str, str]
) -> None:
    """Both end well, and no shard lies there twice."""
    job = at(noise_job(), s3_root)
    file = tmp_path / "job.json"
    file.write_text(json.dumps(job_table(job)))
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(DRIVE), str(file)]
    with (tmp_path / "log").open("wb") as log:
        drivers = [subprocess.Popen(command, stderr=log, env=environment) for _ in range(2)]
        codes = [driver.wait(120) for driver in drivers]
    assert codes == [0, 0], (tmp_path / "log").read_text()
    assert content(s3_root) == expected(whole, noise_job)
    store = Store.open(s3_root)
    assert [snapshot.number for snapshot in store.snapshots()] == [1]
    assert verify_store(store, store.snapshot()).problems == ()


def test_eight_committers_that_race_all_come_in(s3_root: str) -> None:
    """Eight versions, each with its own assets; the last has them all."""
    stores = [Store.of(s3_root) for _ in range(8)]
    commits = [encode_assets(store, {f"asset-{n}": "v1"}) for n, store in enumerate(stores)]
    barrier, made = threading.Barrier(8), []

    def commit(number: int) -> None:
        barrier.wait()
        made.append(stores[number].commit(commits[number]).number)

    threads = [threading.Thread(target=commit, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(made) == list(range(1, 9))
    store = Store.open(s3_root)
    assert set(shown(store.at())) == {f"asset-{number}" for number in range(8)}
    assert {snapshot.commit_id for snapshot in store.snapshots()} == {
        commit.commit_id for commit in commits
    }


def test_a_large_upload_survives_lost_parts_and_a_lost_end(
    s3: S3Server, s3_root: str, tmp_path: Path
) -> None:
    """40 MB in three parts, some refused, one and the end unanswered; read back in parts."""
    data = os.urandom(2**20) * 40
    (tmp_path / "shard").write_bytes(data)
    rules = [
        Rule("slow_down", "PUT", path="partNumber=", times=2),
        Rule("lose_reply", "PUT", path="partNumber=", times=1),
        Rule("lose_reply", "POST", path="uploadId=", times=1),
        Rule("cut_body", "GET", path="/shard", times=2),
    ]
    with s3_proxy(s3.endpoint_url, rules) as proxy:
        storage = open_storage(s3_root, {**s3.options, "endpoint_url": proxy.endpoint_url})
        storage.create_from("data/shard", tmp_path / "shard")
        assert storage.read("data/shard") == data
        assert storage.read("data/shard", 5, 39 * 2**20) == data[5 : 39 * 2**20]
    assert proxy.hits == [2, 1, 1, 2]
    assert not (tmp_path / "shard").exists()
    parts = {target for method, target in proxy.requests if "partNumber=" in target}
    assert len(parts) == 3
