"""Fitting jobs: one TOML file says whose weights to learn, from which media, and how.

A form of its own beside tokenizing and training jobs, read as strictly. Sources, decoders and views
are those of tokenizing jobs. What shapes the weights (`FitJob.identity`) is held against a
checkpoint's before it is resumed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from tokenmill_pipelines.train.config import OptimiserConfig, OutputConfig
from tokenmill_schemas.errors import JobError
from tokenmill_schemas.job import OperatorConfig, read_table, resolve
from tokenmill_schemas.strict import build


@dataclass(frozen=True, slots=True)
class DataConfig:
    """Media to learn from, of one kind; several such tables are mixed by ``share``.

    Attributes:
        name: of this part, in the report.
        corpora: names of ``tokenmill samples``, fetched into the job's ``corpora`` folder.
        source: a section as of a tokenizing job, instead of ``corpora``.
        where: values that columns of the listing must have, such as ``content = ["photo"]``.
        only: parts of keys, one of which a key must have; none takes all.
        exclude: parts of keys that are left out.
        view: a section as of a tokenizing job: what is read of each asset and kept in memory.
        decoder: the same; the view's own if there is none.
        share: of every batch; shares of all parts are scaled to add up to one.
        limit: of assets, evenly over the listing; 0 takes all.
    """

    name: str
    view: OperatorConfig
    corpora: tuple[str, ...] = ()
    source: OperatorConfig | None = None
    decoder: OperatorConfig | None = None
    where: dict[str, tuple[str, ...]] = field(default_factory=dict)
    exclude: tuple[str, ...] = ()
    only: tuple[str, ...] = ()
    share: float = 1.0
    limit: int = 0

    def __post_init__(self) -> None:
        if bool(self.corpora) == (self.source is not None):
            raise ValueError("give either corpora or a source")
        if self.share <= 0 or self.limit < 0:
            raise ValueError("share must be positive and limit not negative")


@dataclass(frozen=True, slots=True)
class BatchConfig:
    """What is cut out of the media for one step.

    Attributes:
        size: samples of a step.
        side: pixels down and across of pictures and frames; cells along each side of volumes,
            which stay whole if they have no more.
        frames: of a clip.
        paces: frames of the film from one frame of a clip to the next, drawn evenly.
        short_side: a cut shows as much as if the picture's shorter side had between so many and so
            many pixels, drawn evenly on a logarithmic scale; nothing is enlarged.
        recoloured: share whose channels are exchanged and whose contrast and balance are changed.
    """

    size: int = 16
    side: int = 128
    frames: int = 9
    paces: tuple[int, ...] = (1, 2)
    short_side: tuple[int, int] = (256, 1024)
    recoloured: float = 0.1

    def __post_init__(self) -> None:
        if min(self.size, self.side, self.frames, *self.paces, *self.short_side) < 1:
            raise ValueError("size, side, frames, paces and short_side must be positive")
        if not 0 <= self.recoloured <= 1:
            raise ValueError("recoloured must be in [0, 1]")


@dataclass(frozen=True, slots=True)
class LossConfig:
    """What reconstructions are measured by; the loss is the sum, weighted.

    Attributes:
        psnr: decibels lost, a tenth of them per unit: the logarithm of each picture's error.
        l1: mean absolute difference, of values in [-1, 1].
        ssim: one less the structural similarity, on three scales.
        bce: binary cross-entropy of cells.
        overlap: one less the soft intersection over union of cells.
    """

    psnr: float = 0.0
    l1: float = 0.0
    ssim: float = 0.0
    bce: float = 0.0
    overlap: float = 0.0

    def __post_init__(self) -> None:
        weights = asdict(self).values()
        if min(weights) < 0 or not any(weights):
            raise ValueError("weights must not be negative, and one of them must be positive")


@dataclass(frozen=True, slots=True)
class MachineConfig:
    """Where it runs: weights are the same for the same seed, threads and kind of processor.

    ``autocast`` is the type that convolutions run in while learning; weights stay float32.
    """

    device: str = "cpu"
    threads: int = 1
    autocast: Literal["float32", "bfloat16"] = "bfloat16"

    def __post_init__(self) -> None:
        if self.threads < 1:
            raise ValueError("threads must be positive")


@dataclass(frozen=True, slots=True)
class FitJob:
    """One fitting job, read and checked.

    Attributes:
        name: of the weights.
        tokenizer: whose network learns; its ``checkpoint`` is where it starts, if any is given.
        data: what it learns from.
        loss: see `LossConfig`.
        output: checkpoints, the weights, their card and the report.
        corpora: the folder that corpora are fetched into.
        held_out: share of the assets, drawn by their keys, that nothing is learned from.
        tried: held-out assets that scores are taken of, evenly over them.
        seed: of the weights, the cuts and their order.
        licence: of the weights, for their card.
    """

    name: str
    tokenizer: OperatorConfig
    data: tuple[DataConfig, ...]
    loss: LossConfig
    output: OutputConfig
    corpora: str = "corpora"
    batch: BatchConfig = field(default_factory=BatchConfig)
    optimiser: OptimiserConfig = field(default_factory=OptimiserConfig)
    machine: MachineConfig = field(default_factory=MachineConfig)
    held_out: float = 0.05
    tried: int = 24
    seed: int = 0
    licence: str = ""
    base: str = ""

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[\w-][\w.-]*", self.name):
            raise ValueError(f"name is a file's name, of letters, digits, _ and -: {self.name!r}")
        if not self.data:
            raise ValueError("data is empty: name something to learn from")
        names = [part.name for part in self.data]
        if len(set(names)) != len(names):
            raise ValueError(f"names of data must be distinct, got {names}")
        if not 0 < self.held_out < 1 or self.tried < 1:
            raise ValueError("held_out must be in (0, 1), tried positive")

    @property
    def identity(self) -> dict[str, Any]:
        """What shapes the weights: with another value they would be others."""
        table = asdict(self)
        for name in ("name", "output", "corpora", "tried", "licence", "base"):
            del table[name]
        del table["machine"]["device"]
        for part in table["data"]:  # which fits of before it was there do not have
            if not part["only"]:
                del part["only"]
        return _plain(table)  # type: ignore[no-any-return]  # a table stays one

    def shares(self) -> tuple[float, ...]:
        """Return each part's share of a batch; they add up to one."""
        total = sum(part.share for part in self.data)
        return tuple(part.share / total for part in self.data)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    return [_plain(entry) for entry in value] if isinstance(value, tuple | list) else value


