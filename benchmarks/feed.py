"""Shuffled rows per second of short token rows on one core: the feed, its limit, and its peers.

Everyone reads rows in batches of 256 from a warm page cache, in a process bound to one core. Rates
are rows per second of processor time, so that others on the machine count less. The limit is numpy
gathering the very same rows in the very same order from one memory-mapped array, in both ways that
there are: ``memmap[rows]``, as loaders write it, and ``numpy.take``. Limits and feeds take turns of
32 batches in one process, in random order; a run is 16 turns of each. Peers have a process, and if
need be an environment, of their own (benchmarks/feed_peers.py, ``make peers``) and read as many
tokens of one array. Two cores are measured by the clock: two processes, or two feeds in two threads
of one process, beside one of them alone.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.common import CHILD, CHILD_ENV, ROOT, Measure, Section, answer, child, task_given
from benchmarks.feed_data import BATCH, WIDTH, Size, write_array, write_ragged, write_store
from benchmarks.feed_peers import CLASSES, PREPARE
from tokenmill.feed import Feed, Mixture, Packing, Part

Rates = dict[str, list[float]]

SIZES = (Size(256, 200_000), Size(1024, 60_000))
RAGGED_ROWS = 100_000
#: Batches of one turn, and turns of one run.
TURN, TURNS = 32, 16
ROUNDS = 9
#: Seconds of one timing by the clock.
SECONDS = 2.0
#: After which two processes that were started together are both ready.
WARM_S = 8.0
#: Rows that slow peers get: the rate is settled long before the end.
PEER_ROWS = {"webdataset": 20_000, "mosaicml": 50_000}
#: How many times faster than each peer the feed should be.
PEER_BARS = {
    "litdata": 20.0,
    "lance": 40.0,
    "huggingface": 5.0,
    "mosaicml": 100.0,
    "webdataset": 100.0,
}
#: What the feed should reach of ``memmap[rows]``.
LIMIT_BARS = {"block": 0.85, "full": 0.85, "bit-packed": 0.4}
PEER_PYTHON = ROOT / ".venv-peers" / "bin" / "python"
INDEX, TAKE = "memmap[rows]", "numpy.take"


def run(*, quick: bool = False, peer_python: str = "") -> list[Section]:
    """Measure everything; returns the parts of the results page."""
    rounds = 2 if quick else ROUNDS
    sizes = tuple(Size(s.tokens, s.rows // 10) for s in SIZES) if quick else SIZES
    python = peer_python or str(PEER_PYTHON if PEER_PYTHON.exists() else sys.executable)
    sections = []
    with tempfile.TemporaryDirectory(prefix="bench-feed-") as name:
        for size in sizes:
            folder = Path(name, str(size.tokens))
            write_all(folder, size)
            task = {"folder": str(folder), "rounds": rounds}
            found = child("feed", {"do": "rates"} | task)
            peers = {peer: _peer(peer, folder, python) for peer in PREPARE}
            scaling = _scaling(folder, rounds=2 if quick else 5)
            sections.append(_section(size, found, peers, scaling))
            sections.append(_classes(folder, size, peers))
        folder = Path(name, "ragged")
        write_ragged(folder, RAGGED_ROWS // 10 if quick else RAGGED_ROWS)
        found = child("feed", {"do": "ragged", "folder": str(folder), "rounds": rounds})
    return [*sections, _ragged_section(found)]


def write_all(folder: Path, size: Size) -> None:
    """Write the stores and the array of one size."""
    half = Size(size.tokens, size.rows // 2)
    write_store(folder / "raw", size)
    write_store(folder / "bits", size, packing="bits")
    write_store(folder / "left", half)
    write_store(folder / "right", half)
    write_array(folder / "tokens.npy", size)


def fixed_feeds(folder: Path) -> dict[str, Feed]:
    """Return the feeds of samples of one shape that are measured."""
    make = partial(Feed, batch_size=BATCH, threads=0)
    raw, parts = str(folder / "raw"), [Part(str(folder / side)) for side in ("left", "right")]
    return {
        "block": make(raw, columns=()),
        "full": make(raw, columns=(), shuffle="full"),
        "block, with sample_id": make(raw),
        "bit-packed": make(str(folder / "bits"), columns=()),
        "mixture of two stores": make(Mixture(parts), columns=()),
    }


def rates(folder: Path, rounds: int) -> Rates:
    """Return rows a second of the limits and the feeds, in turns; every list is by run."""
    feeds = fixed_feeds(folder)
    memmap = np.load(folder / "tokens.npy", mmap_mode="r")
    steps = len(memmap) // BATCH
    order = [feeds["block"].samples_of(step).rows for step in range(steps)]
    turns = {
        INDEX: Turns(_gathers(lambda rows: np.asarray(memmap[rows]), order), BATCH),
        TAKE: Turns(_gathers(lambda rows: np.take(memmap, rows, axis=0), order), BATCH),
    }
    return timed(turns | {n: Turns(iter(f), BATCH) for n, f in feeds.items()}, rounds, warm=steps)


def ragged_rates(folder: Path, rounds: int) -> Rates:
    """Return samples, or packed windows, a second of feeds of samples whose shapes vary."""
    make = partial(Feed, str(folder), columns=(), threads=0)
    windows = BATCH // 8
    turns = {
        "samples, as lists": Turns(iter(make(batch_size=BATCH)), BATCH),
        "samples, in buckets": Turns(iter(make(batch_size=BATCH, buckets="image")), BATCH),
        "windows of 1024 ids": Turns(
            iter(make(batch_size=windows, packing=Packing("image", 1024))), windows
        ),
    }
    return timed(turns, rounds, warm=64)


@dataclass(frozen=True, slots=True)
class Turns:
    """Endless batches of so many rows."""

    batches: Iterator[Any]
    rows: int

    def take(self, count: int) -> None:
        """Take and drop some batches."""
        for _ in islice(self.batches, count):
            pass


def timed(turns: Mapping[str, Turns], rounds: int, *, warm: int) -> Rates:
    """Return rows per second of processor time, all in turns."""
    for some in turns.values():
        some.take(warm)
    found: Rates = {name: [] for name in turns}
    rng = np.random.default_rng(0)
    for _ in range(rounds):
        spent = dict.fromkeys(turns, 0.0)
        for _ in range(TURNS):
            for name in rng.permutation(list(turns)).tolist():
                start = time.process_time()
                turns[name].take(TURN)
                spent[name] += time.process_time() - start
        for name, seconds in spent.items():
            found[name].append(TURNS * TURN * turns[name].rows / seconds)
    return found


def _gathers(gather: Callable[[Any], Any], order: list[npt.NDArray[np.int64]]) -> Iterator[None]:
    for rows in cycle(order):
        gather(rows)
        yield


def spin(folder: Path, *, threads: int, seconds: float, start: float) -> float:
    """Return rows a second by the clock, from a moment on, of a feed in each of some threads."""
    feeds = [
        Feed(str(folder / "raw"), batch_size=BATCH, columns=(), threads=0, seed=seed)
        for seed in range(threads)
    ]
    turns = [Turns(iter(feed), BATCH) for feed in feeds]
    for some in turns:
        some.take(len(feeds[0]))
    counts = [0] * threads
    time.sleep(max(0.0, start - time.time()))
    began = time.perf_counter()

    def work(index: int) -> None:
        while time.perf_counter() < began + seconds:
            turns[index].take(TURN)
            counts[index] += TURN * BATCH

    workers = [threading.Thread(target=work, args=(i,)) for i in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return sum(counts) / (time.perf_counter() - began)


def _scaling(folder: Path, rounds: int) -> dict[str, list[float]]:
    """Return how many times a feed's rate two processes have, and two threads of one process."""
    cores = sorted(os.sched_getaffinity(0))[:2]
    if len(cores) < 2:
        return {}
    found: dict[str, list[float]] = {"two processes": [], "two threads of one process": []}
    for _ in range(rounds):
        alone = sum(_spin(folder, [core], 1) for core in cores) / 2
        start = time.time() + WARM_S
        with ThreadPoolExecutor(2) as pool:
            both = pool.map(lambda core: _spin(folder, [core], 1, start), cores)  # noqa: B023
            found["two processes"].append(sum(both) / alone)
        found["two threads of one process"].append(_spin(folder, cores, 2) / alone)
    return found


