"""A Prefect server that the project itself starts and ends, shared by all tests of flows."""

from __future__ import annotations

import urllib.request
from collections.abc import Iterator
from json import dumps, loads
from pathlib import Path
from typing import Any

import pytest

from tokenmill_pipelines.flows.server import temporary_server
from tokenmill_pipelines.flows.settings import DEFAULTS


@pytest.fixture(scope="session")
def prefect_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    """The home and the URL of a server, for the whole session: one takes ten seconds to start."""
    home = tmp_path_factory.mktemp("prefect")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in DEFAULTS.items():
            patch.setenv(name, value)
        with temporary_server(home) as url:
            patch.undo()
            yield home, url


@pytest.fixture
def api(prefect_server: tuple[Path, str], monkeypatch: pytest.MonkeyPatch) -> str:
    """The server's URL, with Prefect pointed at it and at its home."""
    home, url = prefect_server
    for name, value in {**DEFAULTS, "PREFECT_HOME": str(home), "PREFECT_API_URL": url}.items():
        monkeypatch.setenv(name, value)
    return url


def ask(api: str, what: str, *, run: str = "") -> list[dict[str, Any]]:
    """All records of a kind, oldest first; with ``run`` those of one flow run."""
    request = urllib.request.Request(
        f"{api}/{what}/filter", dumps({}).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        found: list[dict[str, Any]] = loads(answer.read())
    asked = [record for record in found if not run or record["flow_run_id"] == run]
    return sorted(asked, key=lambda record: str(record["created"]))
