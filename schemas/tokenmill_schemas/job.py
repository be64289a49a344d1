"""Jobs: one TOML file says what to tokenize, how, and where to.

The sections ``source``, ``view``, ``tokenizer`` (and ``decoder``, seldom needed) name an operator
by ``kind``; their other keys are that operator's own fields, checked when the operator is built.
The other sections are fixed here. Paths are read relative to the job file's folder. What is secret
(object-store keys, hub tokens) comes from the environment and never from a job.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from tokenmill_schemas.cron import check_cron, check_timezone
from tokenmill_schemas.errors import JobError
from tokenmill_schemas.limits import LimitsConfig as LimitsConfig
from tokenmill_schemas.secrets import check_options, check_storage, check_urls
from tokenmill_schemas.strict import build


@dataclass(frozen=True, slots=True)
class OperatorConfig:
    """An operator to build: its ``kind`` and the keys that its own dataclass checks."""

    kind: str
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ShardsConfig:
    """How samples become shard files.

    ``unit_assets`` assets make one unit, so one shard; choose it so that a unit is 30 to 120
    seconds of work. ``batch_rows`` is the rows of one Arrow record batch.
    """

    format: Literal["arrow", "webdataset"] = "arrow"
    packing: Literal["raw", "bits"] = "raw"
    unit_assets: int = 1024
    batch_rows: int = 256

    def __post_init__(self) -> None:
        if self.unit_assets < 1 or self.batch_rows < 1:
            raise ValueError("unit_assets and batch_rows must be positive")


@dataclass(frozen=True, slots=True)
class StoreConfig:
    """Where the tokens go; ``options`` are fsspec's (endpoint_url, ...), without secrets.

    ``branch`` gets the new versions; any but the main one must have been begun before.
    """

    uri: str
    options: dict[str, Any] = field(default_factory=dict)
    message: str = ""
    branch: str = "main"

    def __post_init__(self) -> None:
        if not self.uri:
            raise ValueError("uri is empty: it must name a folder or a URL")


@dataclass(frozen=True, slots=True)
class ClusterConfig:
    """Who does the work.

    ``actors`` 0 means one per GPU, or where there is none one per ``cpus_per_actor`` cores.
    ``torch_threads`` is per actor and part of nothing's identity: keep it equal between runs whose
    stores must agree to the byte, because some kernels sum in another order on more threads.
    ``fetch_threads`` 0 reads each asset in the thread that decodes it, which is best for disks;
    object stores want 8 or more. Assets that a lost actor had at hand are tried alone; a unit whose
    actor is lost ``max_attempts`` times is searched for the asset that kills it. The ``local``
    backend has one process, and cannot outlive an asset that ends it.
    """

    backend: Literal["ray", "local"] = "ray"
    address: str = "local"
    actors: int = 0
    gpus_per_actor: float = -1.0
    cpus_per_actor: float = 1.0
    torch_threads: int = 1
    decode_threads: int = 1
    fetch_threads: int = 0
    units_in_flight: int = 2
    allow_tf32: bool = False
    lease_s: float = 1800.0
    max_attempts: int = 2
    speculate: bool = True

    def __post_init__(self) -> None:
        if min(self.torch_threads, self.decode_threads, self.units_in_flight) < 1:
            raise ValueError("torch_threads, decode_threads and units_in_flight must be positive")
        if self.max_attempts < 1 or self.lease_s <= 0:
            raise ValueError("max_attempts and lease_s must be positive")


@dataclass(frozen=True, slots=True)
class IncrementConfig:
    """What a run does about assets that its store has already.

    ``identity`` says by what an asset is told to be the one that the store has: "version" is its
    uri and what the source lists (etag, or size and mtime), "content" a sha256 of the bytes, which
    costs reading those whose version is new; what was written again, or lies at another uri under
    the same key, is then no change. A changed asset is tokenized again and its old samples are
    hidden, unless ``on_changed`` is "keep". An asset that an earlier run of this job listed and
    this one does not is marked missing, and with ``on_missing`` "drop" its samples are hidden until
    it is back; more than ``max_missing_fraction`` of those that were there stop the run instead,
    for a source that is out of reach looks the same. A job is known by its name: under another
    name, or with a renamed file that gives it its name, it misses nothing of what it listed before.
    """

    identity: Literal["version", "content"] = "version"
    on_changed: Literal["replace", "keep"] = "replace"
    on_missing: Literal["keep", "drop"] = "keep"
    max_missing_fraction: float = 0.5

    def __post_init__(self) -> None:
        if not 0 <= self.max_missing_fraction <= 1:
            raise ValueError("max_missing_fraction must be from 0 to 1")


@dataclass(frozen=True, slots=True)
class ScheduleConfig:
    """When ``tokenmill serve`` runs a job: five-field ``cron`` in ``timezone``; "" never."""

    cron: str = ""
    timezone: str = "UTC"

    def __post_init__(self) -> None:
        if self.cron:
            check_cron(self.cron)
        if self.timezone != "UTC":  # which needs no database of zones
            check_timezone(self.timezone)


@dataclass(frozen=True, slots=True)
class Job:
    """One job file, read and checked.

    ``storage`` has a table of fsspec options for each kind of remote storage (``[storage.s3]``
    endpoint_url, ...), for everything that the job reads and writes there; without secrets.
    """

    name: str
    source: OperatorConfig
    tokenizer: OperatorConfig
    store: StoreConfig
    view: OperatorConfig | None = None
    decoder: OperatorConfig | None = None
    shards: ShardsConfig = field(default_factory=ShardsConfig)
    cluster: ClusterConfig = field(default_factory=ClusterConfig)
    limits: LimitsConfig = field(default_factory=LimitsConfig)
    increment: IncrementConfig = field(default_factory=IncrementConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    storage: dict[str, Any] = field(default_factory=dict)
    base: str = ""

    def __post_init__(self) -> None:
        for name in (*OPERATORS, "store"):
            section = getattr(self, name)
            options = section.options if section is not None else {}
            check_urls(options, path=name)
            # Of the operators only sources take options of a storage, in a table of this name.
            table = options if name == "store" else options.get("options")
            if isinstance(table, Mapping):
                check_options(table, path=f"{name}.options")
        check_urls(self.store.uri, path="store.uri")
        check_storage(self.storage)


OPERATORS = ("source", "view", "tokenizer", "decoder")
#: Keys that hold local paths or URLs; relative ones are taken from the job file's folder.
PATH_KEYS = ("source.urls", "source.base", "view.weights", "tokenizer.checkpoint", "store.uri")


def parse_job(values: Mapping[str, Any], *, base: str = "") -> Job:
    """Return the job that ``values`` (a TOML table) says; ``base`` is the folder of its paths.

    Raises:
        JobError: a key is unknown, missing or of the wrong type; names its dotted path.
    """
    table: dict[str, Any] = dict(values)
    for name in OPERATORS:
        if name in table:
            table[name] = _operator(table[name], name)
    return build(Job, {**table, "base": base}, path="")


def _operator(section: Any, name: str) -> dict[str, Any]:
    if not isinstance(section, Mapping) or not isinstance(section.get("kind"), str):
        raise JobError("must be a table with a 'kind'", path=name)
    return {"kind": section["kind"], "options": {k: v for k, v in section.items() if k != "kind"}}


def read_job(path: str | Path, *, overrides: tuple[str, ...] = ()) -> Job:
    """Read a job file and apply ``overrides`` of the form ``a.b=value`` (TOML values).

    Raises:
        JobError: the file cannot be read, is not TOML, or is not a valid job.
    """
    values = read_table(path, overrides=overrides, paths=PATH_KEYS)
    return parse_job(values, base=str(Path(path).resolve().parent))


def read_table(
    path: str | Path, *, overrides: tuple[str, ...], paths: tuple[str, ...]
) -> dict[str, Any]:
    """Return the table of a job file of any form, changed by ``overrides`` and with a name.

    ``paths`` are the dotted keys that hold paths.

    Raises:
        JobError: the file cannot be read or is not TOML, or an override is none.
    """
    file = Path(path)
    try:
        values = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise JobError(f"cannot read the job file {file}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise JobError(f"{file} is not valid TOML: {error}") from error
    override(values, overrides, paths)
    values.setdefault("name", file.stem)
    return values


def override(values: dict[str, Any], overrides: tuple[str, ...], paths: tuple[str, ...]) -> None:
    """Change a table by ``overrides`` of the form ``a.b=value``; see `read_table`.

    Raises:
        JobError: an override is none, or goes through what is no table.
    """
    for one in overrides:
        _override(values, one, paths)


def _override(values: dict[str, Any], given: str, paths: tuple[str, ...]) -> None:
    dotted, equals, text = given.partition("=")
    if not equals:
        raise JobError(f"--set wants a.b=value, got {given!r}")
    dotted = dotted.strip()
    *parents, last = dotted.split(".")
    table = values
    for parent in parents:
        table = table.setdefault(parent, {})
        if not isinstance(table, dict):
            raise JobError(f"{parent!r} in {dotted!r} is not a table", path=dotted)
    value = _toml_value(text)
    # Who types a path means it from where they stand, not from where the job file lies.
    table[last] = resolve(value, str(Path.cwd())) if dotted in paths else value


def _toml_value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def resolve(value: Any, base: str) -> Any:
    """Return a path, or a list of paths, with relative local ones taken from ``base``.

    An empty text is no path and stays one: it means the default, or is an error of its own.
    """
    if isinstance(value, list | tuple):
        return [resolve(entry, base) for entry in value]
    if not isinstance(value, str) or not value or not base or _is_absolute(value):
        return value
    return os.path.normpath(os.path.join(base, value))  # noqa: PTH118  (keeps glob characters)


def _is_absolute(text: str) -> bool:
    return text.startswith(("/", "random:")) or "://" in text


def resolve_paths(job: Job) -> Job:
    """Return ``job`` with every path of `PATH_KEYS` absolute."""

    def operator(config: OperatorConfig, section: str) -> OperatorConfig:
        options = {
            key: resolve(value, job.base) if f"{section}.{key}" in PATH_KEYS else value
            for key, value in config.options.items()
        }
        return replace(config, options=options)

    return replace(
        job,
        source=operator(job.source, "source"),
        view=operator(job.view, "view") if job.view is not None else None,
        tokenizer=operator(job.tokenizer, "tokenizer"),
        store=replace(job.store, uri=resolve(job.store.uri, job.base)),
    )


def job_table(job: Job) -> dict[str, Any]:
    """Return the table from which `parse_job` makes an equal job."""
    table = asdict(job)
    del table["base"]
    for name in OPERATORS:
        config = table.pop(name)
        if config is not None:
            table[name] = {"kind": config["kind"], **config["options"]}
    return table
