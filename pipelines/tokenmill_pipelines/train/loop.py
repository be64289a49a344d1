"""The training loop: what one worker does, the same for one or many.

A step sees the same samples whatever the number of workers, every random number is a function of
the seed, the step and the sample's place, and gradients are averaged over the whole batch. So one
worker resumed is bit for bit the one that never stopped (on a CPU), and several are the same up to
the order of floating-point sums.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from tokenmill.feed import Feed
from tokenmill.feed.columns import Batch
from tokenmill_infra.cluster.training import Worker
from tokenmill_infra.storage import Storage, open_storage, storage_options
from tokenmill_pipelines.train import checkpoint
from tokenmill_pipelines.train.checkpoint import Leg, Progress
from tokenmill_pipelines.train.config import OptimiserConfig, TrainJob
from tokenmill_pipelines.train.generators import (
    Generator,
    build_generator,
    groups,
)
from tokenmill_pipelines.train.losses import score
from tokenmill_pipelines.train.tokens import Shown, open_feed

#: Early steps forget the first weights: the average keeps (1 + n) / (EMA_START + n) at most.
EMA_START = 10


@dataclass(frozen=True, slots=True)
class Training:
    """What every worker is told."""

    job: TrainJob
    shown: Shown


def train(worker: Worker, training: Training) -> None:
    """Train to the job's last step, from the newest checkpoint if there is one.

    Raises:
        JobError: the checkpoint is of another training, or another one writes beside this.
        StoreError: the store's version is gone.
    """
    with storage_options(training.job.storage):
        learner = _Learner(worker, training)
        learner.restore()
        learner.run()


def rate_at(step: int, how: OptimiserConfig) -> float:
    """Return the learning rate of a step: up as a line, then down as a cosine."""
    if step < how.warmup:
        return how.lr * (step + 1) / how.warmup
    done = (step - how.warmup) / max(1, how.steps - how.warmup)
    return how.lr * (how.final_lr + (1 - how.final_lr) * (1 + math.cos(math.pi * done)) / 2)


@dataclass(slots=True)
class _Since:
    """What was summed since the curve's last point: losses, and processor seconds."""

    loss: Tensor | float = 0.0
    steps: int = 0
    cpu_s: float = field(default_factory=time.process_time)


