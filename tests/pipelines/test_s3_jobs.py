"""Everything on an object store: sources of every kind, checkpoints, stores, feeds; no secrets."""

from __future__ import annotations

import io
import json
import logging
import tarfile
import traceback
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tokenmill.feed import Feed
from tokenmill.feed.shards.files import ShardCache
from tokenmill.sources import opening
from tokenmill.sources.opening import open_asset
from tokenmill.store import Store
from tokenmill.testing.pictures import encoded, noise
from tokenmill.testing.s3server import S3Server
from tokenmill_infra.observe import PlainObserver, SilentObserver
from tokenmill_infra.storage import Storage, carried, open_storage, storage_options
from tokenmill_infra.storage.options import CONNECTIONS, options_for
from tokenmill_infra.storage.remote import connect
from tokenmill_pipelines.jobs import run_job
from tokenmill_schemas.asset import AssetRef
from tokenmill_schemas.errors import JobError, TokenmillError
from tokenmill_schemas.job import Job, parse_job

JobOf = Callable[..., Job]
on_s3 = pytest.mark.s3

PICTURES = {f"picture-{n}.png": encoded(noise(size=(40, 40), seed=n), "PNG") for n in range(6)}


def put_all(storage: Storage) -> None:
    """The pictures in every form in which a source finds them."""
    for name, data in PICTURES.items():
        storage.create(f"files/{name}", data)
    names = list(PICTURES)
    lines = "\n".join(json.dumps({"uri": f"files/{name}", "id": name}) for name in names)
    storage.create("list.jsonl", lines.encode())
    uris = [f"files/{name}" for name in names]
    for name, table in {
        "uris": pa.table({"uri": uris, "id": names}),
        "bytes": pa.table({"data": list(PICTURES.values()), "id": names}),
    }.items():
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink)
        storage.create(f"{name}.parquet", bytes(sink.getvalue()))
    tar = io.BytesIO()
    with tarfile.open(fileobj=tar, mode="w") as archive:
        for name, data in PICTURES.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    storage.create("tars/all-0.tar", tar.getvalue())


def sources(root: str) -> dict[str, dict[str, Any]]:
    """A section ``source`` for each kind."""
    return {
        "files": {"kind": "files", "urls": [f"{root}/files"]},
        "glob": {"kind": "files", "urls": [f"{root}/files/*-[0-9].png"]},
        "jsonl": {"kind": "jsonl", "urls": [f"{root}/list.jsonl"], "key": "id"},
        "parquet": {"kind": "parquet", "urls": [f"{root}/uris.parquet"], "key": "id"},
        "bytes": {
            "kind": "parquet",
            "urls": [f"{root}/bytes.parquet"],
            "bytes": "data",
            "key": "id",
            "modality": "image",
        },
        "tars": {"kind": "tars", "urls": [f"{root}/tars/all-{{0..0}}.tar"]},
    }


def job_of(source: dict[str, Any], store: str, **sections: Any) -> Job:
    """A job without weights."""
    table = {
        "name": "s3",
        "source": source,
        "tokenizer": {"kind": "tokenmill.testing.faults:BlockMeans"},
        "shards": {"unit_assets": 4},
        "store": {"uri": store},
        "cluster": {"backend": "local", "actors": 1, "fetch_threads": 2},
    }
    return parse_job({**table, **sections})


def tokens(store: Store, cache: Path) -> dict[str, list[int]]:
    """The tokens of a store's pictures by their number, read by a feed."""
    feed = Feed(
        store,
        batch_size=2,
        streams=("image",),
        columns=("asset_key",),
        epochs=1,
        cache=ShardCache(cache),
    )
    found = {}
    for batch in feed:
        for key, ids in zip(batch["asset_key"], batch["image"], strict=True):
            found[str(key).rpartition("-")[2].removesuffix(".png")] = np.ravel(ids).tolist()
    return found


