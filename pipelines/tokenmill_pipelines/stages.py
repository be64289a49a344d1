"""The stages of a run, in order: list, plan, encode, verify, commit, report.

Each is a plain function over a `Run`; the Prefect flow wraps the very same functions as tasks, and
`run_job` calls them one after the other where no Prefect is asked for.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

from tokenmill.store import Commit
from tokenmill.store.plans import listed
from tokenmill_infra.observe import Observer
from tokenmill_infra.storage import scratch
from tokenmill_pipelines.assemble import Assembly, assemble
from tokenmill_pipelines.encoding import Encoding, encode_units
from tokenmill_pipelines.listing import (
    Listing,
    Planned,
    list_assets,
    list_quarantined,
    plan_units,
    unit_tables,
)
from tokenmill_schemas.errors import CorruptShardError, JobError, TokenmillError
from tokenmill_schemas.job import Job, job_table, parse_job
from tokenmill_schemas.snapshot import Receipt, Snapshot
from tokenmill_schemas.tokens import TokenSpec

T = TypeVar("T")

#: Quarantined assets that a result spells out.
SHOWN = 50


class QuarantineError(TokenmillError):
    """More assets failed than the job allows; nothing was committed."""


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
    snapshot: Snapshot | None = None
    committed: bool = False
    report: str = ""


@dataclass(frozen=True, slots=True)
class RunResult:
    """What a run did. ``totals`` is the whole store's, ``done`` this run's part of it."""

    store_uri: str
    snapshot_number: int | None
    content_id: str
    committed: bool
    totals: dict[str, int]
    done: dict[str, int]
    wall_s: dict[str, float]
    report: str
    quarantine: tuple[tuple[str, str, str], ...]
    quarantined: int
    summary: str = ""


@dataclass(frozen=True, slots=True)
class PlanSummary:
    """What a run would do."""

    assets: int
    new_assets: int
    changed: int
    duplicates: int
    units: int
    new_units: int
    bytes: int
    fingerprint: str
    spec: TokenSpec


def list_stage(run: Run) -> None:
    """List the source and keep what the store does not have.

    Raises:
        FingerprintError: the store holds tokens of another kind.
    """
    file = run.folder / "listing.parquet"
    head = run.assembly.store.check(run.assembly.identity)
    run.base = head.number if head else 0
    if run.retried:
        run.listing = list_quarantined(run.assembly, file, set(run.retried))
    else:
        run.listing = list_assets(run.assembly, file, head=head, observer=run.observer)


def plan_stage(run: Run) -> None:
    """Make units of the listing and keep them in the store."""
    if run.listing is not None and run.listing.new:
        run.planned = plan_units(run.assembly, run.listing, salt=run.salt)
    run.observer.event("plan", units=len(run.planned.units))


def encode_stage(run: Run) -> None:
    """Make the shards of all units."""
    run.encoding = encode_units(run.assembly, run.planned, observer=run.observer)


def verify_stage(run: Run) -> None:
    """Check, before anything becomes visible, that every unit is whole and accounted for.

    Raises:
        CorruptShardError: a shard is not there, or a unit's assets do not add up.
        QuarantineError: more assets failed than ``limits.max_quarantined_fraction`` allows.
    """
    storage = run.assembly.store.storage
    for unit, receipt in zip(run.planned.units, run.encoding.receipts, strict=True):
        if receipt.assets != unit.assets or len(receipt.rejects) > unit.assets:
            raise CorruptShardError(
                f"the receipt of unit {unit.unit_id} accounts for {receipt.assets} of "
                f"{unit.assets} assets",
                uri=run.assembly.store.uri,
            )
        if receipt.path and not storage.exists(receipt.path):
            raise CorruptShardError(
                f"{receipt.path} is gone; delete receipts/{unit.unit_id}.json to make it again",
                uri=run.assembly.store.uri,
            )
    _check_quarantine(run)


def _check_quarantine(run: Run) -> None:
    assets = sum(receipt.assets for receipt in run.encoding.receipts)
    failed = len(quarantined(run.encoding.receipts))
    allowed = run.assembly.job.limits.max_quarantined_fraction
    if assets and failed > allowed * assets:
        raise QuarantineError(
            f"{failed} of {assets} assets failed, more than limits.max_quarantined_fraction = "
            f"{allowed:g} allows; nothing was committed"
        )


def commit_stage(run: Run) -> None:
    """Make all receipts one snapshot; a run that made nothing new commits nothing."""
    store = run.assembly.store
    if run.planned.units:
        job = run.assembly.job
        resolved = run.retried.intersection(_listed_keys(run) if run.retried else ())
        commit = Commit(
            receipts=run.encoding.receipts,
            plans=run.planned.plans,
            identity=run.assembly.identity,
            operation="retry" if run.retried else "append",
            message=job.store.message,
            job=job_table(job),
            resolved=resolved,
            base=run.base,
        )
        run.snapshot = store.commit(commit)
        run.committed = run.snapshot.commit_id == commit.commit_id
    elif run.base:
        run.snapshot = store.snapshot()
    number = run.snapshot.number if run.snapshot else None
    run.observer.event("commit", snapshot=number, committed=run.committed)


def _listed_keys(run: Run) -> Iterator[str]:
    for part in run.planned.plans:
        for batch in listed(run.assembly.store.storage, part, ["key"]):
            yield from batch.column("key").to_pylist()


def report_stage(run: Run) -> None:
    """Write the run's report into the store."""
    from tokenmill_pipelines.reporting import publish_report

    run.report = publish_report(run)


