"""Train on a store with Ray Train: a feed in every worker, resumed on any number of them.

    python pipelines/examples/ray_train.py stores/demo --workers 2 --steps 40 --keep run
    python pipelines/examples/ray_train.py stores/demo --workers 1 --steps 80 --resume run/...

Needs ``pip install "tokenmill[torch,cluster]" pandas``. `tokenmill train` is the whole of this with
a real generator; here is how a trainer of one's own reads a feed.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import ray.train
import torch
from ray.train import Checkpoint, Result, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer, prepare_model
from torch import nn

from tokenmill.feed import Feed


def make_model(feed: Feed) -> nn.Module:
    """Return the smallest model of a sequence of ids: each one's successor, whatever came before.

    The stream's specification sizes its table.
    """
    torch.manual_seed(0)
    return nn.Embedding(max(feed.streams[0].vocab_sizes), max(feed.streams[0].vocab_sizes))


def loss_of(model: nn.Module, batch: Mapping[str, Any], name: str) -> torch.Tensor:
    """Return the cross entropy of every id but the first of each sample."""
    ids = batch[name].flatten(1)
    return nn.functional.cross_entropy(model(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten())


def train(config: Mapping[str, Any]) -> None:
    """Be one worker: Ray Train has started the others and their process group."""
    context = ray.train.get_context()
    feed = Feed(
        config["store"],
        batch_size=config["batch_size"],
        streams=config["streams"],
        rank=context.get_world_rank(),
        world_size=context.get_world_size(),
    )
    plain = make_model(feed)
    model = prepare_model(plain)  # wrapped where there are several workers, and only there
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    # After a failure Ray Train gives the newest checkpoint; at first, the one to resume.
    checkpoint = ray.train.get_checkpoint() or config["resume"]
    if checkpoint:
        with checkpoint.as_directory() as folder:
            saved = torch.load(Path(folder, "state.pt"), weights_only=True)
        plain.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        feed.load_state_dict(saved["feed"])  # taken on any number of workers
    name = feed.streams[0].name
    device = ray.train.torch.get_device()
    for batch in islice(feed.as_torch(), config["steps"] - feed.step):
        loss = loss_of(model, {name: batch[name].to(device)}, name)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]  # torch's
        optimizer.step()
        if feed.step % config["save_every"] == 0 or feed.step == config["steps"]:
            state = {"model": plain.state_dict(), "optimizer": optimizer.state_dict()}
            report(float(loss), state | {"feed": feed.state_dict()}, feed.step)


def report(loss: float, state: Mapping[str, Any], step: int) -> None:
    """Report on every worker, which Ray Train waits for; the first one's checkpoint is kept."""
    metrics = {"loss": loss, "step": step}
    if ray.train.get_context().get_world_rank() != 0:
        ray.train.report(metrics)
        return
    with tempfile.TemporaryDirectory() as folder:
        torch.save(dict(state), Path(folder, "state.pt"))
        ray.train.report(metrics, checkpoint=Checkpoint.from_directory(folder))


def fit(config: Mapping[str, Any], *, workers: int, keep: Path) -> Result:
    """Train on so many workers; the result names the last checkpoint."""
    return TorchTrainer(
        train,
        train_loop_config=dict(config),
        scaling_config=ScalingConfig(num_workers=workers, use_gpu=torch.cuda.is_available()),
        run_config=RunConfig(storage_path=str(keep.resolve())),
    ).fit()


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("store")
    parser.add_argument("--stream", default="image")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--keep", type=Path, default=Path("run"))
    parser.add_argument("--resume", type=Path, help="a checkpoint, of any number of workers")
    options = parser.parse_args()
    config = {
        "store": options.store,
        "streams": [options.stream],
        "batch_size": 8,
        "steps": options.steps,
        "save_every": 20,
        "resume": options.resume and Checkpoint(str(options.resume.resolve())),
    }
    result = fit(config, workers=options.workers, keep=options.keep)
    print(result.metrics, result.checkpoint.path if result.checkpoint else "")


if __name__ == "__main__":
    main()
