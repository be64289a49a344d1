"""One unit from its listing to its receipt: fetch, decode, view, batch, encode, write."""

from __future__ import annotations

import functools
import time
from collections import deque
from collections.abc import Mapping
from concurrent.futures import Future
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from tokenmill.store.plans import read_unit
from tokenmill.views.base import Array
from tokenmill.worker.batching import Batch, Batcher
from tokenmill.worker.control import control_view
from tokenmill.worker.device import Device, Encoded, LongClip, is_out_of_memory
from tokenmill.worker.pieces import Piece
from tokenmill.worker.prepare import Asked, At, Incoming, Preparation
from tokenmill.worker.publish import Written, write_shard
from tokenmill.worker.reading import ADDRESS, rejection
from tokenmill.worker.roundtrip import Candidate, Choice, as_view, figure, stored_tokens
from tokenmill.worker.rows import Counted, Place, Rows, count_tokens, sample_id
from tokenmill.worker.spec import UnitTask, WorkerSpec
from tokenmill_schemas.asset import AssetRef, refs_of
from tokenmill_schemas.errors import AssetError, Reason, TokenmillError
from tokenmill_schemas.snapshot import Receipt, Reject

#: Batches of one unit that wait for the device; more would only hold pixels in memory.
QUEUED_BATCHES = 2


@dataclass(slots=True)
class UnitRun:
    """The state of one unit under way."""

    spec: WorkerSpec
    task: UnitTask
    rows: Rows
    device: Device
    batcher: Batcher
    at: At
    choice: Choice
    rejects: dict[int, Reject] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    queued: deque[tuple[Batch, Future[Encoded]]] = field(default_factory=deque)
    refs: list[AssetRef] = field(default_factory=list)
    encoded: int = 0
    #: The last error that was no asset's own, and what it happened on: a view, or a clip in parts.
    failure: tuple[Exception, Array | LongClip] | None = None
    clips: dict[Place, LongClip] = field(default_factory=dict)

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
    batcher = Batcher(spec.batch_size, spec.limits.batch_bytes)
    at = functools.partial(preparation.at, task.task_id)
    choice = Choice(spec.limits.checked_samples if spec.metric and not task.window else 0)
    run = UnitRun(spec, task, Rows(spec.layout), device, batcher, at, choice)
    run.refs = _read_refs(spec, task, run)
    numbers = [row for row in _window(task, len(run.refs)) if row not in run.rejects]
    asked = (Asked(run.refs[row], row, at) for row in numbers)
    with closing(preparation.run(asked)) as assets:
        for row, asset in zip(numbers, assets, strict=True):
            _take(run, row, asset)
    for batch in batcher.rest():
        _submit(run, batch)
    while run.queued:
        _collect(run)
    if task.window:
        return None
    if run.failure is not None and run.encoded == 0:
        _check_encoder(device, *run.failure)
    return _publish(run)


def _check_encoder(device: Device, error: Exception, failed: Array | LongClip) -> None:
    """Encode a plain view, to tell bad assets from an encoder that fails on everything.

    A clip that came in parts is tried as a plain one of the same parts.

    Raises:
        TokenmillError: it fails on this one too.
    """
    if isinstance(failed, LongClip):
        plain = LongClip()
        for shape in failed.shapes:
            device.push(plain, control_view(np.empty(shape, np.uint8))).result()
        result = device.finish(plain).result()
    else:
        result = device.submit([control_view(failed)]).result()
    if any(isinstance(outcome, Exception) for _, outcome in result.pieces):
        raise TokenmillError(f"no batch of the unit could be encoded: {error}") from error


def _read_refs(spec: WorkerSpec, task: UnitTask, run: UnitRun) -> list[AssetRef]:
    start = time.perf_counter()
    table = read_unit(spec.store.storage, task.unit)
    refs = [ref for batch in table.to_batches() for ref in refs_of(batch)]
    for poison in task.poison:
        run.rejects[poison.row] = rejection(refs[poison.row], poison.error(spec.limits))
    run.spend({"fetch": time.perf_counter() - start})
    return refs


def _window(task: UnitTask, rows: int) -> range:
    return range(*task.window) if task.window else range(rows)


def _take(run: UnitRun, row: int, asset: Incoming) -> None:
    """Hand one asset's views to the device as they come; then note how reading it ended."""
    clip: LongClip | None = None
    for piece in asset:
        place = row, piece.index
        run.choice.see(row, sample_id(asset.ref, piece.index), piece)
        if piece.coordinates is not None:
            run.rows.add_view(place, piece.coordinates)
        if piece.data is not None and piece.coordinates is not None:
            batch = run.batcher.add(place, piece.data)
            if batch is not None:
                _submit(run, batch)
        else:
            clip = _stream(run, place, piece, clip=clip)
    outcome = asset.outcome
    run.spend(outcome.seconds)
    if outcome.reject is not None:
        _reject(run, row, outcome.reject)
    else:
        run.choice.keep()
        if row not in run.rejects:
            run.rows.add_asset(row, asset.ref, outcome.facts)
    run.choice.drop()


