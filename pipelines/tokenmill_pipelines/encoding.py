"""Encode: hand the units that have no receipt to the pool, and collect all receipts."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from tokenmill.worker.spec import UnitTask, WorkerSpec
from tokenmill.worker.worker import Worker
from tokenmill_infra.cluster import ActorPlan, Finished, Pool, open_pool
from tokenmill_infra.observe import Observer
from tokenmill_pipelines.assemble import Assembly
from tokenmill_pipelines.listing import Planned
from tokenmill_schemas.errors import TokenmillError
from tokenmill_schemas.plan import Unit, missing
from tokenmill_schemas.snapshot import Receipt


class UnitsFailedError(TokenmillError):
    """Some units could not be made; the receipts of all others are kept for the next run."""


@dataclass(slots=True)
class Encoding:
    """What the encode stage did. ``receipts`` are in plan order, ``made`` are this run's own."""

    receipts: tuple[Receipt, ...] = ()
    made: dict[str, Receipt] = field(default_factory=dict)
    reused: dict[str, Receipt] = field(default_factory=dict)
    plan: ActorPlan = field(default_factory=lambda: ActorPlan(0, 0.0, 0.0))
    lost_actors: int = 0
    first_shard_s: float = 0.0

    @property
    def seconds(self) -> dict[str, float]:
        """Thread-seconds per hop of the units that this run made."""
        total: dict[str, float] = {}
        for receipt in self.made.values():
            for hop, spent in receipt.seconds.items():
                total[hop] = total.get(hop, 0.0) + spent
        return total


def load_worker(spec_of: Callable[[float], WorkerSpec], gpus: float) -> Callable[[], Worker]:
    """Return what an actor calls to become a worker."""
    return functools.partial(Worker, spec_of(gpus))


def encode_units(assembly: Assembly, planned: Planned, *, observer: Observer) -> Encoding:
    """Make every unit's shard, except those whose receipts exist.

    Raises:
        UnitsFailedError: some units could not be made, after all their attempts.
        ClusterError: actors cannot be kept alive.
    """
    start = time.monotonic()
    reused = assembly.store.receipts([unit.unit_id for unit in planned.units])
    todo = missing(planned.units, set(reused))
    observer.event("diff", units=len(planned.units), receipts=len(reused), todo=len(todo))
    encoding = Encoding(reused=reused)
    if todo:
        needs = assembly.tokenizer.resources
        factory = functools.partial(load_worker, assembly.worker_spec)
        pool, encoding.plan = open_pool(assembly.job.cluster, needs, factory, observer=observer)
        observer.event("dispatch", units=len(todo), actors=encoding.plan.actors)
        try:
            _run(pool, [UnitTask(unit) for unit in todo], encoding, observer=observer, start=start)
        finally:
            encoding.lost_actors = pool.lost
            pool.close()
    receipts = reused | encoding.made
    encoding.receipts = tuple(_placed(receipts[unit.unit_id], unit) for unit in planned.units)
    return encoding


def _placed(receipt: Receipt, unit: Unit) -> Receipt:
    """Return a receipt that names this run's plan: an earlier run may have cut its part elsewhere.

    The part of that run may be in no snapshot; a unit's own assets are the same in both.
    """
    return replace(receipt, plan=unit.part, row_group=unit.row_group)


@dataclass(slots=True)
class _Tally:
    """Running totals of a stage, so that saying them costs the same however many units are done."""

    total_assets: int
    assets: int
    samples: int = 0
    seconds: dict[str, float] = field(default_factory=dict)

    def add(self, receipt: Receipt) -> None:
        self.assets += receipt.assets
        self.samples += receipt.samples
        for hop, spent in receipt.seconds.items():
            self.seconds[hop] = self.seconds.get(hop, 0.0) + spent

    def tell(self, observer: Observer) -> None:
        observer.progress(
            self.assets, self.total_assets, samples=self.samples, seconds=self.seconds
        )


def _run(
    pool: Pool, tasks: list[UnitTask], encoding: Encoding, *, observer: Observer, start: float
) -> None:
    failed: list[str] = []
    done = sum(receipt.assets for receipt in encoding.reused.values())
    tally = _Tally(sum(task.items for task in tasks) + done, done)
    tally.tell(observer)
    for outcome in pool.run(tasks):
        if isinstance(outcome, Finished):
            encoding.first_shard_s = encoding.first_shard_s or time.monotonic() - start
            encoding.made[outcome.task_id] = outcome.result
            observer.event("write", unit=outcome.task_id, samples=outcome.result.samples)
            tally.add(outcome.result)
        else:
            failed.append(f"{outcome.task_id} after {outcome.attempts} attempts: {outcome.error}")
            observer.warn("a unit failed", unit=outcome.task_id, error=outcome.error)
        tally.tell(observer)
    if failed:
        raise UnitsFailedError(
            f"{len(failed)} of {len(tasks)} units failed; nothing was committed, and the next run "
            f"does only these again. First: {failed[0]}"
        )
