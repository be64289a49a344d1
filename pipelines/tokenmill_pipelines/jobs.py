"""What a person asks for: run a job, say what a run would do, try quarantined assets again."""

from __future__ import annotations

from dataclasses import dataclass, replace

from tokenmill.store import Store
from tokenmill_infra.observe import Observer, SilentObserver
from tokenmill_pipelines.listing import unit_tables
from tokenmill_pipelines.run import Run, RunResult, open_run, result_of, still_missing
from tokenmill_pipelines.stages import STAGES, list_stage, run_stage
from tokenmill_schemas.errors import JobError
from tokenmill_schemas.job import Job, parse_job
from tokenmill_schemas.tokens import TokenSpec


@dataclass(frozen=True, slots=True)
class PlanSummary:
    """What a run would do.

    ``assets`` are listed, ``todo`` of them to be tokenized: the new ones, and the changed ones
    unless the job leaves them. ``missing`` ones were listed before and are not any more,
    ``still_missing`` ones were not in the run before either; ``on_missing`` says what is done about
    both.
    """

    assets: int
    todo: int
    new_assets: int
    changed: int
    missing: int
    still_missing: int
    on_missing: str
    returned: int
    withheld: int
    duplicates: int
    units: int
    new_units: int
    bytes: int
    fingerprint: str
    spec: TokenSpec


def run_job(job: Job, *, observer: Observer, prefect: bool = False) -> RunResult:
    """Tokenize what a job's source lists and its store lacks; commits one snapshot, or none.

    What is no longer listed is marked or hidden, as the job's section ``increment`` says.

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
    with open_run(job, SilentObserver()) as run:
        list_stage(run)
        listing = run.listing
        if listing is None:
            raise JobError("lists no assets", path="source")
        ids = [unit for unit, _ in unit_tables(run.assembly, listing)]
        done = run.assembly.store.receipts(ids)
        identity = run.assembly.identity
        return PlanSummary(
            assets=listing.assets,
            todo=listing.todo,
            new_assets=listing.new,
            changed=listing.changed,
            missing=len(listing.vanished),
            still_missing=still_missing(listing),
            on_missing=job.increment.on_missing,
            returned=len(listing.returned),
            withheld=listing.withheld,
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
    that the source no longer lists stay as they are. If all fail again for the same reasons, there
    is nothing to commit.

    Raises:
        JobError: nothing is in quarantine for these reasons.
    """
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
    # The store may have been moved since, and is called by another name from here.
    job = replace(job, store=replace(job.store, uri=uri))
    with open_run(job, observer) as run:
        run.retried = frozenset(keys)
        run.salt = f":retry-of-{head.commit_id}"
        return execute(run)