#: Keys that hold local paths or URLs; relative ones are taken from the job file's folder.
PATH_KEYS = ("corpora", "output.uri", "tokenizer.checkpoint")
#: Options of operators that do.
OPERATOR_PATHS = ("urls", "base", "weights", "checkpoint")


def parse_fit_job(values: Mapping[str, Any], *, base: str = "") -> FitJob:
    """Return the job that ``values`` (a TOML table) says, with absolute paths.

    Raises:
        JobError: a key is unknown, missing or of the wrong type; names its dotted path.
    """
    table = dict(values)
    table["tokenizer"] = _operator(table.get("tokenizer"), "tokenizer")
    parts = table.get("data")
    if not isinstance(parts, list | tuple):
        raise JobError("must be one or more tables [[data]]", path="data")
    table["data"] = [_part(part, f"data[{number}]") for number, part in enumerate(parts)]
    job = build(FitJob, {**table, "base": base}, path="")
    return replace(
        job,
        corpora=resolve(job.corpora, base),
        output=replace(job.output, uri=resolve(job.output.uri, base)),
    )


def located(section: OperatorConfig, base: str) -> OperatorConfig:
    """Return an operator's section with absolute paths; relative ones start at the job's folder.

    They stay relative in the job itself, whose identity does not change when it is moved.
    """
    options = {
        name: resolve(value, base) if name in OPERATOR_PATHS else value
        for name, value in section.options.items()
    }
    return replace(section, options=options)


def _part(values: Any, path: str) -> dict[str, Any]:
    if not isinstance(values, Mapping):
        raise JobError("must be a table", path=path)
    table = dict(values)
    for name in ("view", "source", "decoder"):
        if table.get(name) is not None:
            table[name] = _operator(table[name], f"{path}.{name}")
    return table


def _operator(section: Any, path: str) -> dict[str, Any]:
    if isinstance(section, Mapping) and set(section) == {"kind", "options"}:
        return dict(section)
    if not isinstance(section, Mapping) or not isinstance(section.get("kind"), str):
        raise JobError("must be a table with a 'kind'", path=path)
    return {"kind": section["kind"], "options": {k: v for k, v in section.items() if k != "kind"}}


def read_fit_job(path: str | Path, *, overrides: tuple[str, ...] = ()) -> FitJob:
    """Read a job file and apply ``overrides`` of the form ``a.b=value`` (TOML values).

    Raises:
        JobError: the file cannot be read, is not TOML, or is not a valid job.
    """
    values = read_table(path, overrides=overrides, paths=PATH_KEYS)
    return parse_fit_job(values, base=str(Path(path).resolve().parent))


def fit_job_table(job: FitJob) -> dict[str, Any]:
    """Return the table from which `parse_fit_job` makes an equal job."""
    table: dict[str, Any] = _plain(asdict(job))
    del table["base"]
    return table
