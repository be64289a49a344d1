"""From a finished run to its report: what happened, and some pictures to look at."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime

from tokenmill.store import paths
from tokenmill.worker.statistics import merged
from tokenmill_pipelines.reconstructing import reconstructions, refs_by_key
from tokenmill_pipelines.report import write_report
from tokenmill_pipelines.report.environment import environment
from tokenmill_pipelines.report.record import Quarantined, RunRecord
from tokenmill_pipelines.report.redact import redact
from tokenmill_pipelines.run import Run, quarantined, result_of
from tokenmill_schemas.asset import AssetRef
from tokenmill_schemas.errors import AssetError, Reason, TransientError
from tokenmill_schemas.job import job_table
from tokenmill_schemas.snapshot import Reject

#: What else than new a listing found assets to be.
NEWS = ("changed", "missing", "returned", "withheld")
#: Quarantined assets listed, and those of them with a thumbnail.
LISTED = 200
THUMBNAILS = 24
#: First bytes of a quarantined asset, from which a thumbnail may come.
THUMBNAIL_BYTES = 4 * 2**20


def publish_report(run: Run) -> str:
    """Write the run's report into the store; returns its path or URL.

    A run that did nothing has nothing to report and gets "", unless the store has no report at all.
    """
    storage = run.assembly.store.storage
    idle = not (run.committed or run.encoding.made)
    if run.snapshot is None or (idle and any(storage.list(paths.REPORTS))):
        return ""
    record = make_record(run)
    stamp = run.started_at.strftime("%Y%m%dT%H%M%S%f")[:-3]
    path = f"{paths.REPORTS}/{run.snapshot.number:06d}-{stamp}.html"
    storage.create(path, write_report(record))
    local = storage.local(path)
    return str(local) if local is not None else f"{storage.uri.rstrip('/')}/{path}"


def make_record(run: Run, *, pictures: bool = True) -> RunRecord:
    """Return everything that the report says; without ``pictures`` no asset is read again."""
    result, encoding, snapshot = result_of(run), run.encoding, run.snapshot
    receipts = encoding.receipts
    cluster = run.assembly.job.cluster
    actors = encoding.plan.actors
    return RunRecord(
        job_name=run.assembly.job.name,
        store_uri=run.assembly.store.uri,
        started_at=run.started_at,
        ended_at=datetime.now(UTC),
        job=redact(job_table(run.assembly.job)),
        snapshot_number=result.snapshot_number,
        content_id=result.content_id,
        fingerprint=run.assembly.identity.fingerprint,
        committed=run.committed,
        totals=snapshot.totals if snapshot else {},
        done=result.done,
        hop_seconds=encoding.seconds,
        wall_s=run.wall_s,
        threads={"decode": actors * cluster.decode_threads}
        | dict.fromkeys(("encode", "check", "write"), actors),
        actors=actors,
        spec=run.assembly.identity.spec,
        packing=run.assembly.job.shards.packing,
        statistics=merged(receipt.statistics for receipt in receipts).to_json(),
        reconstructions=tuple(reconstructions(run)) if pictures else (),
        quarantine=tuple(_quarantine(run, thumbnails=THUMBNAILS if pictures else 0)),
        reasons=Counter(reason for _, reason, _ in quarantined(receipts)),
        environment=environment(),
        facts={
            "lost actors": encoding.lost_actors,
            "reused units": len(encoding.reused),
            **{f"{name} assets": result.listed.get(name, 0) for name in NEWS},
        },
        checks=run.checks,
        limits=run.assembly.job.limits,
    )


def _quarantine(run: Run, *, thumbnails: int) -> Iterator[Quarantined]:
    """The first assets without samples, with bytes for thumbnails of the very first."""
    count = 0
    for unit, receipt in zip(run.planned.units, run.encoding.receipts, strict=True):
        refs = refs_by_key(run, unit) if receipt.rejects and count < thumbnails else {}
        for reject in receipt.rejects:
            if count >= LISTED:
                return
            looked_at = count < thumbnails and _is_harmless(reject)
            data = _peek(run, refs.get(reject.asset_key)) if looked_at else b""
            count += 1
            yield Quarantined(
                reject.asset_key, reject.uri, reject.reason, reject.stage, reject.error, data
            )


def _is_harmless(reject: Reject) -> bool:
    """Whether looking at an asset again, in this process, is safe.

    What killed a worker would kill the run itself at its very end, and what hung would hang it;
    what could not be fetched need not be asked for again.
    """
    fatal = {Reason.KILLED_WORKER, Reason.DEADLINE, Reason.DUPLICATE_KEY}
    return reject.stage != "fetch" and reject.reason not in fatal


def _peek(run: Run, ref: AssetRef | None) -> bytes:
    if ref is None:
        return b""
    try:
        with run.assembly.source.open(ref) as stream:
            return stream.read(THUMBNAIL_BYTES)
    except (AssetError, TransientError, OSError):
        return b""  # a thumbnail is a courtesy
