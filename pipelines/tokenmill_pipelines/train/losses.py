"""What a network is scored by: cross-entropy of the ids that it had to guess."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812  (torch's own custom)
from torch import Tensor, nn

from tokenmill.feed import Feed
from tokenmill.feed.columns import Batch, Values
from tokenmill.feed.shaping.masking import IGNORE
from tokenmill_pipelines.train.config import TrainJob
from tokenmill_pipelines.train.tokens import CLASS, Shown, open_feed

#: Batches of held-out samples that are looked at, at most.
HELD_OUT_BATCHES = 50


def score(
    network: nn.Module, batch: Batch, stream: str, *, device: str = "cpu", smoothing: float = 0.0
) -> tuple[Tensor, Tensor]:
    """Return the sum of a batch's losses in nats, and how many ids were scored.

    A batch with targets (of a masked network) is scored there, another one everywhere.
    """
    ids, classes = _to(batch[stream], device), _to(batch[CLASS], device)
    hidden = batch.get(f"{stream}.targets")
    targets = ids if hidden is None else _to(hidden, device)
    with _autocast(device):
        logits = network(ids, classes)
    total = F.cross_entropy(
        logits.float().flatten(0, 1),
        targets.flatten(),
        reduction="sum",
        ignore_index=IGNORE,
        label_smoothing=smoothing,
    )
    return total, (targets != IGNORE).sum()


def held_out_feed(job: TrainJob, shown: Shown) -> Feed | None:
    """Return the feed of the samples of ``source.held_out``, None where none are.

    Raises:
        JobError: the condition is wrong, or they are too few for a batch.
        StoreError: there are none.
    """
    if not job.source.held_out:
        return None
    return open_feed(replace(job, source=replace(job.source, where=job.source.held_out)), shown)


@torch.no_grad()
def held_out_loss(network: nn.Module, job: TrainJob, shown: Shown) -> float | None:
    """Return the mean loss on held-out samples, None where none are."""
    feed = held_out_feed(job, shown)
    if feed is None:
        return None
    total, count = 0.0, 0
    for batch, _ in zip(feed, range(min(len(feed), HELD_OUT_BATCHES)), strict=False):
        losses, scored = score(network.eval(), batch, shown.stream)
        total, count = total + float(losses), count + int(scored)
    return total / count


def _to(values: Values, device: str) -> Tensor:
    return torch.from_numpy(np.asarray(values)).to(device, non_blocking=True)


@contextlib.contextmanager
def _autocast(device: str) -> Iterator[None]:
    """Compute in bfloat16 on a GPU, in float32 on a CPU."""
    kind = torch.device(device).type
    with torch.autocast(kind, dtype=torch.bfloat16, enabled=kind == "cuda"):
        yield
