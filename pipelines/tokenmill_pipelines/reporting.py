"""From a finished run to its report: what happened, and some pictures to look at."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import numpy as np
import numpy.typing as npt

from tokenmill.shards.columns import decode_stream
from tokenmill.store import paths
from tokenmill.store.plans import read_unit
from tokenmill.tokenizers.base import Encoder
from tokenmill.worker.statistics import merged
from tokenmill.worker.worker import tune_torch
from tokenmill_pipelines.report import write_report
from tokenmill_pipelines.report.environment import environment
from tokenmill_pipelines.report.record import Quarantined, Reconstruction, RunRecord
from tokenmill_pipelines.report.redact import redact
from tokenmill_pipelines.run import Run, quarantined, result_of
from tokenmill_schemas.asset import AssetRef, refs_of
from tokenmill_schemas.errors import AssetError, Reason, TokenmillError, TransientError
from tokenmill_schemas.job import job_table
from tokenmill_schemas.plan import Unit
from tokenmill_schemas.snapshot import Receipt, Reject

#: Pictures shown beside their reconstructions, and quarantined assets listed.
PICTURES = 8
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
        threads={"decode": actors * cluster.decode_threads, "encode": actors, "write": actors},
        actors=actors,
        spec=run.assembly.identity.spec,
        packing=run.assembly.job.shards.packing,
        statistics=merged(receipt.statistics for receipt in receipts).to_json(),
        reconstructions=tuple(_reconstructions(run)) if pictures else (),
        quarantine=tuple(_quarantine(run, thumbnails=THUMBNAILS if pictures else 0)),
        reasons=Counter(reason for _, reason, _ in quarantined(receipts)),
        environment=environment(),
        facts={"lost actors": encoding.lost_actors, "reused units": len(encoding.reused)},
    )


def _quarantine(run: Run, *, thumbnails: int) -> Iterator[Quarantined]:
    """The first assets without samples, with bytes for thumbnails of the very first."""
    count = 0
    for unit, receipt in zip(run.planned.units, run.encoding.receipts, strict=True):
        refs = _refs(run, unit) if receipt.rejects and count < thumbnails else {}
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


def _refs(run: Run, unit: Unit) -> dict[str, AssetRef]:
    table = read_unit(run.assembly.store.storage, unit)
    return {ref.key: ref for batch in table.to_batches() for ref in refs_of(batch)}


def _peek(run: Run, ref: AssetRef | None) -> bytes:
    if ref is None:
        return b""
    try:
        with run.assembly.source.open(ref) as stream:
            return stream.read(THUMBNAIL_BYTES)
    except (AssetError, TransientError, OSError):
        return b""  # a thumbnail is a courtesy


def _reconstructions(run: Run) -> Iterator[Reconstruction]:
    """Some samples of this run beside what the tokenizer's decoder makes of their stored tokens."""
    if not run.assembly.tokenizer.can_decode:
        return
    chosen = _spread([pair for pair in _made(run) if pair[1].samples])
    if not chosen:
        return
    try:
        encoder = run.assembly.tokenizer.load("cpu")
        tune_torch(run.assembly.job.cluster, "cpu")
        for unit, receipt, row in chosen:
            yield _reconstruction(run, encoder, _refs(run, unit), receipt=receipt, row=row)
        encoder.close()
    except (TokenmillError, RuntimeError, MemoryError) as error:
        run.observer.warn("the report shows no reconstructions", error=str(error))


def _made(run: Run) -> list[tuple[Unit, Receipt]]:
    pairs = zip(run.planned.units, run.encoding.receipts, strict=True)
    return [(unit, receipt) for unit, receipt in pairs if unit.unit_id in run.encoding.made]


def _spread(pairs: list[tuple[Unit, Receipt]]) -> list[tuple[Unit, Receipt, int]]:
    """Choose `PICTURES` samples evenly over all samples of the run: the same for the same run."""
    ends = np.cumsum([receipt.samples for _, receipt in pairs], dtype=np.int64)
    total = int(ends[-1]) if len(ends) else 0
    picks = sorted(
        {(2 * i + 1) * total // (2 * PICTURES) for i in range(PICTURES)} if total else ()
    )
    chosen = []
    for pick in picks:
        index = int(np.searchsorted(ends, pick, side="right"))
        unit, receipt = pairs[index]
        chosen.append((unit, receipt, pick - int(ends[index]) + receipt.samples))
    return chosen


def _reconstruction(
    run: Run, encoder: Encoder, refs: dict[str, AssetRef], *, receipt: Receipt, row: int
) -> Reconstruction:
    rows = np.array([row], dtype=np.int64)
    with run.assembly.store.shard(receipt.path) as shard:
        sample = shard.columns(shard.layout.schema.names, rows)
        spec, packing = shard.layout.spec, shard.layout.packing
    tokens = {s.name: _stacked(decode_stream(sample, s, packing)) for s in spec.streams}
    names = sample.select(["asset_key", "view.index", "view.name", "view.flip"]).to_pylist()[0]
    ref = refs[names["asset_key"]]
    with run.assembly.source.open(ref) as stream:
        picture = run.assembly.decoder.decode(ref, stream)
    views = list(run.assembly.view.views(picture, ref.key))
    original = views[names["view.index"]].data
    name = names["view.name"] + (", mirrored" if names["view.flip"] else "")
    return Reconstruction(ref.key, original, encoder.decode(tokens)[0], view=name)


def _stacked(values: Any) -> npt.NDArray[Any]:
    """One sample's tokens with a leading axis of one, whether its shape varies or not."""
    return values[0][None] if isinstance(values, list) else np.asarray(values)
