"""A fit from beginning to end: gather, learn, write the weights, try them, write the report."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime

from tokenmill_infra.observe import Observer
from tokenmill_infra.storage import Storage, open_storage
from tokenmill_pipelines.fit.batches import Batches
from tokenmill_pipelines.fit.config import FitJob
from tokenmill_pipelines.fit.gather import Gathered, gather
from tokenmill_pipelines.fit.lessons import Lesson, open_lesson
from tokenmill_pipelines.fit.loop import Learner
from tokenmill_pipelines.fit.split import split
from tokenmill_pipelines.train import checkpoint
from tokenmill_pipelines.train.checkpoint import Progress
from tokenmill_schemas.canonical import digest
from tokenmill_schemas.errors import JobError


@dataclass(slots=True)
class FitRun:
    """One fit under way: what its stages hand to each other.

    ``learned`` and ``held_out`` are the parts of the media; ``digest`` is of all of them.
    """

    job: FitJob
    observer: Observer
    storage: Storage
    resume: bool = False
    resumed_from: int = 0
    learned: tuple[Gathered, ...] = ()
    held_out: tuple[Gathered, ...] = ()
    digest: str = ""
    lesson: Lesson | None = None
    progress: Progress | None = None
    started_at: datetime = field(default_factory=lambda: datetime.now(UTC))


def open_fit_run(job: FitJob, observer: Observer, *, resume: bool) -> FitRun:
    """Return the run of a job that has done nothing yet."""
    return FitRun(job, observer, open_storage(job.output.uri), resume)


def gather_stage(run: FitRun) -> None:
    """Fetch and decode what is learned from, and hold some of the assets out.

    Raises:
        JobError: there is a fit already and it was not asked to go on.
    """
    there = checkpoint.steps_of(run.storage)
    if there and not run.resume:
        raise JobError(
            f"{run.storage.uri} holds a fit of {there[-1]} steps: --resume goes on with it, or "
            "take another folder",
            path="output.uri",
        )
    parts = gather(run.job, run.observer)
    run.digest = digest([[part.name, part.digest] for part in parts])
    pairs = [split(part, run.job.held_out, run.job.seed) for part in parts]
    run.learned = tuple(learned for learned, _ in pairs)
    run.held_out = tuple(held_out for _, held_out in pairs)


def fit_stage(run: FitRun) -> None:
    """Learn for the steps that are left."""
    import torch

    torch.set_num_threads(run.job.machine.threads)
    run.lesson = open_lesson(run.job)
    batches = Batches(
        run.lesson.takes, run.learned, run.job.shares(), run.job.batch, run.job.seed
    )
    learner = Learner(run.job, run.lesson, batches, run.storage, run.digest)
    run.resumed_from = learner.restore()
    if run.resumed_from < run.job.optimiser.steps:
        learner.run(run.observer)
    run.progress = learner.progress


Stage = Callable[[FitRun], None]
STAGES: tuple[tuple[str, Stage], ...] = (("gather", gather_stage), ("fit", fit_stage))
