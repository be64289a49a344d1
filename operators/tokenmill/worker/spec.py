"""What a worker needs to know, and what it is asked to do; both cross processes."""

from __future__ import annotations

from dataclasses import dataclass

from tokenmill.decoders.base import Decoder
from tokenmill.sources.base import Source
from tokenmill.store import Store
from tokenmill.tokenizers.base import Tokenizer
from tokenmill.views.base import View
from tokenmill_schemas.arrow import ShardLayout
from tokenmill_schemas.job import ClusterConfig, LimitsConfig, ShardsConfig
from tokenmill_schemas.plan import Unit


@dataclass(frozen=True, slots=True)
class WorkerSpec:
    """Everything that turns units into shards. ``gpus`` above 0 puts the encoder on ``cuda``."""

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

    @property
    def batch_size(self) -> int:
        """Views of one batch, before the memory budget is applied."""
        return self.limits.batch_size or self.tokenizer.resources.batch_size


@dataclass(frozen=True, slots=True)
class Poison:
    """A row of a unit that kills its worker, and what is to be said of it."""

    row: int
    error: str


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

    def without(self, row: int, error: str) -> UnitTask:
        """Return this task with one more poison row."""
        return UnitTask(self.unit, (*self.poison, Poison(row, error)))
