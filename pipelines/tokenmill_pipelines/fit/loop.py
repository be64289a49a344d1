"""The fitting loop: batches in, weights out, one process on one device.

Everything that is random is a function of the seed and the step, so that a fit that is resumed has
bit for bit the weights of one that never stopped (on a CPU, with as many threads).
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tokenmill_infra.observe import Observer
from tokenmill_infra.storage import Storage
from tokenmill_pipelines.fit.batches import Batches
from tokenmill_pipelines.fit.config import FitJob
from tokenmill_pipelines.fit.lessons import Lesson
from tokenmill_pipelines.train import checkpoint
from tokenmill_pipelines.train.checkpoint import Leg, Progress
from tokenmill_pipelines.train.loop import EMA_START, rate_at
from tokenmill_schemas.errors import JobError

#: Second word of the key of a step's random numbers that are not its cuts.
LESSON_STREAM = 2**32
TORCH_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
#: Seconds between two lines about the loss.
EVERY_S = 15.0


@dataclass(slots=True)
class _Since:
    """What was summed since the curve's last point."""

    loss: float = 0.0
    steps: int = 0
    said_at: float = field(default_factory=time.monotonic)


class Learner:
    """A network on its way through the steps of a job.

    Args:
        job: what to do.
        lesson: the network and its loss.
        batches: what it is shown.
        storage: where checkpoints go.
        digest: of everything that was gathered.
    """

    def __init__(
        self, job: FitJob, lesson: Lesson, batches: Batches, storage: Storage, digest: str
    ) -> None:
        self.job, self.lesson, self.batches, self.storage = job, lesson, batches, storage
        self.device = torch.device(job.machine.device)
        module: Any = lesson.network  # the stubs of Module.to leave out memory_format
        flat = any(isinstance(layer, nn.Conv2d) for layer in module.modules())
        layout = torch.channels_last if flat else torch.contiguous_format
        self.network: nn.Module = module.to(self.device, memory_format=layout)
        self.network.requires_grad_(False).train()
        self.learned = lesson.parameters()
        for parameter in self.learned.values():
            parameter.requires_grad_(True)
        self.average = {name: p.detach().clone() for name, p in self.learned.items()}
        how = job.optimiser
        self.optimiser = torch.optim.AdamW(
            _groups(self.learned, how.weight_decay), lr=how.lr, betas=how.betas
        )
        self.progress = Progress(
            step=0, identity=job.identity, snapshot="", fingerprint=digest, classes=(), feed={}
        )

    def restore(self) -> int:
        """Go to the newest checkpoint, if there is one, and return its step.

        Raises:
            JobError: it is of another job, or of other media.
        """
        found = checkpoint.newest(self.storage)
        if found is None:
            return 0
        check_job(found.progress, self.job, uri=self.storage.uri)
        if found.progress.fingerprint != self.progress.fingerprint:
            raise JobError(
                f"{self.storage.uri} holds a fit of other media: what the job's data name has "
                "changed since. Take another output",
                path="output.uri",
            )
        for name, value in found.part("model").items():
            self.learned[name].data.copy_(value)
        self.average = {k: v.to(self.device) for k, v in found.part("ema").items()}
        checkpoint.restore_optimiser(self.network, self.optimiser, found.part("optimiser"))
        self.progress = found.progress
        return found.progress.step

    def run(self, observer: Observer) -> None:
        """Do all steps that are left."""
        steps, output = self.job.optimiser.steps, self.job.output
        first = self.progress.step
        legs = (*self.progress.legs, Leg(first, first, 1, 0.0, 0.0))
        self.progress = self.progress.after(legs=legs)
        began, since = (time.perf_counter(), time.process_time()), _Since()
        for step in range(first, steps):
            since.loss += float(self._learn(step))
            since.steps += 1
            done = step + 1
            saved = done == steps or done % output.checkpoint_every == 0
            if saved or done % output.log_every == 0:
                self._tell(done, since, began)
                since = self._say(observer, since)
            if saved:
                self._save()
                observer.event("checkpoint", step=done, path=checkpoint.path_of(done))

    def _learn(self, step: int) -> Tensor:
        """Do one step: show, score, and move the weights and their average."""
        job, how = self.job, self.job.optimiser
        for group in self.optimiser.param_groups:
            group["lr"] = rate_at(step, how)
        samples = torch.from_numpy(np.ascontiguousarray(self.batches.at(step))).to(self.device)
        rng = np.random.Generator(np.random.Philox(key=(job.seed, LESSON_STREAM + step)))
        kind = TORCH_DTYPES[job.machine.autocast]
        enabled = kind != torch.float32
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=enabled):
            loss = self.lesson.score(self.network, samples, job.loss, rng)
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]  # torch's
        if how.clip:
            nn.utils.clip_grad_norm_(self.learned.values(), how.clip)
        self.optimiser.step()
        keep = min(how.ema, (1 + step) / (EMA_START + step))
        torch._foreach_lerp_(  # pyright: ignore[reportPrivateImportUsage]  # one pass for all
            [self.average[name] for name in self.learned],
            [parameter.detach() for parameter in self.learned.values()],
            1 - keep,
        )
        return loss.detach()

    def _tell(self, step: int, since: _Since, began: tuple[float, float]) -> None:
        leg = self.progress.legs[-1]
        leg = Leg(
            leg.first,
            step,
            1,
            round(time.perf_counter() - began[0], 3),
            round(time.process_time() - began[1], 3),
        )
        point = (step, since.loss / since.steps)
        self.progress = self.progress.after(
            step=step,
            curve=(*self.progress.curve, point),
            legs=(*self.progress.legs[:-1], leg),
        )

    def _say(self, observer: Observer, since: _Since) -> _Since:
        """Say how far it is, now and then; return the next stretch's sums."""
        step, loss = self.progress.curve[-1]
        now = time.monotonic()
        if now - since.said_at < EVERY_S and step < self.job.optimiser.steps:
            return _Since(said_at=since.said_at)
        leg = self.progress.legs[-1]
        rate = (leg.last - leg.first) / max(leg.wall_s, 1e-9)
        observer.progress(step, self.job.optimiser.steps, samples=step * self.job.batch.size)
        observer.event("loss", step=step, loss=round(loss, 5), steps_per_s=round(rate, 3))
        return _Since(said_at=now)

    def _save(self) -> None:
        tensors: dict[str, Tensor] = {}
        parts = {
            "model": {name: p.detach() for name, p in self.learned.items()},
            "ema": self.average,
            "optimiser": checkpoint.optimiser_tensors(self.network, self.optimiser),
        }
        for part, values in parts.items():
            tensors |= {f"{part}.{name}": value for name, value in values.items()}
        checkpoint.save(self.storage, self.progress, tensors, keep=self.job.output.keep)


def check_job(progress: Progress, job: FitJob, *, uri: str) -> None:
    """Check that a job may go on from a checkpoint.

    Raises:
        JobError: it was shaped by other settings; names them all.
    """
    checkpoint.check_same(progress, job.identity, uri=uri)


def _groups(learned: dict[str, nn.Parameter], weight_decay: float) -> list[dict[str, Any]]:
    """Return the optimiser's groups: kernels and matrices decay, biases and norms do not."""
    kernels = [p for p in learned.values() if p.ndim > 1]
    rest = [p for p in learned.values() if p.ndim <= 1]
    return [
        {"params": kernels, "weight_decay": weight_decay},
        {"params": rest, "weight_decay": 0.0},
    ]


def averaged(lesson: Lesson, average: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return all weights to ship, float16: the averages of what learned, and what did not learn."""
    whole = {name: p.detach() for name, p in lesson.network.named_parameters()} | average
    return {name: value.half().cpu().contiguous() for name, value in whole.items()}
