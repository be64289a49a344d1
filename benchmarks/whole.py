"""A whole job beside the plain loop that does the same: CPU seconds and samples a second.

What videos and shapes share. Their modules bring the loop, ``bare``; the job is run here.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.common import MALLOC_ENV, Measure, child, job_table, write_listing
from benchmarks.efficiency import ACTORS, Clock, CpuMeter
from benchmarks.timed import loaded_cpu_s, ready_at

__all__ = ["Bare", "Trial", "compare", "plain", "run_child", "write_arrow"]

#: At least this share of what the plain loop does.
BAR = 0.85


@dataclass(frozen=True, slots=True)
class Trial:
    """What is done to which files, once a round.

    Attributes:
        name: stands before every figure.
        module: of ``benchmarks``; as a child it answers with `run_child`.
        thing: what is counted, ``frame`` or ``object``.
        tokenizer: ``inner`` and ``options`` of `benchmarks.timed.Timed`.
        view: the ``[view]`` table.
        batch: views of one batch.
        unit: files of one unit.
        ratios: pairs of runs; the second should do at least `BAR` of the first. A run is a loop,
            ``bare`` or another of the module's, or ``local`` or ``ray``; ``local, one core`` is
            bound to a single core.
    """

    name: str
    module: str
    thing: str
    tokenizer: dict[str, Any]
    view: dict[str, Any]
    batch: int
    unit: int
    ratios: tuple[tuple[str, str], ...]

    def task(self, paths: list[str], run: str) -> dict[str, Any]:
        """Return what a child is told; the first of ``paths`` is not measured, it warms up."""
        do, _, cores = run.partition(", ")
        parts = {name: getattr(self, name) for name in ("tokenizer", "view", "batch", "unit")}
        return {**parts, "paths": paths, "do": do, "one_core": bool(cores)}

    @property
    def runs(self) -> list[str]:
        """The runs of all ratios, each once."""
        return list(dict.fromkeys(run for pair in self.ratios for run in pair))


@dataclass(slots=True)
class Bare:
    """What a plain loop spends, by step, and how many things and samples it was for.

    ``began`` is when it was made: after the model's load.
    """

    began: float = field(default_factory=time.perf_counter)
    steps: dict[str, Clock] = field(default_factory=dict)
    things: int = 0
    samples: int = 0

    def step(self, name: str) -> contextlib.AbstractContextManager[None]:
        """Count the block as a part of the step ``name``."""
        return self.steps.setdefault(name, Clock()).running()


def compare(trial: Trial, paths: list[str], rounds: int) -> list[Measure]:
    """Run the loops and the jobs in turns, each in a fresh process.

    Raises:
        RuntimeError: they disagree on how many samples there are.
    """
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in trial.runs}
    for _ in range(rounds):
        for name, runs in found.items():
            runs.append(child(trial.module, trial.task(paths, name), env=MALLOC_ENV))
    counts = {name: {run["samples"] for run in runs} for name, runs in found.items()}
    if len(set().union(*counts.values())) != 1:
        raise RuntimeError(f"samples by run: {counts}")
    things = found["bare"][0]["things"]
    return [*_ratios(trial, found), *_details(trial, found, things)]


def _ratios(trial: Trial, found: dict[str, list[dict[str, Any]]]) -> Iterator[Measure]:
    for base, name in trial.ratios:
        pairs = list(zip(found[base], found[name], strict=True))
        cpu = tuple(_cpu_s(least) / _cpu_s(whole) for least, whole in pairs)
        wall = tuple(least["wall_s"] / whole["wall_s"] for least, whole in pairs)
        label = f"{trial.name}, {name}, actors: {ACTORS[name.partition(', ')[0]]}"
        loop = base.partition(", ")[0]
        yield Measure(f"{label}: {loop} / pipeline", "CPU ratio", cpu, BAR)
        yield Measure(f"{label}: pipeline / {loop}, {trial.thing}s/s", "wall ratio", wall, BAR)


def _cpu_s(run: dict[str, Any]) -> float:
    return float(sum(run["cpu_s"].values()))


def _details(
    trial: Trial, found: dict[str, list[dict[str, Any]]], things: int
) -> Iterator[Measure]:
    for name, runs in found.items():
        rates = tuple(things / run["wall_s"] for run in runs)
        yield Measure(f"{trial.name}, {name}", f"{trial.thing}s/s", rates)
    for name, runs in found.items():
        for part in runs[0]["cpu_s"]:
            each = tuple(1000 * run["cpu_s"][part] / things for run in runs)
            if any(each):
                yield Measure(f"{trial.name}, {name}: {part}", f"CPU ms/{trial.thing}", each)


def run_child(task: dict[str, Any], bare: Callable[[dict[str, Any]], Bare]) -> dict[str, Any]:
    """Do what a child was told: a plain loop, or the job."""
    if task["one_core"]:
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    if task["do"] in ACTORS:
        return _pipeline(task)
    bare({**task, "paths": task["paths"][:1]})
    found = bare({**task, "paths": task["paths"][1:]})
    wall_s = time.perf_counter() - found.began
    cpu_s = {name: clock.seconds for name, clock in found.steps.items()}
    return {"cpu_s": cpu_s, "wall_s": wall_s, "things": found.things, "samples": found.samples}


def plain(task: dict[str, Any]) -> tuple[Any, Any, Any]:
    """Return the tokenizer, its encoder and the view of a task."""
    from tokenmill.tokenizers import open_tokenizer
    from tokenmill.views import open_view
    from tokenmill.worker.worker import tune_torch
    from tokenmill_schemas.job import ClusterConfig

    tokenizer = open_tokenizer(task["tokenizer"]["inner"], **task["tokenizer"]["options"])
    encoder = tokenizer.load("cpu")
    tune_torch(ClusterConfig(), "cpu")
    options = dict(task["view"])
    return tokenizer, encoder, open_view(options.pop("kind"), options)


def write_arrow(tokens: list[dict[str, Any]], keys: list[str], file: Path) -> None:
    """Write samples as one Arrow file; its SHA-256 is taken and it is put on the disk.

    ``tokens`` has a batch's arrays ``[B, ...]`` by stream an entry, or lists of B arrays.
    """
    import numpy as np
    import pyarrow as pa

    columns: dict[str, Any] = {"key": pa.array(keys)}
    for name in tokens[0]:
        rows = [np.asarray(row).reshape(-1) for batch in tokens for row in batch[name]]
        ends = np.cumsum([0, *map(len, rows)])
        columns[name] = pa.LargeListArray.from_arrays(ends, pa.array(np.concatenate(rows)))
    batch = pa.record_batch(columns)
    with pa.ipc.new_file(str(file), batch.schema) as writer:
        writer.write_batch(batch)
    with file.open("rb") as stream:
        hashlib.file_digest(stream, "sha256").hexdigest()
        os.fsync(stream.fileno())


class Meter(CpuMeter):
    """Notes also when the last unit was done."""

    def __init__(self) -> None:
        super().__init__()
        self.last_at = 0.0

    def event(self, name: str, /, **facts: Any) -> None:
        """As the parent's, and the time."""
        super().event(name, **facts)
        if name == "write":
            self.last_at = time.time()