def _spin(folder: Path, cores: list[int], threads: int, start: float = 0.0) -> float:
    task = {"do": "spin", "folder": str(folder), "cores": cores, "threads": threads}
    found: float = child("feed", task | {"seconds": SECONDS, "start": start})["rate"]
    return found


def _peer(name: str, folder: Path, python: str) -> dict[str, Any]:
    """Return what a peer measured, or why it could not."""
    script = str(ROOT / "benchmarks" / "feed_peers.py")
    command = [python, script, name, str(folder / "tokens.npy")]
    command += ["--rows", str(PEER_ROWS.get(name, 0))]
    environment = {**os.environ, **CHILD_ENV}
    options: dict[str, Any] = {"capture_output": True, "text": True, "check": False}
    done = subprocess.run(command, env=environment, **options)
    lines = done.stdout.strip().splitlines()
    if done.returncode or not lines:
        reason = (done.stderr.strip().splitlines() or ["no output"])[-1]
        missing = reason.startswith("ModuleNotFoundError")
        return {"failed": "not installed: `make peers`" if missing else reason}
    found: dict[str, Any] = json.loads(lines[-1])
    return found


def _section(
    size: Size, rates: Rates, peers: Mapping[str, Any], scaling: Mapping[str, list[float]]
) -> Section:
    measures = [Measure(name, "rows/s", tuple(found)) for name, found in rates.items()]
    there = {name: found for name, found in peers.items() if "rates" in found}
    measures += [
        Measure(name, "rows/s", tuple(found["rates"]), note=found["version"])
        for name, found in there.items()
    ]
    limits = [(name, INDEX, LIMIT_BARS.get(name)) for name in rates if name not in (INDEX, TAKE)]
    limits.append(("block", TAKE, None))
    for name, limit, bar in limits:
        pairs = zip(rates[name], rates[limit], strict=True)
        ratios = tuple(ours / theirs for ours, theirs in pairs)
        measures.append(Measure(f"{name} / {limit}", "ratio", ratios, bar))
    ours = statistics.median(rates["block"])
    for name, found in there.items():
        ratio = ours / statistics.median(found["rates"])
        measures.append(Measure(f"block / {name}", "ratio", (ratio,), PEER_BARS[name]))
    for name, times in scaling.items():
        measures.append(Measure(f"{name} / one", "ratio", tuple(times), 1.7))
    notes = tuple(
        f"{name}: {found['failed']}" for name, found in peers.items() if "failed" in found
    )
    title = f"Feed: shuffled rows of {size.tokens} tokens"
    return Section(title, _method(), tuple(measures), tuple(notes))


