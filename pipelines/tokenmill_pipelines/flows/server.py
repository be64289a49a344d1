"""A quiet Prefect server: bound to loopback, logging to a file, ended with the run that it is for.

Prefect's own ephemeral server shares the terminal with the run and prints tracebacks when it is
ended; this one is an ordinary server process whose output goes into the Prefect home.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from tokenmill_schemas.errors import TokenmillError

#: A first start makes the database, which takes some ten seconds on two cores, more on busy ones.
START_S = 120.0
STOP_S = 15.0

#: Services that a server of one run has no use for; each costs start-up time and polling.
NOT_NEEDED = {
    "PREFECT_SERVER_SERVICES_SCHEDULER_ENABLED": "false",
    "PREFECT_SERVER_SERVICES_LATE_RUNS_ENABLED": "false",
    "PREFECT_SERVER_SERVICES_FOREMAN_ENABLED": "false",
    "PREFECT_SERVER_SERVICES_REPOSSESSOR_ENABLED": "false",
    "PREFECT_SERVER_SERVICES_CANCELLATION_CLEANUP_ENABLED": "false",
    "PREFECT_SERVER_SERVICES_PAUSE_EXPIRATIONS_ENABLED": "false",
    "PREFECT_SERVER_UI_ENABLED": "false",
}

#: Of every server of ours: leases outlive it, or a slot taken at its end would stay taken.
ALWAYS = {
    "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": (
        "prefect.server.concurrency.lease_storage.filesystem"
    ),
}
#: Where Prefect's own servers are found.
USUAL_PORT = 4200
#: Names another one; 0 is any that is free.
PORT = "TOKENMILL_PREFECT_PORT"


class PrefectServerError(TokenmillError):
    """The temporary Prefect server did not come up; its log says why."""


@contextlib.contextmanager
def temporary_server(home: Path, *, lasting: bool = False) -> Iterator[str]:
    """Run a Prefect server on a free loopback port; gives its API URL.

    A ``lasting`` one has all services and the user interface, on Prefect's usual port if that is
    free; the others have what one run needs.

    Raises:
        PrefectServerError: it did not answer in time.
    """
    home.mkdir(parents=True, exist_ok=True)
    port = _free_port(int(os.environ.get(PORT, USUAL_PORT)) if lasting else 0)
    # The page in the browser asks there for its data; the default names the usual port.
    extra = {"PREFECT_SERVER_UI_API_URL": _api(port)} if lasting else NOT_NEEDED
    log = home / "server.log"
    with log.open("ab") as output:
        process = subprocess.Popen(
            _command(port),
            stdout=output,
            stderr=output,
            stdin=subprocess.PIPE,
            env=os.environ | ALWAYS | extra | {"PREFECT_HOME": str(home)},
            # Ctrl-C is for the run; it ends the server itself when it has reported its own end.
            start_new_session=True,
        )
    try:
        _wait(process, f"{_api(port)}/health", log)
        yield _api(port)
    finally:
        _end(process)


def _command(port: int) -> list[str]:
    return [sys.executable, "-m", "tokenmill_pipelines.flows.serving", str(port)]


def _api(port: int) -> str:
    return f"http://127.0.0.1:{port}/api"


def _free_port(wanted: int = 0) -> int:
    """Return ``wanted`` if it is free, else any free port."""
    with socket.socket() as probe:
        # As the server will: a port whose last connections are still closing is free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", wanted))
        except OSError:
            probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        if _answers(url):
            return
        time.sleep(0.1)
    raise PrefectServerError(f"no Prefect server came up within {START_S:g} s; see {log}")


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:  # noqa: S310  (our own http URL)
            return bool(answer.status == 200)
    except (urllib.error.URLError, ConnectionError, TimeoutError):
        return False


def _end(process: subprocess.Popen[bytes]) -> None:
    """Close the pipe, which the server takes for the end of the run, and wait for it."""
    if process.stdin is not None:
        process.stdin.close()
    try:
        process.wait(STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
