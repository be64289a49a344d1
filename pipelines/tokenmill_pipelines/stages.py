"""The stages of a run, in order: list, plan, encode, verify, commit, report.

Each is a plain function over a `Run`; the Prefect flow wraps the very same functions as tasks, and
`tokenmill_pipelines.jobs.run_job` calls them one after the other where no Prefect is asked for.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

from tokenmill.store import Commit
from tokenmill.store.plans import listed
from tokenmill_pipelines.checks import (
    KEPT,
    breaches,
    checks_of,
    entropy,
    round_trip,
    silences,
)
from tokenmill_pipelines.encoding import encode_units
from tokenmill_pipelines.listing import (
    Listing,
    list_assets,
    list_quarantined,
    missing_assets,
    plan_units,
)
from tokenmill_pipelines.reporting import publish_report
from tokenmill_pipelines.run import Run, quarantined
from tokenmill_schemas.errors import CorruptShardError, QualityError, TokenmillError
from tokenmill_schemas.job import job_table


class QuarantineError(TokenmillError):
    """More assets failed than the job allows; nothing was committed."""


class MissingAssetsError(TokenmillError):
    """The source lists fewer of the assets that were there than the job allows."""


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
        keys = set(run.retried)
        run.listing = list_quarantined(run.assembly, file, keys, observer=run.observer)
    else:
        run.listing = list_assets(run.assembly, file, head=head, observer=run.observer)


def plan_stage(run: Run) -> None:
    """Make units of the listing and keep them in the store.

    Raises:
        MissingAssetsError: the source lists too few of the assets that it listed before.
        StoreError: a gc is at work in the store and does not end.
    """
    if run.listing is not None:
        _check_missing(run, run.listing)
        if _has_news(run, run.listing):
            run.hold()
        if run.listing.todo:
            run.planned = plan_units(run.assembly, run.listing, salt=run.salt)
    run.observer.event("plan", units=len(run.planned.units))


def _check_missing(run: Run, listing: Listing) -> None:
    gone, there = len(listing.vanished), listing.there
    allowed = run.assembly.job.increment.max_missing_fraction
    if gone > allowed * there:
        raise MissingAssetsError(
            f"{gone} of {there} assets that the job {run.assembly.job.name!r} listed before are "
            f"not listed any more, more than increment.max_missing_fraction = {allowed:g} allows; "
            "nothing was committed. Look whether the source is all there"
        )


def _has_news(run: Run, listing: Listing) -> bool:
    """Whether there may be something to commit.

    A job may have begun to drop what it misses since its last run; the commit finds out.
    """
    drops = run.assembly.job.increment.on_missing == "drop" and listing.missed > 0
    return bool(listing.todo or len(listing.vanished) or len(listing.returned) or drops)


def encode_stage(run: Run) -> None:
    """Make the shards of all units."""
    run.encoding = encode_units(run.assembly, run.planned, observer=run.observer)


def verify_stage(run: Run) -> None:
    """Check, before anything becomes visible, that every unit is whole and accounted for.

    Raises:
        CorruptShardError: a shard or a listing is not there, or a unit's assets do not add up.
        QuarantineError: more assets failed than ``limits.max_quarantined_fraction`` allows; not
            in a retry, which can only make the quarantine smaller.
        QualityError: what the samples decode to, or how varied ids are, breaks one of ``limits``.
    """
    storage = run.assembly.store.storage
    for part in run.planned.plans:
        if not storage.exists(part.path):
            raise CorruptShardError(
                f"{part.path} is gone, which this run has written: run again",
                uri=run.assembly.store.uri,
            )
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
    _check_quality(run)


def _check_quality(run: Run) -> None:
    limits, receipts = run.assembly.job.limits, run.encoding.receipts
    before = run.assembly.store.snapshot(run.base).entropy if run.base and receipts else {}
    run.checks = checks_of(receipts, before, run.base)
    if run.checks.metric:
        run.observer.event("check", **round_trip(run.checks, limits))
    for moved in run.checks.moved:
        run.observer.event("check", **entropy(moved))
    for text in silences(run.checks, limits):
        run.observer.warn(text)
    broken = breaches(run.checks, limits)
    if broken:
        raise QualityError(f"{'; '.join(broken)}; {KEPT}")


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
    """Make all that is news one snapshot; a run without any commits nothing."""
    store, listing = run.assembly.store, run.listing
    if listing is not None and _has_news(run, listing) and not _failed_as_before(run):
        commit = _commit(run, listing)
        run.snapshot = store.commit(commit)
        run.committed = run.snapshot.commit_id == commit.commit_id
    elif run.base:
        run.snapshot = store.snapshot()
    number = run.snapshot.number if run.snapshot else None
    run.observer.event("commit", snapshot=number, committed=run.committed)


def _commit(run: Run, listing: Listing) -> Commit:
    job = run.assembly.job
    resolved = run.retried.intersection(_listed_keys(run) if run.retried else ())
    returned = _missed(run) & resolved if resolved else frozenset(listing.returned.to_pylist())
    return Commit(
        receipts=run.encoding.receipts,
        plans=run.planned.plans,
        identity=run.assembly.identity,
        operation="retry" if run.retried else "append",
        message=job.store.message,
        job=job_table(job),
        resolved=resolved,
        base=run.base,
        scope=job.name,
        replaced=frozenset(listing.replaced.to_pylist()),
        vanished=frozenset(listing.vanished.to_pylist()),
        returned=returned,
        drop_missing=job.increment.on_missing == "drop",
    )


def _missed(run: Run) -> frozenset[str]:
    """Return the keys that the job missed before this run."""
    head = run.assembly.store.snapshot(run.base)
    return frozenset(missing_assets(run.assembly, head).column("asset_key").to_pylist())


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
