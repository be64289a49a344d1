"""One unit from its listing to its receipt: fetch, decode, view, batch, encode, write."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field, replace

import numpy as np
import pyarrow as pa

from tokenmill.store.plans import read_unit
from tokenmill.views.base import ViewOf
from tokenmill.worker.batching import Batch, Batcher
from tokenmill.worker.device import Device, Encoded, Shape
from tokenmill.worker.prepare import Preparation, Prepared, rejection
from tokenmill.worker.publish import Written, write_shard
from tokenmill.worker.rows import Rows, count_tokens
from tokenmill.worker.spec import UnitTask, WorkerSpec
from tokenmill.worker.statistics import TokenStatistics
from tokenmill_schemas.asset import AssetRef, refs_of
from tokenmill_schemas.errors import AssetError, Reason, TokenmillError
from tokenmill_schemas.snapshot import Receipt, Reject

#: Batches of one unit that wait for the device; more would only hold pixels in memory.
QUEUED_BATCHES = 2
#: A view without pixels, which keeps its coordinates alone once the device has seen it.
NO_PIXELS = np.empty((0, 0, 3), np.uint8)


@dataclass(slots=True)
class UnitRun:
    """The state of one unit under way."""

    spec: WorkerSpec
    task: UnitTask
    rows: Rows
    rejects: dict[int, Reject] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    queued: deque[tuple[Batch, Future[Encoded]]] = field(default_factory=deque)
    refs: list[AssetRef] = field(default_factory=list)
    encoded: int = 0
    failure: tuple[Exception, Shape] | None = None

    def spend(self, seconds: Mapping[str, float]) -> None:
        """Add thread-seconds to hops."""
        for hop, spent in seconds.items():
            self.seconds[hop] = self.seconds.get(hop, 0.0) + spent


def run_unit(
    spec: WorkerSpec, task: UnitTask, preparation: Preparation, device: Device
) -> Receipt | None:
    """Make one unit's shard and publish its receipt; a trial returns None and writes nothing.

    Raises:
        TransientError: storage failed for a passing reason; the unit may be tried again.
        TokenmillError: nothing of the unit could be encoded, nor can anything else.
    """
    run = UnitRun(spec, task, Rows(spec.layout))
    run.refs = _read_refs(spec, task, run)
    batcher = Batcher(spec.batch_size, spec.limits.batch_bytes)
    numbers = [row for row in _window(task, len(run.refs)) if row not in run.rejects]
    prepared = preparation.run(run.refs[row] for row in numbers)
    for row, asset in zip(numbers, prepared, strict=True):
        for batch in _take(run, row, asset, batcher=batcher):
            _submit(run, device, batch)
    for batch in batcher.rest():
        _submit(run, device, batch)
    while run.queued:
        _collect(run)
    if task.window:
        return None
    if run.failure is not None and run.encoded == 0:
        _check_encoder(device, *run.failure)
    return _publish(run)


def _check_encoder(device: Device, error: Exception, shape: Shape) -> None:
    """Encode a grey view, to tell bad pictures from an encoder that fails on every picture.

    Raises:
        TokenmillError: it fails on this one too.
    """
    grey = np.full(shape, 128, np.uint8)
    result = device.submit([grey]).result()
    if any(isinstance(outcome, Exception) for _, outcome in result.pieces):
        raise TokenmillError(f"no batch of the unit could be encoded: {error}") from error


def _read_refs(spec: WorkerSpec, task: UnitTask, run: UnitRun) -> list[AssetRef]:
    start = time.perf_counter()
    table = read_unit(spec.store.storage, task.unit)
    refs = [ref for batch in table.to_batches() for ref in refs_of(batch)]
    for poison in task.poison:
        error = AssetError(Reason.KILLED_WORKER, poison.error, stage="decode")
        run.rejects[poison.row] = rejection(refs[poison.row], error)
    run.spend({"fetch": time.perf_counter() - start})
    return refs


def _window(task: UnitTask, rows: int) -> range:
    return range(*task.window) if task.window else range(rows)


def _take(run: UnitRun, row: int, asset: Prepared, *, batcher: Batcher) -> Iterator[Batch]:
    """Note one prepared asset; yields the batches that its views complete."""
    run.spend(asset.seconds)
    if asset.reject is not None:
        run.rejects[row] = asset.reject
        return
    bare = tuple(ViewOf(NO_PIXELS, view.coordinates) for view in asset.views)
    run.rows.add_asset(row, replace(asset, views=bare))
    for index, view in enumerate(asset.views):
        batch = batcher.add((row, index), view.data)
        if batch is not None:
            yield batch


def _submit(run: UnitRun, device: Device, batch: Batch) -> None:
    if len(run.queued) >= QUEUED_BATCHES:
        _collect(run)
    run.queued.append((batch, device.submit(batch.pixels)))


def _collect(run: UnitRun) -> None:
    """Wait for the oldest batch; views that failed reject their assets."""
    batch, future = run.queued.popleft()
    result = future.result()
    run.spend({"batch": result.batch_s, "encode": result.encode_s})
    start = 0
    for count, outcome in result.pieces:
        places = batch.places[start : start + count]
        start += count
        if isinstance(outcome, Exception):
            run.failure = outcome, batch.pixels[0].shape
            _reject_encode(run, places[0][0], outcome)
        else:
            run.rows.add_tokens(places, outcome)
            run.encoded += count


def _reject_encode(run: UnitRun, row: int, error: Exception) -> None:
    message = f"{type(error).__name__}: {error}"
    reason = AssetError(Reason.ENCODE_FAILED, message, stage="encode")
    run.rejects[row] = rejection(run.refs[row], reason)
    run.rows.drop_asset(row)


def _publish(run: UnitRun) -> Receipt:
    spec, unit = run.spec, run.task.unit
    start = time.perf_counter()
    batch, statistics = run.rows.batch()
    written = write_shard(spec.store, batch, spec.layout, unit_id=unit.unit_id, config=spec.shards)
    run.spend({"write": time.perf_counter() - start})
    return spec.store.publish(_receipt(run, written, batch, statistics))


def _receipt(
    run: UnitRun, written: Written, batch: pa.RecordBatch, statistics: TokenStatistics
) -> Receipt:
    unit, config = run.task.unit, run.spec.shards
    return Receipt(
        unit_id=unit.unit_id,
        plan=unit.part,
        row_group=unit.row_group,
        path=written.path,
        format=config.format,
        samples=batch.num_rows,
        tokens=count_tokens(run.spec.layout.spec, batch),
        bytes=written.bytes,
        sha256=written.sha256,
        assets=unit.assets,
        batch_rows=config.batch_rows,
        rejects=tuple(reject for _, reject in sorted(run.rejects.items())),
        seconds={hop: round(spent, 6) for hop, spent in run.seconds.items()},
        statistics=statistics.to_json(),
    )
