"""Efficiency: CPU seconds of bare decode, encode and write over those of the pipeline.

All are user and system seconds of the kernel's own accounts, in a fresh process each, on the same
pictures, with one thread a network and the same malloc settings.

- Bare: one process, one thread, three loops one after the other. Decode: read the file, the
  decoder, the view. Encode: `preprocess` and `encode` of stacked batches. Write: tokens and keys as
  an Arrow file a unit, its SHA-256, fsync. Imports, the model's load and a first batch of each come
  before.
- Local: a run of the whole job, list to commit, with one actor in the process. Imports and torch's
  first use are spent on a small run before; one warm load of the model is taken off.
- Ray: the same with two actors in processes of their own: the driver from list to commit, each
  actor from the end of its model's load, and Ray's daemons (GCS, raylet, agents) from the first
  finished unit to the last; starting them is no part of it.

- On one core: bare and local again, each bound to a single core. Two busy cores slow each other
  through caches and memory, which the free runs' pipelines, busy on both, pay and their bare loops,
  busy on one, do not; bound to one core, what is left between them is the pipeline's own cost.

The report, a fixed cost of a run (it loads the model and decodes eight samples), is left out.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.common import (
    BATCH,
    MALLOC_ENV,
    TOKENIZERS,
    Measure,
    Section,
    answer,
    child,
    job_table,
    pictures,
    plain_tokenizer,
    task_given,
    write_listing,
)
from benchmarks.timed import loaded_cpu_s

BAR = 0.90
UNIT = 250
ACTORS = {"local": 1, "ray": 2}
#: Every run, and the one that it is compared with.
RUNS = {
    "bare": "",
    "local": "bare",
    "ray": "bare",
    "bare, one core": "",
    "local, one core": "bare, one core",
}


@dataclass(frozen=True, slots=True)
class Plan:
    """How often and on how much: ``rounds`` runs of ``pictures`` each, all of them different."""

    tokenizer: str
    pictures: int
    rounds: int


PLANS: tuple[Plan, ...] = (Plan("patch_vq", 500, 4), Plan("llamagen", 500, 4))


def run(corpus: Path, *, plans: tuple[Plan, ...] = PLANS) -> list[Section]:
    """Measure all plans; rounds interleave bare, local and Ray runs."""
    return [_measure(corpus, plan) for plan in plans]


def _measure(corpus: Path, plan: Plan) -> Section:
    chosen = pictures(corpus, max(2000, plan.pictures))
    costs: dict[str, list[dict[str, float]]] = {name: [] for name in RUNS}
    for number in range(plan.rounds):
        start = number * plan.pictures % len(chosen)
        task = {"paths": chosen[start : start + plan.pictures], "name": plan.tokenizer}
        for name, runs in costs.items():
            do, _, cores = name.partition(", ")
            given = {**task, "do": do, "one_core": bool(cores)}
            runs.append(child("efficiency", given, env=MALLOC_ENV))
    measures = [_ratio(costs, plan, name) for name, base in RUNS.items() if base]
    for name, runs in costs.items():
        for part in runs[0]:
            each = tuple(1000 * found[part] / plan.pictures for found in runs)
            if any(each):
                measures.append(
                    Measure(f"{plan.tokenizer}, {name}: {part}", "CPU ms/picture", each)
                )
    title = f"Efficiency: {plan.tokenizer}, {plan.rounds} rounds of {plan.pictures} pictures"
    return Section(title, __doc__ or "", tuple(measures))


def _ratio(costs: dict[str, list[dict[str, float]]], plan: Plan, name: str) -> Measure:
    pairs = zip(costs[RUNS[name]], costs[name], strict=True)
    ratios = tuple(sum(bare.values()) / sum(whole.values()) for bare, whole in pairs)
    label = f"{plan.tokenizer}, {name}, actors: {ACTORS[name.partition(', ')[0]]}"
    return Measure(f"{label}: bare / pipeline", "CPU ratio", ratios, BAR)


@dataclass(slots=True)
class Clock:
    """CPU seconds of this process, all threads."""

    seconds: float = 0.0

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Count what the block costs."""
        start = time.process_time()
        yield
        self.seconds += time.process_time() - start


def bare(task: dict[str, Any]) -> dict[str, float]:
    """Decode, encode and write in three plain loops."""
    import numpy as np

    from tokenmill.decoders import open_decoder
    from tokenmill.tokenizers import open_tokenizer
    from tokenmill.views import open_view

    section = plain_tokenizer(task["name"])
    tokenizer = open_tokenizer(section.pop("kind"), **section)
    options = dict(tokenizer.default_view)
    decoder, view = open_decoder("image"), open_view(options.pop("kind"), options)
    encoder = _warm_encoder(tokenizer)
    clocks = {name: Clock() for name in ("decode", "encode", "write")}
    _decode(task["paths"][:BATCH], decoder, view)
    with clocks["decode"].running():
        pixels = _decode(task["paths"], decoder, view)
    batches = [np.stack(pixels[i : i + BATCH]) for i in range(0, len(pixels), BATCH)]
    del pixels
    with clocks["encode"].running():
        tokens = [encoder.encode(encoder.preprocess(batch))["image"] for batch in batches]
    ids = np.concatenate(tokens)
    with tempfile.TemporaryDirectory(prefix="bench-bare-") as folder:
        _write(task["paths"][:BATCH], ids[:BATCH], Path(folder))
        with clocks["write"].running():
            _write(task["paths"], ids, Path(folder))
    return {name: clock.seconds for name, clock in clocks.items()}


