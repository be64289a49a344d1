"""Shuffled rows per second of short token rows on one core: the feed, its limit, and its peers.

    python benchmarks/bench_feed.py [--peer-python PYTHON] [--rows N]

Everyone reads the same rows in batches of 256 from a warm page cache, on one core. The limit is
numpy gathering the very same rows in the very same order from one memory-mapped array, in both
ways that there are: ``numpy.take``, and ``memmap[rows]`` as loaders write it. Peers shuffle as
their documentation says; each runs in a process of its own, which may be that of another
environment (``--peer-python``) where a peer's requirements conflict with ours.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

ROWS, TOKENS, BATCH, VOCAB = 200_000, 256, 256, 16_384
SHARD_ROWS = 1_024  # the default of a job's shards.unit_assets
PEERS = {"webdataset": "webdataset", "litdata": "litdata", "huggingface": "datasets"}
PEER_ROWS = {"webdataset": 50_000}  # one file a sample: the rate is settled long before the end
BUFFER = 10_000
ROUNDS = 5


def run(*, rows: int = ROWS, peer_python: str = sys.executable) -> list[dict[str, Any]]:
    """Return one row a reader: ``name``, ``rows_per_s``, ``of_limit`` and ``note``."""
    _use_one_core()
    with tempfile.TemporaryDirectory(prefix="bench-feed-") as folder:
        found = _ours(Path(folder), rows)
        tokens = Path(folder, "tokens.npy")
        found += [_peer_row(name, tokens, peer_python) for name in PEERS]
    limit = found[0]["rows_per_s"]
    for row in found:
        row["of_limit"] = row["rows_per_s"] / limit if row["rows_per_s"] else None
    return found


def _ours(folder: Path, rows: int) -> list[dict[str, Any]]:
    """Measure the limit and the feed in turns, so that a busy machine slows both."""
    from tokenmill.feed import Feed

    store = _write_store(folder, rows)
    memmap = np.load(folder / "tokens.npy", mmap_mode="r")
    feeds = {
        "feed, shuffle=block": Feed(store, batch_size=BATCH, columns=(), threads=0),
        "feed, shuffle=full": Feed(store, batch_size=BATCH, columns=(), threads=0, shuffle="full"),
        "feed, shuffle=block, with sample_id": Feed(store, batch_size=BATCH, threads=0),
    }
    order = [feeds["feed, shuffle=full"].samples_of(i)[1] for i in range(rows // BATCH)]
    best: dict[str, float] = {}
    for _ in range(ROUNDS):
        timed: dict[str, Callable[[], object]] = {
            "numpy.take": partial(_gather, memmap, order),
            "memmap[rows]": partial(_index, memmap, order),
        }
        timed |= {name: partial(_epoch, feed) for name, feed in feeds.items()}
        for name, action in timed.items():
            start = time.perf_counter()
            action()
            rate = rows // BATCH * BATCH / (time.perf_counter() - start)
            best[name] = max(rate, best.get(name, 0.0))
    return [{"name": name, "rows_per_s": rate, "note": ""} for name, rate in best.items()]


def _gather(memmap: np.ndarray[Any, Any], order: list[np.ndarray[Any, Any]]) -> None:
    for rows in order:
        np.take(memmap, rows, axis=0)


def _index(memmap: np.ndarray[Any, Any], order: list[np.ndarray[Any, Any]]) -> None:
    for rows in order:
        np.asarray(memmap[rows])


def _epoch(feed: Any) -> None:
    for _ in zip(range(len(feed)), feed, strict=False):
        pass


def _write_store(folder: Path, rows: int) -> Any:
    """Write random tokens as a store and, in the same order, as one .npy file."""
    from tokenmill.testing.feed import build_store
    from tokenmill_schemas.arrow import ShardLayout
    from tokenmill_schemas.tokens import Axis, Stream, TokenSpec

    stream = Stream("image", "index", (Axis("n", TOKENS),), (VOCAB,))
    samples = [min(SHARD_ROWS, rows - i) for i in range(0, rows, SHARD_ROWS)]
    store = build_store(folder / "store", samples, layout=ShardLayout(TokenSpec((stream,))))
    tokens = np.lib.format.open_memmap(
        folder / "tokens.npy", "w+", dtype=np.uint16, shape=(rows, TOKENS)
    )
    done = 0
    for path in store.segments(store.snapshot(), ["path"]).column("path").to_pylist():
        with store.shard(path) as shard:
            tokens[done : done + shard.rows] = shard.take("image", np.arange(shard.rows))
            done += shard.rows
    tokens.flush()
    return store


def _peer_row(name: str, tokens: Path, python: str) -> dict[str, Any]:
    command = [python, __file__, "--peer", name, "--tokens", str(tokens)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    lines = done.stdout.strip().splitlines()
    if done.returncode or not lines:
        reason = (done.stderr.strip().splitlines() or ["no output"])[-1]
        return {"name": name, "rows_per_s": None, "note": f"failed: {reason}"}
    row: dict[str, Any] = json.loads(lines[-1])
    return row


def _run_peer(name: str, tokens: Path) -> dict[str, Any]:
    if importlib.util.find_spec(PEERS[name]) is None:
        return {"name": name, "rows_per_s": None, "note": "not installed"}
    data = np.load(tokens, mmap_mode="r")[: PEER_ROWS.get(name)]
    module = importlib.import_module(PEERS[name])
    prepare = {"webdataset": _webdataset, "litdata": _litdata, "huggingface": _huggingface}[name]
    with tempfile.TemporaryDirectory(prefix="bench-peer-") as folder:
        batches = prepare(data, Path(folder))
        rate = max(_rate(batches) for _ in range(2))
    version = getattr(module, "__version__", "")
    return {"name": name, "rows_per_s": rate, "note": f"{PEERS[name]} {version}".strip()}


def _rate(batches: Iterable[Any]) -> float:
    """Rows a second of one pass, all batches looked at as arrays."""
    start, rows = time.perf_counter(), 0
    for batch in batches:
        rows += len(np.asarray(batch))
    return rows / (time.perf_counter() - start)


def _webdataset(data: np.ndarray[Any, Any], folder: Path) -> Iterable[Any]:
    """One .npy member a sample, as WebDataset's documentation lays samples out."""
    import webdataset

    with webdataset.ShardWriter(f"file:{folder}/%06d.tar", maxcount=10_000, verbose=0) as sink:
        for i, row in enumerate(data):
            sink.write({"__key__": f"{i:09d}", "npy": row})
    urls = [f"file:{path}" for path in sorted(folder.glob("*.tar"))]
    dataset = webdataset.WebDataset(urls, shardshuffle=100).shuffle(BUFFER).decode()
    batches: Iterable[Any] = (
        dataset.to_tuple("npy").batched(BATCH).map(lambda batch: np.stack(batch[0]))
    )
    return batches