class _Learner:
    """One worker's share of a training."""

    def __init__(self, worker: Worker, training: Training) -> None:
        self.worker, self.job, self.shown = worker, training.job, training.shown
        self.storage: Storage = open_storage(self.job.output.uri)
        self.feed: Feed = open_feed(
            self.job, self.shown, rank=worker.rank, world_size=worker.world_size
        )
        seed = self.job.source.seed
        self.network: Generator = build_generator(self.job.model, self.shown.layout, seed=seed).to(
            worker.device
        )
        self.average = {name: p.detach().clone() for name, p in self.network.named_parameters()}
        how = self.job.optimiser
        self.optimiser = torch.optim.AdamW(
            groups(self.network, how.weight_decay), lr=how.lr, betas=how.betas
        )
        self.progress = Progress(
            step=0,
            identity=self.job.identity,
            snapshot=self.shown.snapshot,
            fingerprint=self.shown.fingerprint,
            classes=self.shown.classes,
            feed=self.feed.state_dict(),
        )
        self.since = _Since()

    def restore(self) -> None:
        """Go to the newest checkpoint, if there is one."""
        found = checkpoint.newest(self.storage)
        if found is None:
            return
        checkpoint.check_same(found.progress, self.job.identity, uri=self.storage.uri)
        self.network.load_state_dict(found.part("model"))
        self.average = {k: v.to(self.worker.device) for k, v in found.part("ema").items()}
        checkpoint.restore_optimiser(self.network, self.optimiser, found.part("optimiser"))
        self.feed.load_state_dict(found.progress.feed)
        self.progress = found.progress

    def run(self) -> None:
        """Do all steps that are left."""
        steps, output = self.job.optimiser.steps, self.job.output
        first = self.progress.step
        started = (time.perf_counter(), first)
        self.progress = self.progress.after(
            legs=(*self.progress.legs, Leg(first, first, self.worker.world_size, 0.0, 0.0))
        )
        network = self._parallel()
        self.network.train()
        for step, batch in zip(range(first, steps), self.feed, strict=False):
            self._learn(network, batch, step)
            done = step + 1
            saved = done == steps or done % output.checkpoint_every == 0
            if saved or done % output.log_every == 0:
                self._tell(done, started)
            if saved and self.worker.rank == 0:
                self._save()

    def _parallel(self) -> nn.Module:
        if self.worker.world_size == 1:
            return self.network
        return nn.parallel.DistributedDataParallel(self.network)

    def _learn(self, network: nn.Module, batch: Batch, step: int) -> None:
        """Do one step: show, score, and move the weights and their average."""
        how = self.job.optimiser
        for group in self.optimiser.param_groups:
            group["lr"] = rate_at(step, how)
        loss = self._loss(network, batch)
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]  # torch's
        if how.clip:
            nn.utils.clip_grad_norm_(self.network.parameters(), how.clip)
        self.optimiser.step()
        self._follow(step)
        self.since.loss = self.since.loss + loss.detach()  # read where it is told: a GPU goes on
        self.since.steps += 1

    def _loss(self, network: nn.Module, batch: Batch) -> Tensor:
        """Return the mean loss of the whole batch's scored ids, as far as this rank knows it.

        Its mean over ranks is the batch's: DistributedDataParallel averages gradients likewise.
        """
        smoothing = self.job.optimiser.label_smoothing
        device, world_size = self.worker.device, self.worker.world_size
        total, count = score(network, batch, self.shown.stream, device=device, smoothing=smoothing)
        if world_size > 1:
            torch.distributed.all_reduce(count)  # ranks hide different numbers of ids
        return total * world_size / count

    def _follow(self, step: int) -> None:
        keep = min(self.job.optimiser.ema, (1 + step) / (EMA_START + step))
        parameters = dict(self.network.named_parameters())
        names = list(parameters)
        torch._foreach_lerp_(  # pyright: ignore[reportPrivateImportUsage]  # one pass for all
            [self.average[name] for name in names],
            [parameters[name].detach() for name in names],
            1 - keep,
        )

    def _tell(self, step: int, started: tuple[float, int]) -> None:
        """Add a point to the curve, from the sums of all ranks, and say so."""
        cpu_s = time.process_time()
        sums = torch.tensor([self.since.loss, cpu_s - self.since.cpu_s], dtype=torch.float64)
        if self.worker.world_size > 1:
            sums = sums.to(self.worker.device)
            torch.distributed.all_reduce(sums)
        loss = float(sums[0]) / self.since.steps / self.worker.world_size
        began, first = started
        wall_s = time.perf_counter() - began
        leg = self.progress.legs[-1]
        leg = Leg(
            leg.first, step, leg.workers, round(wall_s, 3), round(leg.cpu_s + float(sums[1]), 3)
        )
        self.progress = self.progress.after(
            step=step,
            feed=self.feed.state_dict(),
            curve=(*self.progress.curve, (step, loss)),
            legs=(*self.progress.legs[:-1], leg),
        )
        self.since = _Since(cpu_s=cpu_s)
        if self.worker.rank == 0:
            self._say(loss=loss, steps_per_s=(step - first) / max(wall_s, 1e-9))

    def _say(self, **facts: Any) -> None:
        self.worker.say({"step": self.progress.step, "steps": self.job.optimiser.steps, **facts})

    def _save(self) -> None:
        tensors: dict[str, Tensor] = {}
        parts = {
            "model": self.network.state_dict(),
            "ema": self.average,
            "optimiser": checkpoint.optimiser_tensors(self.network, self.optimiser),
        }
        for part, values in parts.items():
            tensors |= {f"{part}.{name}": value for name, value in values.items()}
        checkpoint.save(self.storage, self.progress, tensors, keep=self.job.output.keep)
        self._say(checkpoint=checkpoint.path_of(self.progress.step))
