"""The same job done by others: the same pictures, network, batch size and cores, side by side.

- tokenmill: `run_job` on Ray as it comes, two actors on two cores. Its clock runs from before the
  listing to the commit; the start of Ray is taken off, that of actors and their imports is not.
- Ray Data, stages: as its guides for images and batch inference write it. `read_images`, `map` for
  the crop, `map_batches` with a class and ``concurrency=2``, `write_parquet`. Actors ask for half a
  core each, so that its reading tasks have one to run on.
- Ray Data, fused: the friendliest form for it that we know. `from_items` of paths, and a class that
  decodes with our decoder and view inside `map_batches`: no pixels go through the object store.
  Its clock starts after `ray.init` and ends when `write_parquet` returns.
- Loop: as the research scripts do it. One process, `DataLoader` of batch 1 with 0 or 2 workers,
  Pillow, one ``.npy`` of int64 ids and one of the label a picture; torch may use both cores.

Peers run with the allocator's defaults, as whoever writes them would have it, and once with the
settings of our actors. ``steady`` is from the end of the first batch to the end of the last, all
actors together; ``wall`` is everything after `ray.init`, model load included. Runs alternate. Bars
are held to wall time. Loops of fewer pictures than ours (see the title) weigh their start more,
which favours us a little; the steady rates do not.
"""

from __future__ import annotations

import importlib.util
import os
import tempfile
import time
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

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
    task_given,
    write_listing,
)
from benchmarks.timed import Timed, steady_rate

ACTORS = 2
UNIT = 50
RAY_DATA_BAR, LOOP_BAR = 1.3, 2.0
OURS = "tokenmill"
RAY_DATA = ("Ray Data, stages", "Ray Data, fused", "Ray Data, fused, our allocator settings")
LOOPS = ("loop, 0 workers", "loop, 2 workers")


@dataclass(frozen=True, slots=True)
class Plan:
    """``pictures`` for ours and Ray Data, ``loop_pictures`` for the loops, in ``rounds`` rounds."""

    tokenizer: str
    pictures: int = 1000
    loop_pictures: int = 300
    rounds: int = 2


PLANS: tuple[Plan, ...] = (Plan("patch_vq", loop_pictures=1000), Plan("llamagen", rounds=1))

Found = dict[str, list[dict[str, float]]]


def run(corpus: Path, *, plans: tuple[Plan, ...] = PLANS) -> list[Section]:
    """Measure all plans."""
    return [_measure(corpus, plan) for plan in plans]


