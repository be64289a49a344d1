"""From the command `tokenmill run` to its first receipt in the store.

The command runs in a process of its own on the pictures that ship with the project, 16 of them a
unit, so that the first unit's work is small. Its JSON events say where the time goes:

- imports: from the start of the process to the run's first event (Python, imports, the job)
- list and plan: to the units
- connect: the pool opens; for Ray, a cluster of its own starts
- actors and first unit: to the first receipt: processes, imports, model load, 16 pictures

The model's load (torch's own import included, for those that need it) is measured apart in a fresh
process and taken off.
"""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

from benchmarks.common import (
    CHILD_ENV,
    ROOT,
    Measure,
    Section,
    answer,
    child,
    plain_tokenizer,
    task_given,
)

JOB = ROOT / "pipelines" / "jobs" / "demo.toml"
BARS = {"ray": 12.0, "local": 4.0}
ROUNDS = 3
STEPS = ("imports", "list and plan", "connect", "actors and first unit")


def run(
    *, rounds: int = ROUNDS, names: tuple[str, ...] = ("patch_vq", "llamagen")
) -> list[Section]:
    """Measure both backends with each tokenizer; rounds alternate."""
    measures: list[Measure] = []
    for name in names:
        loads = tuple(child("startup", {"name": name})["load_s"] for _ in range(rounds))
        load = Measure(f"{name}: model load alone", "s", loads)
        found: dict[str, list[dict[str, float]]] = {backend: [] for backend in BARS}
        for _ in range(rounds):
            for backend, runs in found.items():
                runs.append(_once(name, backend))
        measures.append(load)
        for backend, runs in found.items():
            measures += _rows(name, backend, runs, load=load.median)
    return [Section(f"Start-up: {', '.join(names)}", __doc__ or "", tuple(measures))]


def _rows(
    name: str, backend: str, runs: list[dict[str, float]], *, load: float
) -> Iterator[Measure]:
    less = tuple(run["first receipt"] - load for run in runs)
    label = f"{name}, {backend}"
    yield Measure(f"{label}: first receipt less model load", "s", less, BARS[backend], below=True)
    for step in ("first receipt", *STEPS):
        yield Measure(f"{label}: {step}", "s", tuple(run[step] for run in runs))


def _once(name: str, backend: str) -> dict[str, float]:
    with tempfile.TemporaryDirectory(prefix="bench-startup-") as folder:
        store = Path(folder, "store")
        command = [str(Path(sys.executable).with_name("tokenmill")), "run", str(JOB), "--json"]
        for setting in _settings(name, backend, store):
            command += ["--set", setting]
        start = time.time()
        process = subprocess.Popen(
            command,
            env={**os.environ, **CHILD_ENV},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        lines: list[str] = []
        reader = _reading(process, lines)
        first = _first_receipt(store, process)
        process.wait()
        reader.join()
        if process.returncode not in (0, 3):
            raise RuntimeError(f"{command} failed:\n{''.join(lines)[-3000:]}")
        return _steps(lines, start, first)


def _settings(name: str, backend: str, store: Path) -> Iterator[str]:
    yield f"store.uri='{store}'"
    yield f"cluster.backend='{backend}'"
    section = plain_tokenizer(name)
    yield f"tokenizer.kind='{section['kind']}'"
    for key, value in section.get("config", {}).items():
        yield f"tokenizer.config.{key}={value}"
    if "checkpoint" in section:
        yield f"tokenizer.checkpoint='{section['checkpoint']}'"


def _reading(process: subprocess.Popen[str], lines: list[str]) -> threading.Thread:
    """Collect what the process says, so that it never waits for a reader."""
    thread = threading.Thread(target=lambda: lines.extend(process.stderr or ()), daemon=True)
    thread.start()
    return thread


def _first_receipt(store: Path, process: subprocess.Popen[str]) -> float:
    """Wait for a receipt; returns when it was there, to 5 ms."""
    while True:
        ended = process.poll() is not None
        if any(store.glob("receipts/*.json")):
            return time.time()
        if ended:
            raise RuntimeError(f"the run ended with {process.returncode} and made no receipt")
        time.sleep(0.005)


def _steps(lines: list[str], start: float, first: float) -> dict[str, float]:
    events = [json.loads(line) for line in lines if line.startswith("{")]
    at: Callable[[str], float] = lambda name: next(  # noqa: E731
        _seconds(event) for event in events if event["event"] == name
    )
    marks = [start, at("list"), at("diff"), at("dispatch"), first]
    spans = [after - before for before, after in itertools.pairwise(marks)]
    return {"first receipt": first - start, **dict(zip(STEPS, spans, strict=True))}


def _seconds(event: dict[str, Any]) -> float:
    return datetime.fromisoformat(event["time"]).timestamp()


def load(task: dict[str, Any]) -> dict[str, float]:
    """Load the model in this fresh process."""
    from tokenmill.tokenizers import open_tokenizer

    section = plain_tokenizer(task["name"])
    start = time.perf_counter()
    tokenizer = open_tokenizer(section.pop("kind"), **section)
    tokenizer.load("cpu").close()
    return {"load_s": time.perf_counter() - start}


if __name__ == "__main__":
    answer(load(task_given()))
