"""What one fit came to: the record that its page and its model card are written from."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from tokenmill_pipelines.fit.config import FitJob
from tokenmill_pipelines.fit.origins import Origin
from tokenmill_pipelines.fit.trying import Trial
from tokenmill_pipelines.fit.weights import WeightsFile
from tokenmill_pipelines.train.checkpoint import Progress


@dataclass(frozen=True, slots=True)
class Network:
    """What learned: its architecture's settings, and how many numbers it has and learned."""

    architecture: dict[str, Any]
    parameters: int
    learned: int


@dataclass(frozen=True, slots=True)
class FitRecord:
    """Everything that a fit's page and card say.

    ``assets`` are those that were learned from and those that were held out, an asset of several
    parts once. ``environment`` is of the process that wrote it.
    """

    job: FitJob
    progress: Progress
    network: Network
    weights: WeightsFile
    origins: tuple[Origin, ...]
    assets: tuple[int, int]
    trial: Trial
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def samples(self) -> int:
        """Samples that were shown."""
        return self.progress.step * self.job.batch.size

    @property
    def wall_s(self) -> float:
        """Seconds of all legs."""
        return sum(leg.wall_s for leg in self.progress.legs)

    @property
    def cpu_s(self) -> float:
        """Processor seconds of all legs."""
        return sum(leg.cpu_s for leg in self.progress.legs)

    @property
    def first_loss(self) -> float:
        """The first point of the curve; NaN before there is one."""
        return self.progress.curve[0][1] if self.progress.curve else math.nan

    @property
    def loss(self) -> float:
        """The newest point of the curve; NaN before there is one."""
        return self.progress.curve[-1][1] if self.progress.curve else math.nan
