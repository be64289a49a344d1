"""A store that the command itself made of the sample corpus, and a way to call the command."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from tokenmill_pipelines.cli.app import app

ROOT = Path(__file__).parents[3]
JOB = ROOT / "pipelines" / "jobs" / "tiny.toml"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a call of the command left."""

    code: int
    out: str
    err: str

    def document(self) -> Any:
        """Return standard output as the one JSON document that it must be."""
        return json.loads(self.out)


def call(*args: str) -> Outcome:
    """Call the command in this process."""
    result = CliRunner().invoke(app, list(args))
    return Outcome(result.exit_code, result.stdout, result.stderr)


def command(*args: str) -> list[str]:
    """Return the command line of a process of its own."""
    return [sys.executable, "-m", "tokenmill_pipelines.cli", *args]


def environment() -> dict[str, str]:
    """Return the environment without a Prefect API of the machine's, with one thread a library."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("PREFECT_")}
    # Workers that start servers at one moment would both find the usual port free.
    return kept | {"OMP_NUM_THREADS": "1", "TOKENMILL_PREFECT_PORT": "0"}


def spawn(*args: str) -> Outcome:
    """Call the command in a process of its own."""
    done = subprocess.run(
        command(*args), capture_output=True, text=True, check=False, env=environment()
    )
    return Outcome(done.returncode, done.stdout, done.stderr)


def demo(store: Path, *more: str) -> list[str]:
    """Return the arguments of a run of the demo job on this machine's cores into ``store``."""
    sets = [f"store.uri={store}", "cluster.backend=local", "cluster.actors=1", *more]
    return ["run", str(JOB), *(word for text in sets for word in ("--set", text))]


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Outcome]:
    """Return a store of the sample corpus and what the run that made it said (as JSON)."""
    store = tmp_path_factory.mktemp("cli") / "store"
    return store, spawn(*demo(store), "--json")
