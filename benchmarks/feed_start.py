"""How long a feed takes to begin: opening, the first batch, a restore anywhere, its state.

Each run is a fresh process that has imported the library and nothing else but pandas, if that is
installed: pyarrow imports it when it first makes an array, which takes longer than all the rest. A
store of 1,000 shards
of 128 samples of 256 tokens is opened for its first batch, sample ids included, from a warm page
cache. A restore is in an epoch of a billion samples: the store of the benchmark of versions, a
million shards, of which the manifest alone is needed. It ends when the rows of the next batch are
known, and where in which shards they lie.
"""

from __future__ import annotations

import json
import random
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pyarrow as pa

from benchmarks.common import CHILD, Measure, Section, answer, child, task_given
from benchmarks.feed_data import BATCH, VOCAB
from benchmarks.versions import SAMPLES, make_store
from tokenmill.feed import Feed
from tokenmill.testing.feed import build_store
from tokenmill_schemas.arrow import ShardLayout
from tokenmill_schemas.tokens import Axis, Stream, TokenSpec

SHARDS, SHARD_ROWS, TOKENS = 1_000, 128, 256
MILLION = 1_000_000
RUNS = 7
#: Positions that are restored in one process.
RESTORES = 20
#: Seconds that the first batch, and a restore, may take.
BAR_S = 0.05
OPEN_BAR_S = 0.1
STATE_BAR = 300


def run(*, quick: bool = False) -> list[Section]:
    """Measure all in fresh processes; returns the part of the results page."""
    shards, runs = (20_000, 3) if quick else (MILLION, RUNS)
    with tempfile.TemporaryDirectory(prefix="bench-start-") as name:
        small, large = Path(name, "small"), Path(name, "large")
        stream = Stream("image", "index", (Axis("n", TOKENS),), (VOCAB,))
        build_store(small, [SHARD_ROWS] * SHARDS, layout=ShardLayout(TokenSpec((stream,))))
        make_store(large, shards)
        first = [_child("first", small) for _ in range(runs)]
        places = [_child("restore", large) for _ in range(runs)]
    begun = tuple(f["open_s"] + f["first_s"] for f in first)
    restores = tuple(s for p in places for s in p["restore_s"])
    measures = (
        Measure(f"open and first batch, {SHARDS:,} shards", "s", begun, BAR_S, below=True),
        Measure("of these: open", "s", tuple(f["open_s"] for f in first)),
        Measure(
            f"open a feed of {shards:,} shards",
            "s",
            tuple(p["open_s"] for p in places),
            OPEN_BAR_S,
            below=True,
        ),
        Measure(
            f"restore at any of {shards * SAMPLES:,} samples", "s", restores, BAR_S, below=True
        ),
        Measure("first restore of a process", "s", tuple(p["restore_s"][0] for p in places)),
        Measure(
            "state", "bytes of JSON", tuple(p["state_bytes"] for p in places), STATE_BAR, below=True
        ),
    )
    return [Section("Feed: beginning and resuming", (__doc__ or "").strip(), measures)]


def first_batch(folder: Path) -> dict[str, Any]:
    """Open a feed and take its first batch."""
    start = time.perf_counter()
    feed = Feed(str(folder), batch_size=BATCH)
    opened = time.perf_counter()
    next(iter(feed))
    return {"open_s": opened - start, "first_s": time.perf_counter() - opened}


def restore(folder: Path) -> dict[str, Any]:
    """Open a feed and restore it at random steps."""
    start = time.perf_counter()
    feed = Feed(str(folder), batch_size=BATCH, columns=(), threads=0)
    opened = time.perf_counter() - start
    plan, seconds, sizes = feed.parts[0].opened.plan, [], []
    for step in random.Random(0).sample(range(len(feed)), RESTORES):
        text = json.dumps(feed.state_at(step))
        begin = time.perf_counter()
        feed.load_state_dict(json.loads(text))
        plan.locate(feed.samples_of(feed.step).rows)
        seconds.append(time.perf_counter() - begin)
        sizes.append(len(text))
    return {"open_s": opened, "restore_s": seconds, "state_bytes": max(sizes)}


def _child(do: str, folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = child("feed_start", {"do": do, "folder": str(folder)})
    return found


def in_child(task: dict[str, Any]) -> dict[str, Any]:
    """Do one of the two."""
    pa.array([0]).to_numpy()
    measure = first_batch if task["do"] == "first" else restore
    return measure(Path(task["folder"]))


if __name__ == "__main__" and sys.argv[1:] == [CHILD]:
    answer(in_child(task_given()))
