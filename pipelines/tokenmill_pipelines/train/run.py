"""A training from beginning to end: look at the store, train, draw samples, write the report."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

from tokenmill_infra.cluster.training import WorkerGroup, run_workers
from tokenmill_infra.observe import Observer
from tokenmill_infra.storage import Storage, open_storage, storage_options
from tokenmill_pipelines.train import checkpoint
from tokenmill_pipelines.train.config import TrainJob
from tokenmill_pipelines.train.generators import parameters
from tokenmill_pipelines.train.loop import Training, train
from tokenmill_pipelines.train.losses import held_out_feed, held_out_loss
from tokenmill_pipelines.train.outputs import address, report_path
from tokenmill_pipelines.train.page import TrainRecord, write_page
from tokenmill_pipelines.train.pictures import Row, average_network, rows
from tokenmill_pipelines.train.tokens import Shown, look, open_feed
from tokenmill_schemas.errors import JobError, TokenmillError

#: Seconds between two lines about the loss.
EVERY_S = 10.0


@dataclass(slots=True)
class TrainRun:
    """One training under way: what its stages hand to each other."""

    job: TrainJob
    observer: Observer
    storage: Storage
    resume: bool = False
    resumed_from: int = 0
    shown: Shown | None = None
    record: TrainRecord | None = None
    report: str = ""
    started_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    said_at: float = float("-inf")

    def hear(self, facts: Mapping[str, Any]) -> None:
        """Pass on what a worker says: progress always, the loss now and then."""
        if "checkpoint" in facts:
            self.observer.event("checkpoint", step=facts["step"], path=facts["checkpoint"])
            return
        step, steps = facts["step"], facts["steps"]
        self.observer.progress(step, steps, samples=step * self.job.source.batch_size)
        now = time.monotonic()
        if now - self.said_at >= EVERY_S or step == steps:
            self.said_at = now
            self.observer.event(
                "loss", step=step, loss=facts["loss"], steps_per_s=facts["steps_per_s"]
            )

    def seen(self) -> Shown:
        """Return what the first stage found.

        Raises:
            JobError: it has not run.
        """
        if self.shown is None:
            raise JobError("the store has not been looked at")
        return self.shown


@dataclass(frozen=True, slots=True)
class TrainResult:
    """What a training came to; ``wall_s`` and ``cpu_s`` are those of all its legs."""

    output: str
    checkpoint: str
    report: str
    snapshot: str
    steps: int
    resumed_from: int
    samples: int
    epochs: float
    tokens: int
    parameters: int
    first_loss: float
    loss: float
    held_out_loss: float | None
    wall_s: float
    cpu_s: float
    legs: tuple[dict[str, Any], ...]


@contextmanager
def open_train_run(job: TrainJob, observer: Observer, *, resume: bool) -> Iterator[TrainRun]:
    """Give a run of a job, inside the context of its storage options."""
    with storage_options(job.storage):
        yield TrainRun(job, observer, open_storage(job.output.uri), resume)


def look_stage(run: TrainRun) -> None:
    """Find out what is learned, and whether from the beginning.

    Raises:
        JobError: there is a training already and it was not asked to go on, or it is another one.
    """
    found = checkpoint.newest(run.storage)
    if found is None:
        run.shown = look(run.job)
    elif not run.resume:
        raise JobError(
            f"{run.storage.uri} holds a training of {found.progress.step} steps: --resume goes on "
            "with it, or take another folder",
            path="output.uri",
        )
    else:
        checkpoint.check_same(found.progress, run.job.identity, uri=run.storage.uri)
        run.resumed_from = found.progress.step
        run.shown = look(run.job, ref=found.progress.snapshot, classes=found.progress.classes)
    shown = run.seen()
    # Opened now, so that what is wrong with either is told before the work and not after it.
    shown_rows = open_feed(run.job, shown).rows
    held_out = held_out_feed(run.job, shown)
    run.observer.event(
        "look",
        rows=shown_rows,
        held_out=held_out.rows if held_out is not None else 0,
        snapshot=shown.snapshot,
        stream=shown.stream,
        ids=shown.layout.ids,
        positions=shown.layout.positions,
        classes=shown.layout.classes,
        resumed_from=run.resumed_from,
    )


def train_stage(run: TrainRun) -> None:
    """Do the steps that are left."""
    if run.resumed_from >= run.job.optimiser.steps:
        return
    cluster = run.job.cluster
    group = WorkerGroup(
        workers=cluster.workers,
        backend=cluster.backend,
        address=cluster.address,
        torch_threads=cluster.torch_threads,
        cpus=cluster.cpus_per_worker,
        gpus=cluster.gpus_per_worker,
        max_failures=cluster.max_failures,
    )
    run_workers(train, Training(run.job, run.seen()), group, run.hear)


def report_stage(run: TrainRun) -> None:
    """Draw samples from the newest checkpoint and write the page.

    Raises:
        JobError: there is no checkpoint.
    """
    found = checkpoint.newest(run.storage)
    if found is None:
        raise JobError("the training has left no checkpoint", path="output.uri")
    shown = run.seen()
    network = average_network(run.job, shown, found)
    held_out = held_out_loss(network, run.job, shown)
    drawn, why = _rows(run, found)
    run.record = TrainRecord(
        job=run.job,
        shown=shown,
        progress=found.progress,
        parameters=parameters(network),
        epoch_rows=open_feed(run.job, shown).rows,
        held_out_loss=held_out,
        rows=drawn,
        why_no_pictures=why,
    )
    path = report_path(found.progress.step, run.started_at)
    run.storage.create(path, write_page(run.record))
    run.report = address(run.storage, path)


def _rows(run: TrainRun, found: checkpoint.Checkpoint) -> tuple[tuple[Row, ...], str]:
    """Return the pictures of the report, or why there are none: a trained network stays one."""
    if not run.job.sampling.count:
        return (), ""
    try:
        return tuple(rows(run.job, run.seen(), found)), ""
    except (TokenmillError, RuntimeError, ValueError, OSError) as error:
        run.observer.warn("the report shows no pictures", error=str(error))
        return (), f"No pictures: {error}"


Stage = Callable[[TrainRun], None]
STAGES: tuple[tuple[str, Stage], ...] = (
    ("look", look_stage),
    ("train", train_stage),
    ("report", report_stage),
)


def run_train_job(
    job: TrainJob, *, observer: Observer, resume: bool = False, prefect: bool = False
) -> TrainResult:
    """Train as a job says; ``resume`` goes on from its newest checkpoint, if there is one.

    ``prefect`` runs the stages as a Prefect flow run; they are the same stages.

    Raises:
        JobError: the job is wrong, or its output holds another training.
        TokenmillError: the training failed; its checkpoints are kept.
    """
    with open_train_run(job, observer, resume=resume) as run:
        if prefect:
            from tokenmill_pipelines.flows import run_train_flow

            run_train_flow(run)
        else:
            for name, stage in STAGES:
                with run.observer.stage(name):
                    stage(run)
        return result_of(run)


def result_of(run: TrainRun) -> TrainResult:
    """Return what a finished run came to.

    Raises:
        JobError: it has not finished.
    """
    record = run.record
    if record is None:
        raise JobError("the training has not finished")
    progress = record.progress
    return TrainResult(
        output=run.storage.uri,
        checkpoint=address(run.storage, checkpoint.path_of(progress.step)),
        report=run.report,
        snapshot=progress.snapshot,
        steps=progress.step,
        resumed_from=run.resumed_from,
        samples=record.samples,
        epochs=record.samples / record.epoch_rows,
        tokens=record.samples * record.shown.layout.positions,
        parameters=record.parameters,
        first_loss=progress.curve[0][1],
        loss=record.loss,
        held_out_loss=record.held_out_loss,
        wall_s=record.wall_s,
        cpu_s=record.cpu_s,
        legs=tuple(asdict(leg) for leg in progress.legs),
    )
