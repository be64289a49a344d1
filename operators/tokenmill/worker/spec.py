"""What a worker needs to know, and what it is asked to do; both cross processes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tokenmill.decoders.base import Decoder
from tokenmill.sources.base import Source
from tokenmill.store import Store
from tokenmill.tokenizers.base import Tokenizer
from tokenmill.views.base import View
from tokenmill.worker.roundtrip import METRICS
from tokenmill_infra.cluster.tasks import Cause
from tokenmill_schemas.arrow import ShardLayout
from tokenmill_schemas.errors import AssetError, Reason
from tokenmill_schemas.job import ClusterConfig, LimitsConfig, ShardsConfig
from tokenmill_schemas.plan import Unit


@dataclass(frozen=True, slots=True)
class WorkerSpec:
    """Everything that turns units into shards. ``gpus`` above 0 puts the encoder on ``cuda``.

    ``storage`` are the job's options for remote storages, by their kind. ``fingerprint`` names the
    codebook that the store keeps; "" keeps none.
    """

    source: Source
    decoder: Decoder
    view: View
    tokenizer: Tokenizer
    store: Store
    layout: ShardLayout
    shards: ShardsConfig
    limits: LimitsConfig
    cluster: ClusterConfig
    gpus: float = 0.0
    storage: Mapping[str, Any] = field(default_factory=dict)
    fingerprint: str = ""

    @property
    def batch_size(self) -> int:
        """Views of one batch, before the memory budget is applied."""
        return self.limits.batch_size or self.tokenizer.resources.batch_size

    @property
    def metric(self) -> str:
        """What is measured of samples that are decoded again; "" where nothing can be."""
        return METRICS.get(self.view.gives, "") if self.tokenizer.can_decode else ""


_ENDS: dict[Cause, tuple[Reason, str]] = {
    "died": (Reason.KILLED_WORKER, "killed its worker process, alone and repeatedly"),
    "frozen": (
        Reason.DEADLINE,
        "stopped its worker process, alone and repeatedly, for longer than "
        "limits.asset_deadline_s = {limits.asset_deadline_s:g} s",
    ),
    "memory": (
        Reason.TOO_MUCH_MEMORY,
        "its worker process was ended for want of memory, alone and repeatedly",
    ),
}


@dataclass(frozen=True, slots=True)
class Poison:
    """A row of a unit that ends its worker, and by what."""

    row: int
    cause: Cause

    def error(self, limits: LimitsConfig) -> AssetError:
        """Return what is to be said of it; never what differs from one death to the next."""
        reason, text = _ENDS[self.cause]
        return AssetError(reason, text.format(limits=limits), stage="decode")


@dataclass(frozen=True, slots=True)
class UnitTask:
    """Make a unit's shard, leaving its ``poison`` rows out.

    ``window`` (start, stop) asks for a trial of some rows instead: everything is done but nothing
    is written, to find out which row kills its worker.
    """

    unit: Unit
    poison: tuple[Poison, ...] = ()
    window: tuple[int, int] | None = None

    @property
    def task_id(self) -> str:
        """Names the unit in the pool."""
        return self.unit.unit_id

    @property
    def items(self) -> int:
        """How many rows the unit has."""
        return self.unit.assets

    def trial(self, start: int, stop: int) -> UnitTask:
        """Return the trial of the rows ``start`` to ``stop``."""
        return UnitTask(self.unit, self.poison, (start, stop))

    def without(self, row: int, cause: Cause) -> UnitTask:
        """Return this task with one more poison row."""
        return UnitTask(self.unit, (*self.poison, Poison(row, cause)))
