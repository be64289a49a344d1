"""Other loaders of short token rows, in batches of 256, shuffled as their documentation says.

    python benchmarks/feed_peers.py NAME TOKENS.npy [--rows N] [--passes N]

Runs in a process, and if need be in an environment, of its own: needs numpy and the one peer.
Prints one line of JSON: rows per second of processor time of each pass, and how many of a thousand
classes a batch has on average where the input is sorted by class.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import sys
import tempfile
import time
import types
from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
Epoch = Callable[[], Iterable[Any]]

BATCH, VOCAB = 256, 16_384
BUFFER = 10_000
CLASSES = 1_000
#: Batches whose classes are counted.
COUNTED = 100
PACKAGES = {
    "litdata": "litdata",
    "mosaicml": "mosaicml-streaming",
    "webdataset": "webdataset",
    "huggingface": "datasets",
    "lance": "pylance",
}


def run(name: str, tokens: Path, *, rows: int, passes: int) -> dict[str, Any]:
    """Write the peer's files, then measure passes over them."""
    data = np.load(tokens, mmap_mode="r")[: rows or None]
    with tempfile.TemporaryDirectory(prefix="bench-peer-") as folder:
        epoch = PREPARE[name](data, Path(folder))
        rates = [_rate(epoch()) for _ in range(passes)]
        distinct = _distinct_classes(epoch(), len(data))
    return {"version": version(PACKAGES[name]), "rates": rates, "distinct": distinct}


def _rate(batches: Iterable[Any]) -> float:
    """Rows per second of processor time of one pass, all batches looked at as arrays."""
    start, rows = time.process_time(), 0
    for batch in batches:
        rows += len(np.asarray(batch))
    return rows / (time.process_time() - start)


def _distinct_classes(batches: Iterable[Any], rows: int) -> float:
    """Return the classes of a batch, on average, where row i is of class ``i * 1000 // rows``."""
    counts = []
    for batch in itertools.islice(batches, COUNTED):
        array = np.asarray(batch).astype(np.int64)
        numbers = array[:, 0] + array[:, 1] * VOCAB
        counts.append(len(np.unique(numbers * CLASSES // rows)))
    return float(np.mean(counts))


def _webdataset(data: Array, folder: Path) -> Epoch:
    """One .npy member a sample, as WebDataset's documentation lays samples out."""
    import webdataset

    with webdataset.ShardWriter(f"file:{folder}/%06d.tar", maxcount=10_000, verbose=0) as sink:
        for i, row in enumerate(data):
            sink.write({"__key__": f"{i:09d}", "npy": row})
    urls = [f"file:{path}" for path in sorted(folder.glob("*.tar"))]

    def epoch() -> Iterable[Any]:
        dataset = webdataset.WebDataset(urls, shardshuffle=100).shuffle(BUFFER).decode()
        stacked: Iterable[Any] = (
            dataset.to_tuple("npy").batched(BATCH).map(lambda batch: np.stack(batch[0]))
        )
        return stacked

    return epoch


def _litdata(data: Array, folder: Path) -> Epoch:
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

    def epoch() -> Iterable[Any]:
        dataset = litdata.StreamingDataset(str(folder / "out"), shuffle=True)
        loader: Iterable[Any] = litdata.StreamingDataLoader(
            dataset, batch_size=BATCH, num_workers=0
        )
        return loader

    return epoch


def _row(index: int) -> Any:
    return np.asarray(_rows[index])


_rows: Any = None


def _mosaicml(data: Array, folder: Path) -> Epoch:
    """MDS shards of 64 MB, its default; py1e, its default shuffle."""
    sys.meta_path.insert(0, _StandIns())
    import torch

    streaming = import_module("streaming")

    columns = {"image": f"ndarray:uint16:{data.shape[1]}"}
    with streaming.MDSWriter(out=str(folder), columns=columns, progress_bar=False) as sink:
        for row in data:
            sink.write({"image": np.ascontiguousarray(row)})
    streaming.base.util.clean_stale_shared_memory()
    dataset = streaming.StreamingDataset(
        local=str(folder), shuffle=True, batch_size=BATCH, num_canonical_nodes=1
    )
    loader = torch.utils.data.DataLoader(dataset, batch_size=BATCH)
    return lambda: (batch["image"] for batch in loader)


class _StandIns(MetaPathFinder, Loader):
    """Empty stand-ins of what MosaicML Streaming imports for other uses than ours.

    Also if it is installed: not every torchvision can be imported beside every torch.
    """

    names = ("torchvision", "transformers")

    def find_spec(
        self, fullname: str, _path: Sequence[str] | None = None, _target: Any = None
    ) -> ModuleSpec | None:
        """Find modules of those names, and whatever is below them."""
        if fullname.partition(".")[0] not in self.names:
            return None
        return ModuleSpec(fullname, self, is_package=True)

    def create_module(self, spec: ModuleSpec) -> types.ModuleType:
        """Return a module that has every name."""
        return _Anything(spec.name)

    def exec_module(self, module: types.ModuleType) -> None:
        """There is nothing to run."""


class _Anything(types.ModuleType):
    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {})


def _huggingface(data: Array, folder: Path) -> Epoch:
    """Arrow files, streamed, with a shuffle buffer."""
    import datasets

    datasets.disable_progress_bars()
    feature = datasets.Features(
        {"image": datasets.Sequence(datasets.Value("uint16"), data.shape[1])}
    )
    for i in range(0, len(data), 25_000):
        part = datasets.Dataset.from_dict({"image": list(data[i : i + 25_000])}, features=feature)
        part.save_to_disk(str(folder / f"{i:09d}"))
    parts = [datasets.load_from_disk(str(path)) for path in sorted(folder.iterdir())]
    whole = datasets.concatenate_datasets(parts).to_iterable_dataset(num_shards=8)
    shuffled = whole.shuffle(seed=0, buffer_size=BUFFER).with_format("numpy")
    return lambda: (batch["image"] for batch in shuffled.iter(batch_size=BATCH))


def _lance(data: Array, folder: Path) -> Epoch:
    """A Lance table, of which the rows of each batch of a random permutation are taken."""
    import lance
    import pyarrow as pa

    width = data.shape[1]
    schema = pa.schema([pa.field("image", pa.list_(pa.uint16(), width))])

    def written() -> Iterator[pa.RecordBatch]:
        for first in range(0, len(data), 4096):
            flat = pa.array(np.ascontiguousarray(data[first : first + 4096]).reshape(-1))
            rows = pa.FixedSizeListArray.from_arrays(flat, width)
            yield pa.record_batch([rows], schema=schema)

    table = lance.write_dataset(written(), str(folder / "table"), schema=schema)

    def epoch() -> Iterator[Any]:
        order = np.random.default_rng(0).permutation(len(data))
        for first in range(0, len(order), BATCH):
            column = table.take(order[first : first + BATCH].tolist())["image"].combine_chunks()
            yield column.flatten().to_numpy().reshape(-1, width)

    return epoch


PREPARE: dict[str, Callable[[Array, Path], Epoch]] = {
    "litdata": _litdata,
    "mosaicml": _mosaicml,
    "webdataset": _webdataset,
    "huggingface": _huggingface,
    "lance": _lance,
}


def main() -> None:
    """Measure one peer and print it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=sorted(PREPARE))
    parser.add_argument("tokens", type=Path)
    parser.add_argument("--rows", type=int, default=0)
    parser.add_argument("--passes", type=int, default=3)
    given = parser.parse_args()
    os.environ |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    found = run(given.name, given.tokens, rows=given.rows, passes=given.passes)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