def _litdata(data: np.ndarray[Any, Any], folder: Path) -> Iterable[Any]:
    """Chunks of 64 MB, LitData's default, shuffled by its own loader in this process."""
    import litdata

    global _rows  # workers of `optimize` are forked and find it there
    _rows = data
    litdata.optimize(
        fn=_row,
        inputs=list(range(len(data))),
        output_dir=str(folder / "out"),
        chunk_bytes="64MB",
        num_workers=1,
        start_method="fork",
        verbose=False,
    )
    dataset = litdata.StreamingDataset(str(folder / "out"), shuffle=True)
    batches: Iterable[Any] = litdata.StreamingDataLoader(dataset, batch_size=BATCH, num_workers=0)
    return batches


def _row(index: int) -> Any:
    return np.asarray(_rows[index])


_rows: Any = None


def _huggingface(data: np.ndarray[Any, Any], folder: Path) -> Iterable[Any]:
    """Arrow files, streamed, with a shuffle buffer."""
    import datasets

    datasets.disable_progress_bars()
    feature = datasets.Features({"image": datasets.Sequence(datasets.Value("uint16"), TOKENS)})
    for i in range(0, len(data), 25_000):
        part = datasets.Dataset.from_dict({"image": list(data[i : i + 25_000])}, features=feature)
        part.save_to_disk(str(folder / f"{i:09d}"))
    parts = [datasets.load_from_disk(str(path)) for path in sorted(folder.iterdir())]
    whole = datasets.concatenate_datasets(parts).to_iterable_dataset(num_shards=8)
    shuffled = whole.shuffle(seed=0, buffer_size=BUFFER).with_format("numpy")
    return (batch["image"] for batch in shuffled.iter(batch_size=BATCH))


def _use_one_core() -> None:
    os.environ |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})


def main() -> None:
    """Print the table, or with ``--peer`` one peer's row as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=ROWS)
    parser.add_argument("--peer-python", default=sys.executable)
    parser.add_argument("--peer", choices=sorted(PEERS), help=argparse.SUPPRESS)
    parser.add_argument("--tokens", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.peer:
        _use_one_core()
        print(json.dumps(_run_peer(options.peer, options.tokens)))
        return
    for row in run(rows=options.rows, peer_python=options.peer_python):
        rate = f"{row['rows_per_s']:12,.0f}" if row["rows_per_s"] else f"{'-':>12}"
        share = f"{row['of_limit']:8.4f}" if row["of_limit"] else f"{'-':>8}"
        print(f"{row['name']:36} {rate} rows/s {share} of the limit  {row['note']}")


if __name__ == "__main__":
    main()
