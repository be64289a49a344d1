"""What a report is made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from tokenmill.measures import psnr_db
from tokenmill.views.base import Array, ViewKind
from tokenmill_infra.observe import bottleneck
from tokenmill_pipelines.checks import Checks
from tokenmill_schemas.arrow import Packing
from tokenmill_schemas.limits import LimitsConfig
from tokenmill_schemas.tokens import TokenSpec

Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Reconstruction:
    """A view as the tokenizer saw it and as its decoder gives it back, both data of ``kind``.

    ``view`` says which view of the asset it is (``1.1/tl``), "" where nobody says; ``up`` which
    axis of a 3D view points up.
    """

    key: str
    original: Array
    decoded: Array
    view: str = ""
    kind: ViewKind = "image"
    up: Literal["y", "z"] = "z"

    @property
    def psnr_db(self) -> float:
        """Peak signal-to-noise ratio of pixels, over all frames and channels; infinite if equal."""
        return psnr_db(self.original, self.decoded)


@dataclass(frozen=True, slots=True)
class Quarantined:
    """An asset without samples; ``data`` are its (first) bytes for a thumbnail, if at hand."""

    key: str
    uri: str
    reason: str
    stage: str
    error: str
    data: bytes = b""


@dataclass(frozen=True, slots=True)
class RunRecord:
    """Everything that one run's report says.

    ``totals`` is what the snapshot holds (assets, samples, tokens, bytes, shards, and the assets
    ``rejected``), ``done`` the part of it that this run did (assets, samples, tokens, and
    ``reused_units``): a resumed or incremental run did less. ``hop_seconds`` are
    thread-seconds, ``wall_s`` the wall time of each stage; ``threads`` the threads of each hop in
    the whole run. ``statistics`` is what `TokenStatistics.to_json` gives. ``facts`` are counts of
    what happened beside the work (attempts, dead actors, lowered batches). ``reasons`` counts all
    assets in quarantine, of which ``quarantine`` lists the first. ``checks`` are what was measured
    before the commit, and held against ``limits``.
    """

    job_name: str
    store_uri: str
    started_at: datetime
    ended_at: datetime
    job: Mapping[str, Any] = field(default_factory=dict)
    snapshot_number: int | None = None
    content_id: str = ""
    fingerprint: str = ""
    committed: bool = False
    totals: Mapping[str, int] = field(default_factory=dict)
    done: Mapping[str, int] = field(default_factory=dict)
    hop_seconds: Mapping[str, float] = field(default_factory=dict)
    wall_s: Mapping[str, float] = field(default_factory=dict)
    threads: Mapping[str, int] = field(default_factory=dict)
    actors: int = 0
    spec: TokenSpec | None = None
    packing: Packing = "raw"
    statistics: Mapping[str, Any] = field(default_factory=dict)
    reconstructions: tuple[Reconstruction, ...] = ()
    quarantine: tuple[Quarantined, ...] = ()
    reasons: Mapping[str, int] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    facts: Mapping[str, int] = field(default_factory=dict)
    checks: Checks = field(default_factory=Checks)
    limits: LimitsConfig = field(default_factory=LimitsConfig)

    @property
    def run_s(self) -> float:
        """Wall time of the run."""
        return (self.ended_at - self.started_at).total_seconds()

    @property
    def encode_s(self) -> float:
        """Wall time of the stage that does the work; of the run where no stage says."""
        return self.wall_s.get("encode", self.run_s)

    def rate(self, name: str) -> float:
        """Samples, tokens or assets (``name``) of this run per second of the encode stage."""
        return self.done.get(name, 0) / self.encode_s if self.encode_s > 0 else 0.0

    @property
    def bottleneck(self) -> str:
        """The hop with most thread-seconds per thread, "" if none took any."""
        return bottleneck(self.hop_seconds, self.threads)
