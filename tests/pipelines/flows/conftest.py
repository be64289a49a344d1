"""``tokenmill serve`` in a process of its own, with its own Prefect server."""

from __future__ import annotations

import signal
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http import HTTPStatus
from json import dumps, loads
from pathlib import Path
from typing import Any, TypeVar

import psutil
import pytest
from tests.pipelines.cli.conftest import command, environment

from tokenmill.testing.children import tied

T = TypeVar("T")

#: The runner of a test looks for work at once.
QUICK = {"PREFECT_RUNNER_POLL_FREQUENCY": "1"}
PATIENCE_S = 100.0

JOB = """
[source]
kind = "tokenmill.testing.faults:NoisePictures"
count = {count}
start = {start}
open_s = {open_s}
[decoder]
kind = "tokenmill.testing.faults:FaultyDecoder"
[tokenizer]
kind = "tokenmill.testing.faults:BlockMeans"
[shards]
unit_assets = 4
[store]
uri = "../{store}"
[cluster]
backend = "local"
actors = 1
[schedule]
cron = "30 3 * * *"
timezone = "Asia/Tokyo"
"""


def until(what: Callable[[], T | None], why: str) -> T:
    """Return the first answer that is not None or False."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        found = what()
        if found:
            return found
        time.sleep(0.1)
    raise AssertionError(f"waited in vain for {why}")


@dataclass(frozen=True, slots=True)
class Api:
    """A Prefect API, asked as any client could."""

    url: str

    def post(self, path: str, body: dict[str, Any] | None = None) -> Any:
        """Send a request and return its answer."""
        request = urllib.request.Request(
            f"{self.url}/{path}", dumps(body or {}).encode(), {"Content-Type": "application/json"}
        )
        deadline = time.monotonic() + PATIENCE_S
        while True:
            try:
                with urllib.request.urlopen(request, timeout=PATIENCE_S) as answer:
                    return loads(answer.read() or b"null")
            except urllib.error.HTTPError as error:
                # What Prefect says when its database is busy; its own client asks again too.
                if error.code != HTTPStatus.SERVICE_UNAVAILABLE or time.monotonic() > deadline:
                    raise
                time.sleep(0.5)

    def run(self, deployment: str) -> str:
        """Start a deployment by hand; return the id of its flow run."""
        found = self.post("deployments/filter", {"deployments": {"name": {"any_": [deployment]}}})
        return str(self.post(f"deployments/{found[0]['id']}/create_flow_run")["id"])

    def state(self, run: str) -> dict[str, Any]:
        """Return a flow run."""
        found = self.post("flow_runs/filter", {"flow_runs": {"id": {"any_": [run]}}})
        return dict(found[0])

    def ended(self, run: str) -> dict[str, Any]:
        """Wait for the end of a flow run."""
        final = {"COMPLETED", "FAILED", "CRASHED", "CANCELLED"}

        def look() -> dict[str, Any] | None:
            record = self.state(run)
            return record if record["state_type"] in final else None

        return until(look, f"the end of {run}")

    def scheduled(self, deployment: str) -> list[str]:
        """Return when a deployment's scheduled runs are due, in order."""
        body = {
            "deployments": {"name": {"any_": [deployment]}},
            "flow_runs": {"state": {"type": {"any_": ["SCHEDULED"]}}},
            "sort": "EXPECTED_START_TIME_ASC",
        }
        runs = self.post("flow_runs/filter", body)
        return [run["expected_start_time"] for run in runs if run["auto_scheduled"]]

    def events(self, name: str) -> list[dict[str, Any]]:
        """Return the events of a name, oldest first."""
        body = {"filter": {"event": {"name": [name]}, "order": "ASC"}}
        return list(self.post("events/filter", body)["events"])


@dataclass(frozen=True, slots=True)
class Serving:
    """``tokenmill serve JOBS --json`` under way, with the server that it brought."""

    process: subprocess.Popen[str]
    folder: Path
    home: Path
    said: dict[str, Any]

    @property
    def api(self) -> Api:
        """The server."""
        return Api(self.said["api"])

    def store(self, name: str) -> str:
        """Return the address of a store beside the folder of jobs."""
        return str(self.folder.parent / name)

    def engine(self, run: str) -> psutil.Process:
        """Return the process of a flow run."""

        def look() -> psutil.Process | None:
            for child in psutil.Process(self.process.pid).children(recursive=True):
                try:
                    if child.environ().get("PREFECT__FLOW_RUN_ID") == run:
                        return child
                except psutil.Error:
                    continue
            return None

        return until(look, f"the process of {run}")

    def end(self, number: signal.Signals) -> tuple[int, float]:
        """Ask it to end; return its exit code and how long it took."""
        start = time.monotonic()
        self.process.send_signal(number)
        return self.process.wait(PATIENCE_S), time.monotonic() - start


def write_job(folder: Path, name: str, *, count: int = 4, start: int = 0, open_s: float) -> None:
    """Write a job file; jobs whose names begin with "lone" have a store of their own."""
    store = name if name.startswith("lone") else "store"
    text = JOB.format(start=start, count=count, open_s=open_s, store=store)
    (folder / f"{name}.toml").write_text(text)


def start_serving(folder: Path, home: Path) -> Serving:
    """Start to serve a folder and wait until it says that it does."""
    log = home / "serve.log"
    with log.open("w") as errors:
        process = subprocess.Popen(
            tied(command("serve", str(folder), "--json")),
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env={**environment(), **QUICK, "PREFECT_HOME": str(home)},
        )
    text = ""
    said: dict[str, Any] = {}
    while not said and process.stdout is not None:
        line = process.stdout.readline()
        if not line:
            raise AssertionError(log.read_text())
        text += line
        if line == "}\n":
            said = loads(text)
    return Serving(process, folder, home, said)


@pytest.fixture(scope="session")
def serving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    """Two jobs on one slow store and one job with its own, served."""
    folder = tmp_path_factory.mktemp("serve") / "jobs"
    folder.mkdir()
    write_job(folder, "cats", open_s=0.8)
    write_job(folder, "dogs", start=10, open_s=0.8)
    write_job(folder, "lone", open_s=0.0)
    served = start_serving(folder, tmp_path_factory.mktemp("home"))
    yield served
    if served.process.poll() is None:
        served.end(signal.SIGTERM)
    if served.process.stdout is not None:
        served.process.stdout.close()