def _warm_encoder(tokenizer: Any) -> Any:
    import numpy as np

    from tokenmill.worker.worker import tune_torch
    from tokenmill_schemas.job import ClusterConfig

    encoder = tokenizer.load("cpu")
    tune_torch(ClusterConfig(), "cpu")
    encoder.encode(encoder.preprocess(np.zeros((BATCH, 256, 256, 3), np.uint8)))
    return encoder


def _decode(paths: list[str], decoder: Any, view: Any) -> list[Any]:
    from tokenmill_schemas.asset import AssetRef

    pixels: list[Any] = []
    for path in paths:
        ref = AssetRef(path, path)
        with open(path, "rb") as stream:  # noqa: PTH123  (as bare as can be)
            picture = decoder.decode(ref, stream)
        pixels.extend(found.data for found in view.views(picture, path))
    return pixels


def _write(paths: list[str], tokens: Any, folder: Path) -> None:
    import pyarrow as pa

    for number, start in enumerate(range(0, len(paths), UNIT)):
        part = tokens[start : start + UNIT].reshape(len(paths[start : start + UNIT]), -1)
        flat = pa.array(part.reshape(-1))
        column = pa.FixedSizeListArray.from_arrays(flat, part.shape[1])
        batch = pa.record_batch({"image": column, "key": pa.array(paths[start : start + UNIT])})
        with pa.ipc.new_file(str(folder / f"{number}.arrow"), batch.schema) as writer:
            writer.write_batch(batch)
        with (folder / f"{number}.arrow").open("rb") as stream:
            hashlib.file_digest(stream, "sha256").hexdigest()
            os.fsync(stream.fileno())


class CpuMeter:
    """An observer that reads CPU clocks after every unit, and this process's before the report."""

    def __init__(self) -> None:
        self.start_s = time.process_time()
        self.before_report_s = 0.0
        self.first: dict[int, float] = {}
        self.last: dict[int, float] = {}

    @contextlib.contextmanager
    def stage(self, name: str, /) -> Iterator[None]:
        """Note where the report begins."""
        if name == "report":
            self.before_report_s = time.process_time()
        yield

    def event(self, name: str, /, **facts: Any) -> None:  # noqa: ARG002  (an Observer)
        """Note what all processes have used when a unit is done."""
        if name == "write":
            self.last = descendants_cpu_s()
            self.first = self.first or self.last

    def progress(self, done_assets: int, total_assets: int, **facts: Any) -> None:
        """Do nothing."""

    def warn(self, message: str, /, **facts: Any) -> None:
        """Stop: what went wrong would be measured, too."""
        raise RuntimeError(f"{message}: {facts}")

    def spent(self, loaded: dict[int, float]) -> dict[str, float]:
        """Return CPU seconds; ``loaded`` are those of the actors when they were ready."""
        actors = {pid: cpu for pid, cpu in loaded.items() if pid in self.last}
        daemons = {pid: cpu for pid, cpu in self.last.items() if pid not in actors}
        return {
            "driver": self.before_report_s - self.start_s,
            "actors": sum(self.last[pid] - cpu for pid, cpu in actors.items()),
            "daemons": sum(cpu - self.first.get(pid, 0.0) for pid, cpu in daemons.items()),
        }


def descendants_cpu_s() -> dict[int, float]:
    """Return the CPU seconds of every process below this one."""
    import psutil

    found = {}
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            found[process.pid] = times.user + times.system
    return found


def pipeline(task: dict[str, Any]) -> dict[str, float]:
    """Run the job after a small one that spends imports; return the CPU seconds of its parts."""
    _run(task, task["paths"][:BATCH], unit=BATCH)
    load = _load_s(task) if task["do"] == "local" else 0.0
    spent = _run(task, task["paths"], unit=UNIT)
    return {**spent, "driver": spent["driver"] - load}


def _run(task: dict[str, Any], paths: list[str], *, unit: int) -> dict[str, float]:
    from tokenmill_pipelines.jobs import run_job
    from tokenmill_schemas.job import parse_job

    with tempfile.TemporaryDirectory(prefix="bench-efficiency-") as folder:
        listing, log = Path(folder, "listing.jsonl"), Path(folder, "log")
        write_listing(paths, listing)
        table = job_table(
            listing,
            Path(folder, "store"),
            {"kind": "benchmarks.timed:Timed", **TOKENIZERS[task["name"]], "log": str(log)},
            cluster={"backend": task["do"], "actors": ACTORS[task["do"]]},
            shards={"unit_assets": unit},
        )
        meter = CpuMeter()
        result = run_job(parse_job(table), observer=meter)
        if result.done["samples"] != len(paths):
            raise RuntimeError(f"{result.done['samples']} samples of {len(paths)} pictures")
        return meter.spent(loaded_cpu_s(log))


def _load_s(task: dict[str, Any]) -> float:
    from tokenmill.tokenizers import open_tokenizer

    section = plain_tokenizer(task["name"])
    tokenizer = open_tokenizer(section.pop("kind"), **section)
    clock = Clock()
    with clock.running():
        tokenizer.load("cpu").close()
    return clock.seconds


if __name__ == "__main__":
    given = task_given()
    if given["one_core"]:
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    answer(bare(given) if given["do"] == "bare" else pipeline(given))
