"""A small store of pictures in three classes, made by the example job, and jobs that learn it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tokenmill_infra.observe import SilentObserver
from tokenmill_pipelines.jobs import run_job
from tokenmill_pipelines.samples.fashion_mnist import SCHEMA, png
from tokenmill_pipelines.train.config import TrainJob, read_train_job
from tokenmill_pipelines.train.run import TrainResult, run_train_job
from tokenmill_schemas.job import read_job

JOBS = Path(__file__).parents[3] / "pipelines" / "jobs" / "train"
CLASSES = ("bar", "frame", "slope")
PICTURES = 150
#: Of which every fifth is held out.
SHOWN = 120

#: Enough to learn this store in a second or two.
SMALL = (
    *("model.width=32", "model.depth=2", "model.heads=2", "source.batch_size=12"),
    *("optimiser.warmup=5", "optimiser.steps=24", "optimiser.ema=0.9"),
    *("output.checkpoint_every=8", "output.log_every=4", "sampling.count=2"),
    *("cluster.backend=local", "cluster.workers=1"),
)
JobOf = Callable[..., TrainJob]


def picture(kind: int, number: int) -> np.ndarray:
    """A grey picture of a class, no two alike."""
    rows, columns = np.mgrid[:28, :28]
    size = 4 + number % 8
    light = 120 + number % 100
    shapes = (
        abs(columns - 14) < size,
        (abs(columns - 14) < size + 3) ^ (abs(columns - 14) < size) | (abs(rows - 14) > 11),
        rows + columns > 20 + 2 * size,
    )
    return np.where(shapes[kind], light, 0).astype(np.uint8)


def write_listing(file: Path, first: int, count: int) -> Path:
    """Write pictures as ``samples fetch fashion-mnist`` lists them."""
    rows = range(first, first + count)
    kinds = [row % len(CLASSES) for row in rows]
    columns = {
        "key": [f"train/{row:05d}" for row in rows],
        "image": [png(picture(kind, row)) for kind, row in zip(kinds, rows, strict=True)],
        "label": kinds,
        "caption": [CLASSES[kind] for kind in kinds],
        "split": ["test" if row % 5 == 4 else "train" for row in rows],
    }
    pq.write_table(pa.table(columns, schema=SCHEMA), file)
    return file


def tokenize(listing: Path, store: str) -> None:
    """Run the example job that makes tokens of a listing: 49 ids of 512 a picture."""
    sets = (f"store.uri={store}", f'source.urls=["{listing}"]', "shards.unit_assets=50")
    local = ("cluster.backend=local", "cluster.actors=1")
    job = read_job(JOBS / "fashion_mnist_tokens.toml", overrides=(*sets, *local))
    run_job(job, observer=SilentObserver())


@pytest.fixture(scope="session")
def shapes_store(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A store of `PICTURES` pictures."""
    folder = tmp_path_factory.mktemp("shapes")
    store = str(folder / "store")
    tokenize(write_listing(folder / "listing.parquet", 0, PICTURES), store)
    return store


@pytest.fixture
def train_job(shapes_store: str, tmp_path: Path) -> JobOf:
    """Makes small jobs over that store: ``train_job("a", "optimiser.steps=4", ...)``."""

    def make(output: str = "training", *sets: str) -> TrainJob:
        places = (f"source.store={shapes_store}", f"output.uri={tmp_path / output}")
        return read_train_job(JOBS / "fashion_mnist.toml", overrides=(*SMALL, *places, *sets))

    return make


def trained(job: TrainJob, *, resume: bool = False) -> TrainResult:
    """Train silently."""
    return run_train_job(job, observer=SilentObserver(), resume=resume)
