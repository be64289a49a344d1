"""Training jobs: one TOML file says which tokens to learn from, with what network, and where to.

A form of its own beside that of tokenizing jobs (`tokenmill_schemas.job`), read as strictly. What
shapes the training (`identity`) is held against a checkpoint's before it is resumed; how many
workers there are, how samples are drawn and how often is saved may change on the way.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from tokenmill_schemas.job import read_table, resolve
from tokenmill_schemas.secrets import check_storage, check_urls
from tokenmill_schemas.strict import build


@dataclass(frozen=True, slots=True)
class TokensConfig:
    """Which samples are shown, in which order.

    ``stream`` "" is the store's first one of ids. ``batch_size`` is over all workers together, and
    so is what a step sees: the same samples for any number of workers. ``ref`` "" is the newest
    version when a training starts; a resumed one stays at its version. ``where`` says which samples
    are learned, ``held_out`` which others the network is tried on at the end.
    """

    store: str
    ref: str = ""
    stream: str = ""
    where: str = ""
    held_out: str = ""
    batch_size: int = 64
    seed: int = 0
    shuffle: Literal["block", "full", "none"] = "block"

    def __post_init__(self) -> None:
        if not self.store:
            raise ValueError("store is empty: it must name a folder or a URL")
        _positive(self, "batch_size")


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """The network: ``depth`` blocks of ``width`` channels with ``heads`` heads of attention.

    ``condition`` names a column of the store (numbers or text) whose values are the classes to draw
    by; "" learns without. ``condition_dropout`` of the samples are shown without their class, which
    is what classifier-free guidance needs (Ho and Salimans, arXiv:2207.12598).
    """

    kind: Literal["causal", "masked"] = "causal"
    width: int = 256
    depth: int = 6
    heads: int = 4
    condition: str = ""
    condition_dropout: float = 0.1

    def __post_init__(self) -> None:
        _positive(self, "width", "depth", "heads")
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not a multiple of heads {self.heads}")
        if not 0 <= self.condition_dropout < 1:
            raise ValueError("condition_dropout must be in [0, 1)")


@dataclass(frozen=True, slots=True)
class OptimiserConfig:
    """AdamW for ``steps`` steps: the rate rises for ``warmup`` steps, then falls as a cosine.

    It ends at ``final_lr`` times ``lr``. ``clip`` bounds the norm of a step's gradient, 0 does not.
    ``ema`` is how much of the averaged weights, which samples are drawn with, a step keeps; early
    on it is less, so that the first weights are forgotten.
    """

    steps: int = 1000
    lr: float = 1e-3
    warmup: int = 50
    final_lr: float = 0.05
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = 0.05
    label_smoothing: float = 0.0
    clip: float = 1.0
    ema: float = 0.999

    def __post_init__(self) -> None:
        _positive(self, "steps", "lr")
        if self.warmup < 0 or self.weight_decay < 0 or self.clip < 0:
            raise ValueError("warmup, weight_decay and clip must not be negative")
        for name in ("ema", "label_smoothing"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must be in [0, 1)")
        if not 0 <= self.final_lr <= 1 or not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError("final_lr must be in [0, 1], betas in [0, 1)")


@dataclass(frozen=True, slots=True)
class WorkersConfig:
    """Who trains: ``workers`` processes, which divide the batch.

    The ``local`` backend trains one worker in this process and several in processes of their own.
    ``ray`` is Ray Train; a worker that dies starts all of them anew from the newest checkpoint, up
    to ``max_failures`` times. ``gpus_per_worker`` below 0 takes one where there are any.
    """

    backend: Literal["local", "ray"] = "local"
    address: str = "local"
    workers: int = 1
    torch_threads: int = 1
    cpus_per_worker: float = 1.0
    gpus_per_worker: float = -1.0
    max_failures: int = 2

    def __post_init__(self) -> None:
        _positive(self, "workers", "torch_threads", "cpus_per_worker")
        if self.max_failures < 0:
            raise ValueError("max_failures must not be negative")


@dataclass(frozen=True, slots=True)
class SamplingConfig:
    """The pictures of the report: ``count`` of each class (of none where there are no classes).

    ``guidance`` 1 is none; 1.5 to 4 is usual. ``top_k`` 0 keeps all ids. ``steps`` and
    ``choice_temperature`` are of masked generators: passes over the network, and how much chance
    there is in which ids of a pass are kept.
    """

    count: int = 8
    temperature: float = 1.0
    top_k: int = 0
    guidance: float = 1.0
    steps: int = 12
    choice_temperature: float = 4.5
    seed: int = 0

    def __post_init__(self) -> None:
        _positive(self, "steps", "temperature")
        if min(self.count, self.top_k, self.choice_temperature, self.guidance) < 0:
            raise ValueError("count, top_k, guidance, choice_temperature must not be negative")


@dataclass(frozen=True, slots=True)
class OutputConfig:
    """Where checkpoints and the report go: a folder or URL, the same for all workers.

    A checkpoint is written every ``checkpoint_every`` steps and at the end; the newest ``keep``
    stay. A point of the loss curve is the mean of ``log_every`` steps.
    """

    uri: str
    checkpoint_every: int = 500
    keep: int = 2
    log_every: int = 10

    def __post_init__(self) -> None:
        if not self.uri:
            raise ValueError("uri is empty: it must name a folder or a URL")
        _positive(self, "checkpoint_every", "keep", "log_every")


@dataclass(frozen=True, slots=True)
class TrainJob:
    """One training job, read and checked; ``storage`` as in tokenizing jobs."""

    name: str
    source: TokensConfig
    output: OutputConfig
    model: ModelConfig = field(default_factory=ModelConfig)
    optimiser: OptimiserConfig = field(default_factory=OptimiserConfig)
    cluster: WorkersConfig = field(default_factory=WorkersConfig)
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    storage: dict[str, Any] = field(default_factory=dict)
    base: str = ""

    def __post_init__(self) -> None:
        check_urls(self.source.store, path="source.store")
        check_urls(self.output.uri, path="output.uri")
        check_storage(self.storage)
        if self.source.batch_size % self.cluster.workers:
            raise ValueError(
                f"source.batch_size {self.source.batch_size} is not a multiple of "
                f"cluster.workers {self.cluster.workers}"
            )

    @property
    def identity(self) -> dict[str, Any]:
        """What shapes the training: with another value it would be another one."""
        source = asdict(self.source)
        for name in ("store", "ref", "held_out"):  # the feed's state names the version itself
            del source[name]
        return {
            "source": source,
            "model": asdict(self.model),
            "optimiser": asdict(self.optimiser) | {"betas": list(self.optimiser.betas)},
        }


#: Keys that hold local paths or URLs; relative ones are taken from the job file's folder.
PATH_KEYS = ("source.store", "output.uri")


def parse_train_job(values: Mapping[str, Any], *, base: str = "") -> TrainJob:
    """Return the job that ``values`` (a TOML table) says, with absolute paths.

    Raises:
        JobError: a key is unknown, missing or of the wrong type; names its dotted path.
    """
    job = build(TrainJob, {**values, "base": base}, path="")
    return replace(
        job,
        source=replace(job.source, store=resolve(job.source.store, base)),
        output=replace(job.output, uri=resolve(job.output.uri, base)),
    )


def read_train_job(path: str | Path, *, overrides: tuple[str, ...] = ()) -> TrainJob:
    """Read a job file and apply ``overrides`` of the form ``a.b=value`` (TOML values).

    Raises:
        JobError: the file cannot be read, is not TOML, or is not a valid job.
    """
    values = read_table(path, overrides=overrides, paths=PATH_KEYS)
    return parse_train_job(values, base=str(Path(path).resolve().parent))


def train_job_table(job: TrainJob) -> dict[str, Any]:
    """Return the table from which `parse_train_job` makes an equal job."""
    table = asdict(job)
    del table["base"]
    return table


def _positive(config: Any, *names: str) -> None:
    for name in names:
        if getattr(config, name) <= 0:
            raise ValueError(f"{name} must be positive")
