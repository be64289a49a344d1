"""Versions of a store of a million shards and 10^9 samples: open, commit, diff, take down.

The manifest is written by the library from made-up facts; shards exist where they are read, which
is in takedowns only: one in a hundred, each of a thousand samples.

    python -m benchmarks.versions STEP FOLDER [--shards 1000000]
"""

from __future__ import annotations

import argparse
import hashlib
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from benchmarks.common import ROOT, Measure, Section
from tokenmill.shards import read_format
from tokenmill.shards.columns import make_batch
from tokenmill.store import Commit, Identity, Store, paths
from tokenmill.store.identity import root
from tokenmill.store.tables import put_rows
from tokenmill.store.transaction import next_version
from tokenmill_schemas.arrow import ShardLayout
from tokenmill_schemas.snapshot import SEGMENT_SCHEMA, FileRef, Receipt
from tokenmill_schemas.tokens import Axis, Stream, TokenSpec

SAMPLES = 1000
#: Every so many shards one is really there.
REAL_EVERY = 100
NEW_SHARDS = 100
LAYOUT = ShardLayout(TokenSpec((Stream("image", "index", (Axis("n", 1),), (1000,)),)))
IDENTITY = Identity(LAYOUT.spec, {"made_by": "benchmarks.versions"}, LAYOUT, "arrow")


def key(asset: int) -> str:
    """Return the key of an asset, each of one sample."""
    return f"corpus/part-{asset // 1_000_000:04d}/asset-{asset:012d}.jpg"


def unit_of(shard: int) -> tuple[str, str]:
    """Return a shard's unit and its sha256, as random as real ones."""
    text = hashlib.sha256(f"shard {shard}".encode()).hexdigest()
    return text[:32], hashlib.sha256(text.encode()).hexdigest()


def rows_of(shards: range) -> dict[str, list[Any]]:
    """Return the manifest rows of shards that need not exist."""
    named = [unit_of(shard) for shard in shards]
    count = len(shards)
    return {
        "unit_id": [unit for unit, _ in named],
        "plan": [""] * count,
        "row_group": [0] * count,
        "path": [paths.shard_file(unit, sha256, "arrow") for unit, sha256 in named],
        "format": ["arrow"] * count,
        "samples": [SAMPLES] * count,
        "tokens": [SAMPLES] * count,
        "bytes": [2 * SAMPLES] * count,
        "sha256": [sha256 for _, sha256 in named],
        "assets": [SAMPLES] * count,
        "rejected": [0] * count,
        "batch_rows": [256] * count,
        "min_key": [key(shard * SAMPLES) for shard in shards],
        "max_key": [key((shard + 1) * SAMPLES - 1) for shard in shards],
    }


def write_shard(folder: Path, shard: int) -> None:
    """Write one of the shards that exist."""
    assets = range(shard * SAMPLES, (shard + 1) * SAMPLES)
    keys = [key(asset) for asset in assets]
    ids = np.arange(SAMPLES, dtype=np.uint16).reshape(-1, 1) % 1000
    columns = {"sample_id": [f"{name}#0" for name in keys], "asset_key": keys}
    file = folder / paths.shard_file(*unit_of(shard), "arrow")
    file.parent.mkdir(parents=True, exist_ok=True)
    writer = read_format("arrow").writer(file, LAYOUT, batch_rows=256)
    writer.write(make_batch(LAYOUT, {"image": ids}, columns))
    writer.close()


def make_store(folder: Path, shards: int) -> None:
    """Write version 1 of a store of ``shards`` shards, of which one in a hundred exists."""
    store = Store.of(str(folder))
    refs: tuple[FileRef, ...] = ()
    for start in range(0, shards, 65536):
        rows = rows_of(range(start, min(start + 65536, shards)))
        table = pa.table(rows, schema=pa.schema([SEGMENT_SCHEMA.field(name) for name in rows]))
        refs += put_rows(store.storage, paths.SEGMENTS, table)
    count = shards * SAMPLES
    totals = {"shards": shards, "samples": count, "tokens": count, "bytes": 2 * count}
    totals |= {"assets": count, "rejected": 0}
    store.log.append(
        next_version(store.log, root(IDENTITY), "append", segments=refs, totals=totals)
    )
    for shard in range(0, shards, REAL_EVERY):
        write_shard(folder, shard)


def open_store(folder: Path, _shards: int) -> None:
    """What a feed does first: the newest version, and how many samples each shard has."""
    store = Store.open(str(folder))
    samples = store.segments(store.snapshot(), ["samples"]).column("samples")
    assert len(samples) >= _shards


def commit(folder: Path, shards: int) -> None:
    """Append a hundred shards."""
    store = Store.open(str(folder))
    first = store.snapshot().totals["shards"]
    rows = rows_of(range(first, first + NEW_SHARDS))
    del rows["rejected"]
    receipts = [
        Receipt(**dict(zip(rows, row, strict=True))) for row in zip(*rows.values(), strict=True)
    ]
    made = store.commit(Commit(tuple(receipts), (), IDENTITY, base=store.log.head_number()))
    assert made.totals["shards"] == first + NEW_SHARDS
    del shards


