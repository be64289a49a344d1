"""A fit from beginning to end: gather, learn, write the weights, try them, tell of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

from tokenmill_infra.observe import Observer
from tokenmill_infra.storage import Storage, open_storage
from tokenmill_pipelines.fit.batches import Batches
from tokenmill_pipelines.fit.card import write_card
from tokenmill_pipelines.fit.config import FitJob
from tokenmill_pipelines.fit.gather import Gathered, check_use, gather
from tokenmill_pipelines.fit.lessons import Lesson, open_lesson, open_tokenizer, start_of
from tokenmill_pipelines.fit.loop import Learner, averaged, check_job
from tokenmill_pipelines.fit.origins import assets_of, origins
from tokenmill_pipelines.fit.page import write_page
from tokenmill_pipelines.fit.record import FitRecord, Network
from tokenmill_pipelines.fit.split import split
from tokenmill_pipelines.fit.trying import Trial, try_weights
from tokenmill_pipelines.fit.weights import SUFFIX, WeightsFile, sha256_of, weights_bytes
from tokenmill_pipelines.report.environment import environment
from tokenmill_pipelines.train import checkpoint
from tokenmill_pipelines.train.checkpoint import Checkpoint, Progress
from tokenmill_pipelines.train.outputs import address, put, report_path
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
    weights: WeightsFile | None = None
    trial: Trial | None = None
    record: FitRecord | None = None
    card: str = ""
    report: str = ""
    started_at: datetime = field(default_factory=lambda: datetime.now(UTC))


@dataclass(frozen=True, slots=True)
class FitResult:
    """What a fit came to; ``wall_s`` and ``cpu_s`` are those of all its legs.

    ``scores`` has, for each part of the data, the means over its held-out assets, and
    ``bits_per_unit``: bits a pixel or cell of ids that are packed.
    """

    output: str
    checkpoint: str
    weights: str
    sha256: str
    weights_bytes: int
    card: str
    report: str
    steps: int
    resumed_from: int
    samples: int
    parameters: int
    first_loss: float
    loss: float
    tried: int
    scores: dict[str, dict[str, float]]
    wall_s: float
    cpu_s: float
    legs: tuple[dict[str, Any], ...]


def open_fit_run(job: FitJob, observer: Observer, *, resume: bool) -> FitRun:
    """Return the run of a job that has done nothing yet."""
    return FitRun(job, observer, open_storage(job.output.uri), resume)


def gather_stage(run: FitRun) -> None:
    """Fetch and decode what is learned from, and hold some of the assets out.

    Raises:
        JobError: there is a fit already and it was not asked to go on, or it is another job's, or a
            corpus is for judging only.
    """
    check_use(run.job)
    found = checkpoint.newest(run.storage)
    if found is not None and not run.resume:
        raise JobError(
            f"{run.storage.uri} holds a fit of {found.progress.step} steps: --resume goes on with "
            "it, or take another folder",
            path="output.uri",
        )
    if found is not None:  # told before anything is fetched; the media are held against it later
        check_job(found.progress, run.job, uri=run.storage.uri)
    parts = gather(run.job, run.observer)
    start = start_of(run.job)
    media = [[part.name, part.digest] for part in parts]
    run.digest = digest([*media, start] if start else media)
    pairs = [split(part, run.job.held_out, run.job.seed) for part in parts]
    run.learned = tuple(learned for learned, _ in pairs)
    run.held_out = tuple(held_out for _, held_out in pairs)


def fit_stage(run: FitRun) -> None:
    """Learn for the steps that are left."""
    import torch

    torch.set_num_threads(run.job.machine.threads)
    run.lesson = open_lesson(run.job)
    batches = Batches(run.lesson.takes, run.learned, run.job.shares(), run.job.batch, run.job.seed)
    learner = Learner(run.job, run.lesson, batches, run.storage, run.digest)
    run.resumed_from = learner.restore()
    if run.resumed_from < run.job.optimiser.steps:
        learner.run(run.observer)
    run.progress = learner.progress


def weights_stage(run: FitRun) -> None:
    """Write the averaged weights of the newest checkpoint.

    Raises:
        JobError: there is no checkpoint.
    """
    lesson, found = _lesson(run), _newest(run)
    data = weights_bytes(averaged(lesson, found.part("ema")), run.job)
    path = f"{run.job.name}{SUFFIX}"
    put(run.storage, path, data)
    run.weights = WeightsFile(path, address(run.storage, path), sha256_of(data), len(data))
    run.observer.event("weights", path=path, bytes=len(data), sha256=run.weights.sha256)


def try_stage(run: FitRun) -> None:
    """Encode and decode held-out assets with the weights that were written, and measure them."""
    weights, lesson = _weights(run), _lesson(run)
    run.trial = try_weights(run.job, weights.address, run.held_out, lesson.takes)
    for name, values in scores_of(run.trial).items():
        rounded = {key: round(value, 4) for key, value in values.items()}
        run.observer.event("scores", part=name, **rounded)


def report_stage(run: FitRun) -> None:
    """Write the page and the model card.

    Raises:
        JobError: the fit has not got so far.
    """
    if run.trial is None or run.progress is None:
        raise JobError("the weights have not been tried")
    run.record = FitRecord(
        job=run.job,
        progress=run.progress,
        network=network_of(run),
        weights=_weights(run),
        origins=origins(run.job, run.learned, run.held_out),
        assets=(assets_of(run.learned), assets_of(run.held_out)),
        trial=run.trial,
        environment=environment(),
    )
    path = report_path(run.progress.step, run.started_at)
    run.storage.create(path, _page(run, run.record))
    run.report = address(run.storage, path)
    card = f"{run.job.name}.md"
    put(run.storage, card, write_card(run.record))
    run.card = address(run.storage, card)


def _page(run: FitRun, record: FitRecord) -> bytes:
    """Return the page, without pictures where what draws them is not installed."""
    try:
        return write_page(record)
    except ImportError as error:
        run.observer.warn("the report shows no pictures", error=str(error))
        return write_page(record, pictures=False)


def network_of(run: FitRun) -> Network:
    """Return what learned."""
    lesson = _lesson(run)
    architecture = asdict(open_tokenizer(run.job.tokenizer).architecture)
    whole = sum(parameter.numel() for parameter in lesson.network.parameters())
    learned = sum(parameter.numel() for parameter in lesson.parameters().values())
    return Network(architecture, whole, learned)


def scores_of(trial: Trial) -> dict[str, dict[str, float]]:
    """Return each part's mean figures and bits; those that it has not are left out."""
    found = {}
    for part in trial.parts:
        means = {one.key: part.scores.mean(one.key) for one in part.scores.measures}
        found[part.name] = means | {"bits_per_unit": part.scores.bits_per_unit["packed"]}
    return found