def _pipeline(task: dict[str, Any]) -> dict[str, Any]:
    """Run the job after one that spends imports."""
    _run(task, task["paths"][:1])
    load = Clock()
    if task["do"] == "local":  # the model is loaded in this process, and warm by now
        with load.running():
            plain(task)[1].close()
    found = _run(task, task["paths"][1:])
    found["cpu_s"]["driver"] -= load.seconds
    return found


def _run(task: dict[str, Any], paths: list[str]) -> dict[str, Any]:
    from tokenmill_pipelines.jobs import run_job
    from tokenmill_schemas.job import parse_job

    with tempfile.TemporaryDirectory(prefix="bench-whole-") as folder:
        listing, log = Path(folder, "listing.jsonl"), Path(folder, "log")
        write_listing(paths, listing)
        table = job_table(
            listing,
            Path(folder, "store"),
            {"kind": "benchmarks.timed:Timed", **task["tokenizer"], "log": str(log)},
            view=task["view"],
            cluster={"backend": task["do"], "actors": ACTORS[task["do"]]},
            shards={"unit_assets": task["unit"]},
            limits={"batch_size": task["batch"]},
        )
        meter = Meter()
        result = run_job(parse_job(table), observer=meter)
        return {
            "cpu_s": meter.spent(loaded_cpu_s(log)),
            "wall_s": meter.last_at - ready_at(log),
            "samples": result.done["samples"],
        }
