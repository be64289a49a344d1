"""A run under way: what its stages hand to each other, and what it comes to."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tokenmill_infra.observe import Observer
from tokenmill_infra.storage import probe_folder, scratch, storage_options
from tokenmill_infra.storage.scratch import sweep_scratch
from tokenmill_pipelines.assemble import Assembly, assemble
from tokenmill_pipelines.checks import Checks, summary
from tokenmill_pipelines.encoding import Encoding
from tokenmill_pipelines.listing import Listing, Planned, counts
from tokenmill_schemas.errors import JobError
from tokenmill_schemas.job import Job
from tokenmill_schemas.snapshot import Receipt, Snapshot

#: Quarantined assets that a result spells out.
SHOWN = 50


@dataclass(slots=True)
class Run:
    """One run under way: what the stages hand to each other, and how long each took."""

    assembly: Assembly
    observer: Observer
    folder: Path
    retried: frozenset[str] = frozenset()
    salt: str = ""
    started_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    wall_s: dict[str, float] = field(default_factory=dict)
    base: int = 0
    listing: Listing | None = None
    planned: Planned = field(default_factory=Planned)
    encoding: Encoding = field(default_factory=Encoding)
    checks: Checks = field(default_factory=Checks)
    snapshot: Snapshot | None = None
    committed: bool = False
    report: str = ""
    _held: ExitStack = field(default_factory=ExitStack)
    _holds: bool = False

    def hold(self) -> None:
        """Announce the run to the store until it ends, so that no gc takes what it makes or uses.

        Raises:
            StoreError: a gc is at work and does not end.
        """
        if not self._holds:
            store, name = self.assembly.store, self.assembly.job.name
            self._held.enter_context(store.hold("run", note=name))
            self._holds = True

    def release(self) -> None:
        """End what `hold` began."""
        self._held.close()


@dataclass(frozen=True, slots=True)
class RunResult:
    """What a run did. ``totals`` is the whole store's, ``done`` this run's part of it.

    ``listed`` says how many assets were listed and what they were to the store (see `counts`), and
    how many that the job missed before are ``still_missing``; a retry lists nothing. ``branch`` is
    that of the snapshot, ``checks`` what `tokenmill_pipelines.checks.summary` gives.
    """

    store_uri: str
    snapshot_number: int | None
    content_id: str
    committed: bool
    totals: dict[str, int]
    done: dict[str, int]
    listed: dict[str, int]
    wall_s: dict[str, float]
    report: str
    quarantine: tuple[tuple[str, str, str], ...]
    quarantined: int
    branch: str = "main"
    checks: dict[str, Any] = field(default_factory=dict)


@contextmanager
def open_run(job: Job, observer: Observer) -> Iterator[Run]:
    """Assemble a job and give it a scratch folder for as long as it runs.

    The folder is not in the store, where nothing is made before there is a plan.

    Raises:
        JobError: the job is wrong, or there can be no store where it wants one.
    """
    assembly = assemble(job)
    try:
        probe_folder(assembly.store.storage)
    except OSError as error:
        raise JobError(
            f"cannot make a store at {assembly.store.uri}: {error.strerror or error}",
            path="store.uri",
        ) from error
    sweep_scratch(assembly.store.storage)
    with scratch() as folder, storage_options(job.storage):
        run = Run(assembly, observer, folder)
        try:
            yield run
        finally:
            run.release()


def quarantined(receipts: tuple[Receipt, ...]) -> list[tuple[str, str, str]]:
    """Return (key, reason, error) of every asset that failed."""
    return [
        (reject.asset_key, reject.reason, reject.error)
        for receipt in receipts
        for reject in receipt.rejects
        if reject.disposition == "quarantine"
    ]


def result_of(run: Run) -> RunResult:
    """Return what a finished run did."""
    bad = quarantined(run.encoding.receipts)
    made = run.encoding.made.values()
    done = {
        "assets": sum(r.assets for r in made),
        "samples": sum(r.samples for r in made),
        "tokens": sum(r.tokens for r in made),
        "bytes": sum(r.bytes for r in made),
        "units": len(run.encoding.made),
        "reused_units": len(run.encoding.reused),
        "quarantined": len(bad),
        "filtered": sum(
            r.disposition == "filtered" for m in run.encoding.receipts for r in m.rejects
        ),
    }
    snapshot = run.snapshot
    return RunResult(
        store_uri=run.assembly.store.uri,
        snapshot_number=snapshot.number if snapshot else None,
        content_id=snapshot.content_id if snapshot else "",
        committed=run.committed,
        totals=dict(snapshot.totals) if snapshot else {},
        done=done,
        listed=_listed(run),
        wall_s=dict(run.wall_s),
        report=run.report,
        quarantine=tuple(bad[:SHOWN]),
        quarantined=len(bad),
        branch=snapshot.branch if snapshot else run.assembly.job.store.branch,
        checks=summary(run.checks, run.assembly.job.limits),
    )


def _listed(run: Run) -> dict[str, int]:
    if run.listing is None or run.retried:
        return {}
    return counts(run.listing) | {"still_missing": still_missing(run.listing)}


def still_missing(listing: Listing) -> int:
    """Return how many assets the job missed before its listing and does not find in it."""
    return listing.missed - len(listing.returned)