def _classes(folder: Path, size: Size, peers: Mapping[str, Any]) -> Section:
    """How well batches are mixed where the input is sorted by class."""
    measures = []
    for name in ("block", "full"):
        feed = Feed(str(folder / "raw"), batch_size=BATCH, columns=(), shuffle=name)
        steps = range(min(100, len(feed)))
        counts = [len(np.unique(feed.samples_of(s).rows * CLASSES // size.rows)) for s in steps]
        measures.append(Measure(name, "classes/batch", (float(np.mean(counts)),)))
    measures += [
        Measure(name, "classes/batch", (found["distinct"],), note=found["version"])
        for name, found in peers.items()
        if "distinct" in found
    ]
    ideal = CLASSES * (1 - (1 - 1 / CLASSES) ** BATCH)
    method = (
        f"Classes of a batch of {BATCH}, on average of the first 100 batches, where the input is "
        f"{CLASSES:,} classes of equal size, one after the other. Samples drawn at random have "
        f"{ideal:.0f}. Peers: as above; block shuffle mixes 131,072 rows with each other."
    )
    return Section(
        f"Feed: classes in a batch, of {size.rows:,} sorted rows", method, tuple(measures)
    )


def _ragged_section(rates: Rates) -> Section:
    method = (
        f"Samples of {WIDTH} to {8 * WIDTH} ids in eight shapes, as the table above; "
        "a window holds about seven."
    )
    measures = [
        Measure(name, "windows/s" if name.startswith("windows") else "samples/s", tuple(found))
        for name, found in rates.items()
    ]
    return Section("Feed: samples of varying shape", method, tuple(measures))


def _method() -> str:
    lines = (__doc__ or "").strip().splitlines()
    return "\n".join(lines)


def in_child(task: dict[str, Any]) -> dict[str, Any]:
    """Do what needs a process of its own: all that binds it to cores."""
    folder, cores = Path(task["folder"]), task.get("cores") or [max(os.sched_getaffinity(0))]
    os.sched_setaffinity(0, cores)
    if task["do"] == "spin":
        options = {name: task[name] for name in ("threads", "seconds", "start")}
        return {"rate": spin(folder, **options)}
    measure = rates if task["do"] == "rates" else ragged_rates
    return dict(measure(folder, task["rounds"]))


if __name__ == "__main__" and sys.argv[1:] == [CHILD]:
    answer(in_child(task_given()))