def _stream(run: UnitRun, place: Place, piece: Piece, *, clip: LongClip | None) -> LongClip | None:
    """Hand a part of a long clip to the device; at its end wait for its tokens like for a batch."""
    clip = clip or LongClip()
    note = run.at(place[0], place[0] + 1)
    if piece.data is not None:
        _queue(run, Batch((), ()), run.device.push(clip, piece.data, note=note))
        return clip
    run.clips[place] = clip
    _queue(run, Batch((place,), ()), run.device.finish(clip, note=note))
    return None


def _submit(run: UnitRun, batch: Batch) -> None:
    rows = [row for row, _ in batch.places]
    note = run.at(min(rows), max(rows) + 1)
    _queue(run, batch, run.device.submit(batch.views, note=note))


def _queue(run: UnitRun, batch: Batch, future: Future[Encoded]) -> None:
    run.queued.append((batch, future))
    if len(run.queued) > QUEUED_BATCHES:
        _collect(run)


def _collect(run: UnitRun) -> None:
    """Wait for the oldest batch; views that failed reject their assets."""
    batch, future = run.queued.popleft()
    result = future.result()
    run.spend({"batch": result.batch_s, "encode": result.encode_s})
    start = 0
    for count, outcome in result.pieces:
        places = batch.places[start : start + count]
        if isinstance(outcome, Exception):
            if not isinstance(outcome, AssetError):
                failed = batch.views[start] if batch.views else run.clips[places[0]]
                run.failure = outcome, failed
            _reject_encode(run, places[0][0], outcome)
        else:
            run.rows.add_tokens(places, outcome)
            run.encoded += count
        start += count


def _reject_encode(run: UnitRun, row: int, error: Exception) -> None:
    reason = error
    if not isinstance(reason, AssetError):
        reason = AssetError(Reason.ENCODE_FAILED, f"{type(error).__name__}: {error}")
    reason.stage = reason.stage or "encode"
    _reject(run, row, rejection(run.refs[row], reason))


def _reject(run: UnitRun, row: int, reject: Reject) -> None:
    run.rejects.setdefault(row, reject)
    run.rows.drop_asset(row)


def _publish(run: UnitRun) -> Receipt:
    spec, unit = run.spec, run.task.unit
    start = time.perf_counter()
    counted = run.rows.batch()
    rows = counted.rows
    run.spend({"write": time.perf_counter() - start})
    checks = _check(run, rows)
    start = time.perf_counter()
    written = write_shard(spec.store, rows, spec.layout, unit_id=unit.unit_id, config=spec.shards)
    run.spend({"write": time.perf_counter() - start})
    return spec.store.publish(_receipt(run, written, counted, checks))


def _check(run: UnitRun, rows: pa.RecordBatch) -> dict[str, Any]:
    """Decode the chosen samples; returns what a receipt says of them, {} if none was asked for."""
    if not (run.choice.count and rows.num_rows):
        return {}
    found = [_measured(run, rows, place, one) for place, one in run.choice.chosen(rows)]
    return {
        "metric": run.spec.metric,
        "passed_over": run.choice.passed_over,
        "samples": [each for each in found if each is not None],
    }


def _measured(
    run: UnitRun, rows: pa.RecordBatch, place: int, one: Candidate
) -> dict[str, Any] | None:
    """Return a sample's figure or why it has none; None where no memory is left for decoding it."""
    tokens = stored_tokens(rows, place, run.spec.layout)
    note = run.at(one.row, one.row + 1)
    try:
        decoded, spent = run.device.decode(tokens, one.view.nbytes, note=note).result()
        start = time.perf_counter()
        value = figure(run.spec.metric, one.view, as_view(decoded, one.view))
        run.spend({"check": spent + time.perf_counter() - start})
    except TokenmillError as error:
        return {"sample_id": one.sample_id, "error": str(error)}
    except (RuntimeError, ValueError, LookupError, MemoryError) as error:
        if is_out_of_memory(error):
            run.choice.passed_over += 1
            return None
        text = ADDRESS.sub("", f"{type(error).__name__}: {error}")
        return {"sample_id": one.sample_id, "error": text}
    return {"sample_id": one.sample_id, "figure": value}


def _receipt(run: UnitRun, written: Written, counted: Counted, checks: dict[str, Any]) -> Receipt:
    unit, config = run.task.unit, run.spec.shards
    return Receipt(
        unit_id=unit.unit_id,
        plan=unit.part,
        row_group=unit.row_group,
        path=written.path,
        format=config.format,
        samples=counted.rows.num_rows,
        tokens=count_tokens(run.spec.layout.spec, counted.rows),
        bytes=written.bytes,
        sha256=written.sha256,
        assets=unit.assets,
        batch_rows=config.batch_rows,
        rejects=tuple(reject for _, reject in sorted(run.rejects.items())),
        min_key=min((ref.key for ref in run.refs), default=""),
        max_key=max((ref.key for ref in run.refs), default=""),
        seconds={hop: round(spent, 6) for hop, spent in run.seconds.items()},
        statistics=counted.statistics.to_json(),
        shapes=written.shapes,
        entropy=counted.entropy,
        checks=checks,
    )