@on_s3
def test_every_source_gives_the_tokens_that_it_gives_locally(
    s3: S3Server, s3_root: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The endpoint comes from the job alone; a rerun of each finds nothing new."""
    put_all(open_storage(s3_root))
    put_all(open_storage(str(tmp_path / "local")))
    wanted = {}
    for name, source in sources(str(tmp_path / "local")).items():
        job = job_of(source, str(tmp_path / f"store-{name}"))
        wanted[name] = tokens(
            Store.open(run_job(job, observer=SilentObserver()).store_uri), tmp_path
        )
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    options = {"endpoint_url": s3.endpoint_url}
    for name, source in sources(s3_root).items():
        job = job_of(source, s3.root(), storage={"s3": options})
        first, again = (run_job(job, observer=SilentObserver()) for _ in range(2))
        assert (first.quarantine, first.done["samples"], again.committed) == ((), 6, False), name
        store = Store.open(job.store.uri, options)
        assert tokens(store, tmp_path / "cache") == wanted[name]
        assert len(wanted[name]) == 6


@on_s3
def test_weights_come_from_a_bucket_by_the_jobs_options(
    s3: S3Server, s3_root: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same fingerprint as with the same file on the disk, and it is fetched once."""
    from tokenmill.tokenizers.patch_vq import WEIGHTS as weights  # noqa: N811

    storage = open_storage(s3_root)
    put_all(storage)
    name = weights.name
    storage.create(f"weights/{name}", weights.read_bytes())
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    found = []
    for checkpoint in (str(weights), f"{s3_root}/weights/{name}"):
        job = job_of(
            sources(s3_root)["files"],
            s3.root(),
            tokenizer={"kind": "patch_vq", "checkpoint": checkpoint},
            storage={"s3": {"endpoint_url": s3.endpoint_url}},
        )
        found.append(run_job(job, observer=SilentObserver()))
    assert found[0].content_id == found[1].content_id
    (fetched,) = (tmp_path / "cache/tokenmill/checkpoints").rglob(name)
    assert fetched.read_bytes() == weights.read_bytes()


@on_s3
def test_a_large_object_is_read_as_it_is_sought(
    s3_root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As films are: from anywhere, to any place, in ranges."""
    data = np.random.default_rng(1).bytes(3 * 2**20)
    open_storage(s3_root).create("film.bin", data)
    monkeypatch.setattr(opening, "WHOLE_BYTES", 2**20)
    with open_asset(AssetRef("k", f"{s3_root}/film.bin", size_bytes=len(data)), {}) as stream:
        for start, count in ((0, 100), (2_500_000, 10), (17, 1_000_000), (len(data) - 5, 50)):
            assert stream.seek(start) == start
            assert stream.read(count) == data[start : start + count]


def texts(storage: Storage) -> str:
    """All that a store's files say, tables unpacked."""
    said = []
    for entry in storage.list(""):
        data = storage.read(entry.path)
        said.append(f"{entry.path} {data.decode('latin-1')}")
        if entry.path.endswith(".parquet"):
            said.append(str(pq.read_table(pa.BufferReader(data)).to_pylist()))
        if entry.path.endswith(".arrow"):
            said.append(str(pa.ipc.open_file(pa.BufferReader(data)).read_all().to_pylist()))
    return "\n".join(said)


@on_s3
def test_no_secret_is_written_or_said(
    s3: S3Server,
    s3_root: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Not in the store and its report, not in logs, events or errors; with right and wrong keys."""
    caplog.set_level(logging.DEBUG)
    storage, events = open_storage(s3_root), io.StringIO()
    put_all(storage)
    storage.create("files/broken.png", b"no picture")
    job = job_of(sources(s3_root)["files"], f"{s3_root}/store")
    result = run_job(job, observer=PlainObserver(events))
    assert result.report.endswith(".html")
    assert result.quarantined == 1
    said = texts(open_storage(f"{s3_root}/store")) + events.getvalue() + caplog.text + str(result)
    assert s3.bucket in said
    assert s3.secret not in said
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong-and-very-secret")
    elsewhere = replace(job, store=replace(job.store, uri=str(tmp_path / "store")))
    for wrong in (job, elsewhere):
        with pytest.raises(TokenmillError, match=r"denied .*AWS_SECRET_ACCESS_KEY") as caught:
            run_job(wrong, observer=PlainObserver(events))
        said = "".join(traceback.format_exception(caught.value)) + events.getvalue() + caplog.text
        assert "wrong-and-very-secret" not in said


PASSWORD = "hunter2-very-secret"
WITH_PASSWORD = f"s3://KEY:{PASSWORD}@bucket/folder"
SIGNED = f"https://host/file.png?X-Amz-Credential=K&X-Amz-Signature={PASSWORD}"


@pytest.mark.parametrize(
    ("path", "sections"),
    [
        ("source.urls", {"source": {"kind": "files", "urls": ["x", WITH_PASSWORD]}}),
        ("source.urls", {"source": {"kind": "files", "urls": [SIGNED]}}),
        ("store.uri", {"store": {"uri": WITH_PASSWORD}}),
        ("tokenizer.checkpoint", {"tokenizer": {"kind": "x", "checkpoint": SIGNED}}),
        ("store.options.secret", {"store": {"uri": "s3://b/s", "options": {"secret": PASSWORD}}}),
        ("storage.s3.key", {"storage": {"s3": {"key": PASSWORD}}}),
        ("storage.s3.token", {"storage": {"s3": {"token": PASSWORD}}}),
        ("storage.abfs.sas_token", {"storage": {"abfs": {"sas_token": PASSWORD}}}),
        (
            "storage.s3.client_kwargs.aws_secret_access_key",
            {"storage": {"s3": {"client_kwargs": {"aws_secret_access_key": PASSWORD}}}},
        ),
        (
            "storage.s3.config_kwargs.proxies.http",
            {"storage": {"s3": {"config_kwargs": {"proxies": {"http": f"http://u:{PASSWORD}@h"}}}}},
        ),
        (
            "source.options.password",
            {"source": {"kind": "files", "urls": ["ftp://h/x"], "options": {"password": PASSWORD}}},
        ),
    ],
)
def test_secrets_in_a_job_are_refused_and_not_repeated(path: str, sections: dict[str, Any]) -> None:
    """With the key at fault and the variables to use instead."""
    table: dict[str, Any] = {
        "name": "secret",
        "source": {"kind": "files", "urls": ["x"]},
        "tokenizer": {"kind": "x"},
        "store": {"uri": "s"},
    }
    with pytest.raises(JobError, match="in the environment") as caught:
        parse_job({**table, **sections})
    assert caught.value.path == path
    assert PASSWORD not in "".join(traceback.format_exception(caught.value))


def test_what_is_no_secret_passes() -> None:
    """Options that only sound like one, addresses with a port or a user."""
    job = job_of(
        {"kind": "jsonl", "urls": ["http://user@host:80/list.jsonl?id=3&key=7"], "key": "id"},
        "s3://bucket/store",
        storage={"s3": {"anon": True, "endpoint_url": "http://host:9000", "profile": "me"}},
    )
    assert job.storage["s3"]["profile"] == "me"


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ({"s3": "x"}, "storage.s3: must be a table"),
        ({"s3a": {}}, "call it storage.s3"),
        ({"s33": {}}, "storage.s33: is no kind of storage; did you mean 's3'"),
    ],
)
def test_a_wrong_table_of_options_is_said(table: dict[str, Any], said: str) -> None:
    """The job's error, before anything is opened."""
    with pytest.raises(JobError, match=said):
        run_job(
            job_of({"kind": "files", "urls": ["/x"]}, "s", storage=table), observer=SilentObserver()
        )


@pytest.mark.parametrize("uri", [WITH_PASSWORD, SIGNED])
def test_a_listing_with_credentials_is_refused(uri: str, tmp_path: Path) -> None:
    """For its uris would be kept in the store; it is said of which asset, and not what."""
    (tmp_path / "list.jsonl").write_text(json.dumps({"uri": uri, "id": "the-first"}))
    source = {"kind": "jsonl", "urls": [str(tmp_path / "list.jsonl")], "key": "id"}
    with pytest.raises(JobError, match="'the-first' has a password in it or is signed") as caught:
        run_job(job_of(source, str(tmp_path / "store")), observer=SilentObserver())
    assert PASSWORD not in str(caught.value)
    assert not list((tmp_path / "store").rglob("*"))


def test_a_url_with_a_password_opens_no_store() -> None:
    """Whoever asks: s3fs would take it for the bucket's name and repeat it in its errors."""
    with pytest.raises(JobError, match="AWS_ACCESS_KEY_ID") as caught:
        Store.open(WITH_PASSWORD)
    assert PASSWORD not in "".join(traceback.format_exception(caught.value))


def test_options_of_a_context_stay_in_it_and_can_be_carried() -> None:
    """A caller's own win; other kinds of storage and other threads get none."""
    from concurrent.futures import ThreadPoolExecutor

    def asked() -> dict[str, Any]:
        return options_for("s3://b/x")

    with ThreadPoolExecutor(1) as pool, storage_options({"s3": {"a": 1, "b": 2}}):
        assert asked() == options_for("s3a://b") == pool.submit(carried(asked)).result()
        assert options_for("s3://b", {"b": 3}) == {"a": 1, "b": 3}
        assert pool.submit(asked).result() == options_for("gs://b") == {}
    assert asked() == {}


def test_a_client_has_bounded_connections_and_leaves_retries_to_us(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """AWS_REGION counts too; another environment makes another client."""
    monkeypatch.delenv("AWS_DEFAULT_REGION", raising=False)
    monkeypatch.setenv("AWS_REGION", "eu-north-1")
    fs = connect("s3://bucket/x", {})
    assert fs is connect("s3://bucket/y", {})
    assert fs.retries == 1
    assert fs.config_kwargs["retries"] == {"total_max_attempts": 1}
    assert fs.config_kwargs["max_pool_connections"] == CONNECTIONS
    assert fs.client_kwargs["region_name"] == "eu-north-1"
    monkeypatch.setenv("AWS_PROFILE", "another")
    assert fs is not connect("s3://bucket/x", {})
