"""Train on a store with Lightning: the feed is the loader, and its state is in the checkpoint.

    python pipelines/examples/lightning_data.py stores/demo --steps 40
    python pipelines/examples/lightning_data.py stores/demo --steps 80 --resume run/last.ckpt

Needs ``pip install "tokenmill[torch]" lightning``. Lightning asks a loader for its length, an
epoch's steps, and for its ``state_dict``, which is the feed's: a checkpoint resumes in the middle
of an epoch, on any number of devices that divides the batch.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

import lightning
import torch
from torch import nn

from tokenmill.feed import Feed
from tokenmill.feed.tensors import TorchFeed


class TokenData(lightning.LightningDataModule):
    """The samples of a store; every device reads its part of each batch."""

    def __init__(self, store: str, **options: Any) -> None:
        super().__init__()
        self.store, self.options = store, options

    def train_dataloader(self) -> TorchFeed:
        """Return the feed of this device.

        `tokenmill.feed.torch_dataset.FeedLoader` reads in processes instead of threads, where
        transforms need them.
        """
        if self.trainer is None:
            raise RuntimeError("a trainer asks for this")
        rank, world_size = self.trainer.global_rank, self.trainer.world_size
        feed = Feed(self.store, rank=rank, world_size=world_size, **self.options)
        return feed.as_torch(pin_memory=True)


class Successor(lightning.LightningModule):
    """The smallest model of a sequence of ids: each one's successor, whatever came before."""

    def __init__(self, stream: str, ids: int) -> None:
        super().__init__()
        self.stream, self.table = stream, nn.Embedding(ids, ids)

    def training_step(self, batch: Mapping[str, Any]) -> torch.Tensor:
        """Return the cross entropy of every id but the first of each sample."""
        ids = batch[self.stream].flatten(1)
        logits = self.table(ids[:, :-1]).flatten(0, 1)
        return nn.functional.cross_entropy(logits, ids[:, 1:].flatten())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return what changes the table."""
        return torch.optim.AdamW(self.parameters(), lr=1e-2)


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("store")
    parser.add_argument("--stream", default="image")
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--resume", help="a checkpoint, of any number of devices")
    options = parser.parse_args()
    data = TokenData(options.store, batch_size=8, streams=[options.stream], columns=())
    ids = max(Feed(options.store, batch_size=1, streams=[options.stream]).streams[0].vocab_sizes)
    trainer = lightning.Trainer(max_steps=options.steps, default_root_dir="run", logger=False)
    trainer.fit(Successor(options.stream, ids), data, ckpt_path=options.resume)
    trainer.save_checkpoint("run/last.ckpt")


if __name__ == "__main__":
    main()