def diff(folder: Path, shards: int) -> None:
    """Compare the two newest versions."""
    store = Store.open(str(folder))
    newest = store.log.head_number()
    store.diff(newest - 1, newest)
    del shards


def takedown(folder: Path, shards: int) -> None:
    """Hide ten thousand assets by their keys, each in another shard."""
    from tokenmill.store.takedown import takedown as take_down

    store = Store.open(str(folder))
    wanted = [key(shard * SAMPLES + shard % SAMPLES) for shard in range(0, shards, REAL_EVERY)]
    take_down(store, keys=wanted)
    assert store.snapshot().totals["hidden"] == len(wanted)


STEPS: dict[str, Callable[[Path, int], None]] = {
    "make": make_store,
    "open": open_store,
    "commit": commit,
    "diff": diff,
    "takedown": takedown,
}
#: What each step should take at the most, in seconds, at a million shards.
BARS = {"open": 0.1, "commit": 0.5, "diff": 1.0, "takedown": 30.0}
#: Every step may take this much memory, in MB.
MEMORY_MB = 1000.0
#: A step that takes longer is given up.
PATIENCE_S = 300.0
#: How often a step is measured: a takedown, and the making, happen once.
ROUNDS = {"make": 1, "takedown": 1}


def measure(name: str, folder: Path, shards: int) -> dict[str, float]:
    """Do one step in this process; returns its seconds and the peak memory."""
    start = time.perf_counter()
    STEPS[name](folder, shards)
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"seconds": seconds, "peak_mb": peak}


def run(shards: int) -> list[Section]:
    """Measure all steps and the peers' in fresh processes; returns the part of the results page."""
    notes: list[str] = []
    with tempfile.TemporaryDirectory(prefix="tokenmill-bench-") as name:
        folder = Path(name)
        ours = _steps("versions", [], folder, shards)
        measures = [
            Measure(_NAMES[step], "s", seconds, bar, below=True)
            for step, bar in BARS.items()
            for seconds in [tuple(found["seconds"] for found in ours[step])]
        ]
        peak = max(found["peak_mb"] for step in BARS for found in ours[step])
        measures.append(Measure("peak memory of any step", "MB", (peak,), MEMORY_MB, below=True))
        for peer in ("delta", "lance"):
            try:
                theirs = _steps("version_peers", [peer], folder, shards)
            except RuntimeError as error:
                notes.append(f"{peer}: {str(error).splitlines()[-1]}")
                continue
            measures += [
                Measure(f"{_NAMES[step]}: {peer}", "s", tuple(f["seconds"] for f in theirs[step]))
                for step in BARS
                if theirs[step]
            ]
            notes += [
                f"{peer}: {_NAMES[step]} was given up after {PATIENCE_S:g} s"
                for step in BARS
                if not theirs[step]
            ]
    method = _prose(f"{shards:,} shards, {shards * SAMPLES:,} samples.")
    return [Section("Versions", method, tuple(measures), tuple(notes))]


_NAMES = {
    "open": "open, and the rows of every shard",
    "commit": f"commit of {NEW_SHARDS} shards",
    "diff": "diff of neighbours",
    "takedown": "takedown by key, one asset in each shard that exists",
}


def _prose(facts: str) -> str:
    text = (__doc__ or "").partition("\n\n")[2].partition("\n\n    ")[0]
    return f"{facts} {' '.join(text.split())} Peers: benchmarks/version_peers.py."


def _steps(
    module: str, first: list[str], folder: Path, shards: int
) -> dict[str, list[dict[str, float]]]:
    """Run every step in processes of its own, in order; returns what each measured.

    Raises:
        RuntimeError: one of them failed; its last line says how.
    """
    found: dict[str, list[dict[str, float]]] = {}
    for step in STEPS:
        for _ in range(ROUNDS.get(step, 3)):
            command = [sys.executable, "-m", f"benchmarks.{module}", *first, step, str(folder)]
            command += ["--shards", str(shards)]
            try:
                done = subprocess.run(
                    command,
                    cwd=ROOT,
                    capture_output=True,
                    text=True,
                    check=False,
                    timeout=PATIENCE_S,
                )
            except subprocess.TimeoutExpired:
                found[step] = []
                break
            if done.returncode:
                raise RuntimeError(done.stderr.strip() or f"{step} failed")
            found.setdefault(step, []).append(json.loads(done.stdout.splitlines()[-1]))
    return found


def main() -> None:
    """Measure one step and print it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("step", choices=sorted(STEPS))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--shards", type=int, default=1_000_000)
    args = parser.parse_args()
    print(json.dumps(measure(args.step, args.folder / "tokenmill", args.shards)))


if __name__ == "__main__":
    main()