STAGES: tuple[tuple[str, Callable[[Run], None]], ...] = (
    ("list", list_stage),
    ("plan", plan_stage),
    ("encode", encode_stage),
    ("verify", verify_stage),
    ("commit", commit_stage),
    ("report", report_stage),
)


def run_stage(run: Run, name: str, stage: Callable[[Run], None]) -> None:
    """Run one stage, timed and observed."""
    start = time.monotonic()
    with run.observer.stage(name):
        stage(run)
    run.wall_s[name] = time.monotonic() - start


@contextmanager
def open_run(job: Job, observer: Observer) -> Iterator[Run]:
    """Assemble a job and give it a scratch folder for as long as it runs.

    Raises:
        JobError: the job is wrong.
    """
    assembly = assemble(job)
    with scratch(assembly.store.storage) as folder:
        yield Run(assembly, observer, folder)


def run_job(job: Job, *, observer: Observer, prefect: bool = False) -> RunResult:
    """Tokenize what a job's source lists and its store lacks; commits one snapshot, or none.

    ``prefect`` runs the stages as a Prefect flow run; they are the same stages.

    Raises:
        JobError: the job is wrong.
        TokenmillError: the run failed; what was made is kept for the next one.
    """
    with open_run(job, observer) as run:
        return execute(run, prefect=prefect)


def execute(run: Run, *, prefect: bool = False) -> RunResult:
    """Run all stages of a prepared run."""
    if prefect:
        from tokenmill_pipelines.flows import run_flow

        run_flow(run)
    else:
        for name, stage in STAGES:
            run_stage(run, name, stage)
    return result_of(run)


def plan_job(job: Job) -> PlanSummary:
    """Say what a run of a job would do; writes nothing that a reader of the store could see."""
    from tokenmill_infra.observe import SilentObserver

    with open_run(job, SilentObserver()) as run:
        list_stage(run)
        listing = run.listing
        if listing is None:
            raise JobError("lists no assets", path="job.source")
        ids = [unit for unit, _ in unit_tables(run.assembly, listing)]
        done = run.assembly.store.receipts(ids)
        identity = run.assembly.identity
        return PlanSummary(
            assets=listing.assets,
            new_assets=listing.new,
            changed=listing.changed,
            duplicates=listing.duplicates,
            units=len(ids),
            new_units=len(ids) - len(done),
            bytes=listing.bytes,
            fingerprint=identity.fingerprint,
            spec=identity.spec,
        )


def retry_store(uri: str, *, reasons: tuple[str, ...] = (), observer: Observer) -> RunResult:
    """Tokenize a store's quarantined assets again, by the job that made its newest snapshot.

    ``reasons`` limits it to some reason codes. Assets that fail again stay in quarantine; those
    that the source no longer lists stay as they are.

    Raises:
        JobError: nothing is in quarantine for these reasons.
    """
    from tokenmill.store import Store

    store = Store.open(uri)
    head = store.snapshot()
    rows = store.rejects(head).to_pylist()
    keys = {
        row["asset_key"]
        for row in rows
        if row["disposition"] == "quarantine" and (not reasons or row["reason"] in reasons)
    }
    if not keys:
        there = sorted({row["reason"] for row in rows if row["disposition"] == "quarantine"})
        raise JobError(f"nothing to retry; reasons in quarantine: {', '.join(there) or 'none'}")
    job = parse_job(head.job)
    with open_run(job, observer) as run:
        run.retried = frozenset(keys)
        run.salt = f":retry-of-{head.commit_id}"
        return execute(run)


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
    }
    snapshot = run.snapshot
    return RunResult(
        store_uri=run.assembly.store.uri,
        snapshot_number=snapshot.number if snapshot else None,
        content_id=snapshot.content_id if snapshot else "",
        committed=run.committed,
        totals=dict(snapshot.totals) if snapshot else {},
        done=done,
        wall_s=dict(run.wall_s),
        report=run.report,
        quarantine=tuple(bad[:SHOWN]),
        quarantined=len(bad),
    )