def _measure(corpus: Path, plan: Plan) -> Section:
    paths = pictures(corpus, 2000)[:: 2000 // plan.pictures][: plan.pictures]
    there = importlib.util.find_spec("pandas") is not None
    names = (OURS, *RAY_DATA * there, *LOOPS)
    found: Found = {name: [] for name in names}
    for _ in range(plan.rounds):
        for name in names:
            chosen = paths[: plan.loop_pictures] if name in LOOPS else paths
            task = {"do": name, "paths": chosen, "name": plan.tokenizer}
            found[name].append(child("peers", task, env=_env(name)))
    title = f"Peers: {plan.tokenizer}, {plan.pictures} pictures (loops {plan.loop_pictures})"
    notes = () if there else ("Ray Data needs pandas, which is not installed (extra `bench`).",)
    return Section(title, __doc__ or "", (*_ratios(plan, found), *_rates(plan, found)), notes)


def _env(name: str) -> dict[str, str]:
    if name in LOOPS:
        cores = str(len(os.sched_getaffinity(0)))
        return {"OMP_NUM_THREADS": cores, "OPENBLAS_NUM_THREADS": cores}
    return MALLOC_ENV if "allocator" in name else {}


def _ratios(plan: Plan, found: Found) -> list[Measure]:
    """Ours over each peer's, round by round."""
    measures = []
    for name in [name for name in found if name != OURS]:
        bar = LOOP_BAR if name in LOOPS else RAY_DATA_BAR
        pairs = list(zip(found[OURS], found[name], strict=True))
        for key in ("wall", "steady"):
            ratios = tuple(ours[key] / peer[key] for ours, peer in pairs)
            label = f"{plan.tokenizer}: {OURS} / {name}, {key}"
            measures.append(Measure(label, "ratio", ratios, bar if key == "wall" else None))
    return measures


def _rates(plan: Plan, found: Found) -> list[Measure]:
    rows = []
    for name, runs in found.items():
        for key, unit in (("wall", "samples/s"), ("steady", "samples/s"), ("bytes", "bytes/token")):
            rows.append(
                Measure(f"{plan.tokenizer}: {name}, {key}", unit, tuple(r[key] for r in runs))
            )
        if "blocks" in runs[0]:
            blocks = tuple(r["blocks"] for r in runs)
            rows.append(Measure(f"{plan.tokenizer}: {name}, on disk", "bytes/token", blocks))
    return rows


class StartClock:
    """An observer that says how long the start of Ray took, and when the commit was done."""

    def __init__(self) -> None:
        self.diff_s = self.dispatch_s = self.report_s = 0.0

    def stage(self, name: str, /) -> AbstractContextManager[None]:
        """Note where the report begins."""
        if name == "report":
            self.report_s = time.perf_counter()
        return nullcontext()

    def event(self, name: str, /, **facts: Any) -> None:  # noqa: ARG002  (an Observer)
        """Note both ends of the start of Ray."""
        if name == "diff":
            self.diff_s = time.perf_counter()
        elif name == "dispatch":
            self.dispatch_s = time.perf_counter()

    def progress(self, done_assets: int, total_assets: int, **facts: Any) -> None:
        """Do nothing."""

    def warn(self, message: str, /, **facts: Any) -> None:
        """Stop: what went wrong would be measured, too."""
        raise RuntimeError(f"{message}: {facts}")


def ours(task: dict[str, Any], folder: Path) -> dict[str, float]:
    """Run the job."""
    from tokenmill_pipelines.jobs import run_job
    from tokenmill_schemas.job import parse_job

    write_listing(task["paths"], folder / "listing.jsonl")
    tokenizer = {"kind": "benchmarks.timed:Timed", **_timed(task, folder)}
    table = job_table(
        folder / "listing.jsonl",
        folder / "store",
        tokenizer,
        cluster={"backend": "ray", "actors": ACTORS},
        shards={"unit_assets": UNIT},
    )
    clock, start = StartClock(), time.perf_counter()
    result = run_job(parse_job(table), observer=clock)
    wall = clock.report_s - start - (clock.dispatch_s - clock.diff_s)
    size = sum(file.stat().st_size for file in (folder / "store" / "data").iterdir())
    return _figures(task, folder, wall) | {"bytes": size / result.done["tokens"]}


def _timed(task: dict[str, Any], folder: Path) -> dict[str, Any]:
    return {**TOKENIZERS[task["name"]], "log": str(folder / "log")}


def _figures(task: dict[str, Any], folder: Path, wall: float) -> dict[str, float]:
    return {"wall": len(task["paths"]) / wall, "steady": steady_rate(folder / "log")}


class Crop:
    """One row of `read_images` to the view's pixels; for Ray Data's `map`."""

    def __init__(self, options: dict[str, Any]) -> None:
        self._options = options

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """Replace the picture by its crop."""
        from PIL import Image

        from tokenmill.decoders.base import Picture

        image = Image.fromarray(row["image"])
        views = _view(self._options).views(Picture(image, {}), row["path"])
        return {"path": row["path"], "image": next(iter(views)).data}


class Encode:
    """Batches of crops to ids; one an actor."""

    def __init__(self, options: dict[str, Any]) -> None:
        import torch

        torch.set_num_threads(1)
        self._encoder = Timed(**options).load()

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Return paths and flat ids."""
        ids = self._encoder.encode(self._encoder.preprocess(np.stack(list(batch["image"]))))
        return {"path": batch["path"], "image": ids["image"].reshape(len(batch["path"]), -1)}


class DecodeEncode(Encode):
    """Batches of paths to ids."""

    def __init__(self, options: dict[str, Any]) -> None:
        from tokenmill.decoders import open_decoder

        super().__init__(options)
        self._decoder, self._view = open_decoder("image"), _view(options)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Return paths and flat ids."""
        from tokenmill_schemas.asset import AssetRef

        pixels = []
        for path in map(str, batch["path"]):
            with Path(path).open("rb") as stream:
                picture = self._decoder.decode(AssetRef(path, path), stream)
            pixels.append(next(iter(self._view.views(picture, path))).data)
        return super().__call__({"path": batch["path"], "image": pixels})


def _view(options: dict[str, Any]) -> Any:
    from tokenmill.views import open_view

    chosen = dict(Timed(**options).default_view)
    return open_view(chosen.pop("kind"), chosen)


def ray_data(task: dict[str, Any], folder: Path) -> dict[str, float]:
    """Run a Ray Data pipeline."""
    import logging

    import ray
    import ray.data

    ray.init(
        address="local", include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR
    )
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    ray.data.DataContext.get_current().enable_progress_bars = False
    options, out = _timed(task, folder), str(folder / "out")
    start = time.perf_counter()
    if "stages" in task["do"]:
        images = ray.data.read_images(task["paths"], mode="RGB", include_paths=True)
        dataset, actor = images.map(Crop(options)), Encode
    else:
        dataset, actor = ray.data.from_items([{"path": p} for p in task["paths"]]), DecodeEncode
    dataset.map_batches(
        actor, fn_constructor_args=[options], batch_size=BATCH, concurrency=ACTORS, num_cpus=0.5
    ).write_parquet(out)
    wall = time.perf_counter() - start
    files = list(Path(out).glob("*.parquet"))
    ray.shutdown()
    return _figures(task, folder, wall) | _size(files, task)


def _size(files: list[Path], task: dict[str, Any]) -> dict[str, float]:
    spec = Timed(**TOKENIZERS[task["name"]]).spec((256, 256))
    tokens = len(task["paths"]) * sum(stream.positions or 0 for stream in spec.streams)
    stats = [file.stat() for file in files]
    return {
        "bytes": sum(stat.st_size for stat in stats) / tokens,
        "blocks": sum(512 * stat.st_blocks for stat in stats) / tokens,
    }


class Pictures:
    """A map-style dataset of crops as the scripts have it: Pillow, RGB, crop."""

    def __init__(self, paths: list[str], options: dict[str, Any]) -> None:
        self._paths, self._view = paths, _view(options)

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        from PIL import Image

        from tokenmill.decoders.base import Picture

        with Image.open(self._paths[index]) as image:
            picture = Picture(image.convert("RGB"), {})
        return next(iter(self._view.views(picture, ""))).data, index % 10


def loop(task: dict[str, Any], folder: Path) -> dict[str, float]:
    """Encode picture by picture into files of their own."""
    import torch
    from torch.utils.data import DataLoader

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    options, out = _timed(task, folder), folder / "out"
    start = time.perf_counter()
    encoder = Timed(**options).load()
    dataset: Any = Pictures(task["paths"], options)
    workers = int(task["do"].split()[1])
    out.mkdir()
    for number, (pixels, label) in enumerate(DataLoader(dataset, num_workers=workers)):
        ids = encoder.encode(encoder.preprocess(pixels.numpy()))["image"]
        np.save(out / f"{number}.npy", ids.astype(np.int64))
        np.save(out / f"{number}_label.npy", label.numpy())
    wall = time.perf_counter() - start
    return _figures(task, folder, wall) | _size(list(out.iterdir()), task)


def main(task: dict[str, Any]) -> None:
    """Run one of the systems in this process."""
    how = ours if task["do"] == OURS else loop if task["do"] in LOOPS else ray_data
    with tempfile.TemporaryDirectory(prefix="bench-peers-") as folder:
        answer(how(task, Path(folder)))


if __name__ == "__main__":
    from benchmarks.peers import main as named  # so that actors find its classes by name

    named(task_given())
