"""The stages of a run, in order: list, plan, encode, verify, commit, report.

Each is a plain function over a `Run`; the Prefect flow wraps the very same functions as tasks, and
`tokenmill_pipelines.jobs.run_job` calls them one after the other where no Prefect is asked for.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

from tokenmill.store import Commit
from tokenmill.store.plans import listed
from tokenmill_pipelines.encoding import encode_units
from tokenmill_pipelines.listing import list_assets, list_quarantined, plan_units
from tokenmill_pipelines.reporting import publish_report
from tokenmill_pipelines.run import Run, quarantined
from tokenmill_schemas.errors import CorruptShardError, TokenmillError
from tokenmill_schemas.job import job_table


class QuarantineError(TokenmillError):
    """More assets failed than the job allows; nothing was committed."""


def list_stage(run: Run) -> None:
    """List the source and keep what the store does not have.

    Raises:
        FingerprintError: the store holds tokens of another kind, or shards of another format or
            with other columns.
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
        QuarantineError: more assets failed than ``limits.max_quarantined_fraction`` allows; not
            in a retry, which can only make the quarantine smaller.
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
    if not run.retried:
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
    if run.planned.units and not _failed_as_before(run):
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


def _failed_as_before(run: Run) -> bool:
    """Whether all that was tried again failed again, and for the same reasons."""
    receipts = run.encoding.receipts
    if not run.retried or any(receipt.samples for receipt in receipts):
        return False
    store = run.assembly.store
    rows = store.rejects(store.snapshot(run.base)).to_pylist()
    before = {row["asset_key"]: (row["disposition"], row["reason"]) for row in rows}
    return all(
        before.get(reject.asset_key) == (reject.disposition, reject.reason)
        for receipt in receipts
        for reject in receipt.rejects
    )


def _listed_keys(run: Run) -> Iterator[str]:
    for part in run.planned.plans:
        for batch in listed(run.assembly.store.storage, part, ["key"]):
            yield from batch.column("key").to_pylist()


def report_stage(run: Run) -> None:
    """Write the run's report into the store."""
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