def _lesson(run: FitRun) -> Lesson:
    if run.lesson is None:
        raise JobError("nothing has been learned")
    return run.lesson


def _weights(run: FitRun) -> WeightsFile:
    if run.weights is None:
        raise JobError("the weights have not been written")
    return run.weights


def _newest(run: FitRun) -> Checkpoint:
    found = checkpoint.newest(run.storage)
    if found is None:
        raise JobError("the fit has left no checkpoint", path="output.uri")
    return found


Stage = Callable[[FitRun], None]
STAGES: tuple[tuple[str, Stage], ...] = (
    ("gather", gather_stage),
    ("fit", fit_stage),
    ("weights", weights_stage),
    ("try", try_stage),
    ("report", report_stage),
)


def run_fit_job(
    job: FitJob, *, observer: Observer, resume: bool = False, prefect: bool = False
) -> FitResult:
    """Learn the weights that a job is about; ``resume`` goes on from its newest checkpoint.

    ``prefect`` runs the stages as a Prefect flow run; they are the same stages.

    Raises:
        JobError: the job is wrong, or its output holds another fit.
        TokenmillError: the fit failed; its checkpoints are kept.
    """
    run = open_fit_run(job, observer, resume=resume)
    if prefect:
        from tokenmill_pipelines.flows import run_fit_flow

        run_fit_flow(run)
    else:
        for name, stage in STAGES:
            with run.observer.stage(name):
                stage(run)
    return result_of(run)


def result_of(run: FitRun) -> FitResult:
    """Return what a finished run came to.

    Raises:
        JobError: it has not finished.
    """
    record = run.record
    if record is None:
        raise JobError("the fit has not finished")
    progress, weights = record.progress, record.weights
    return FitResult(
        output=run.storage.uri,
        checkpoint=address(run.storage, checkpoint.path_of(progress.step)),
        weights=weights.address,
        sha256=weights.sha256,
        weights_bytes=weights.size_bytes,
        card=run.card,
        report=run.report,
        steps=progress.step,
        resumed_from=run.resumed_from,
        samples=record.samples,
        parameters=record.network.parameters,
        first_loss=record.first_loss,
        loss=record.loss,
        tried=record.trial.views,
        scores=scores_of(record.trial),
        wall_s=record.wall_s,
        cpu_s=record.cpu_s,
        legs=tuple(asdict(leg) for leg in progress.legs),
    )
