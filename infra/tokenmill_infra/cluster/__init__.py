"""Processes: the actor pool, over Ray or in one process; nothing of Ray is imported unasked."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from tokenmill_infra.cluster.local import LocalBackend
from tokenmill_infra.cluster.malloc import keep_buffers
from tokenmill_infra.cluster.pool import ClusterError, Pool, PoolConfig
from tokenmill_infra.cluster.tasks import Backend, Factory, Finished, GaveUp, Outcome, Task
from tokenmill_infra.observe import Observer
from tokenmill_schemas.errors import JobError
from tokenmill_schemas.job import ClusterConfig
from tokenmill_schemas.resources import Resources

__all__ = [
    "ActorPlan",
    "ClusterError",
    "Factory",
    "Finished",
    "GaveUp",
    "Outcome",
    "Pool",
    "PoolConfig",
    "Task",
    "limit_threads",
    "open_pool",
    "plan_actors",
]


#: What tells the libraries of an actor how many threads they may start; they read it as they load.
THREAD_VARIABLES: tuple[str, ...] = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


@dataclass(frozen=True, slots=True)
class ActorPlan:
    """How many actors a run has and what each reserves."""

    actors: int
    cpus: float
    gpus: float


def plan_actors(config: ClusterConfig, needs: Resources, *, cpus: float, gpus: float) -> ActorPlan:
    """Return how many actors fit on ``cpus`` and ``gpus`` of a machine or cluster.

    ``gpus_per_actor`` below 0 means what the tokenizer asks for, or none where there is no GPU.
    """
    share = config.gpus_per_actor
    if share < 0:
        share = needs.gpus if gpus > 0 else 0.0
    if share > 0:
        fit = math.floor(gpus / share + 1e-9)
    else:
        fit = math.floor(cpus / max(config.cpus_per_actor, 1e-9) + 1e-9)
    return ActorPlan(config.actors or max(1, fit), config.cpus_per_actor, share)


def misfit(plan: ActorPlan, there: Mapping[str, float]) -> JobError | None:
    """Return what to say when not even one actor fits on the resources that are there."""
    for name, wanted in (("cpus", plan.cpus), ("gpus", plan.gpus)):
        found = there.get(name.upper().removesuffix("S"), 0.0)
        if wanted > found:
            return JobError(
                f"an actor wants {wanted:g} {name} and this machine has {found:g}",
                path=f"cluster.{name}_per_actor",
            )
    return None


def machine_cpus() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def limit_threads(config: ClusterConfig) -> None:
    """Keep numerical libraries that this process has yet to load from starting more threads.

    Actors of the local backend are threads themselves; on two cores two of them with two BLAS
    threads each run five times slower than with one.
    """
    for name in THREAD_VARIABLES:
        os.environ.setdefault(name, str(config.torch_threads))


def open_pool(
    config: ClusterConfig,
    needs: Resources,
    factory_of: Callable[[float], Factory],
    *,
    observer: Observer | None = None,
) -> tuple[Pool, ActorPlan]:
    """Open the pool that a job asks for; ``factory_of(gpus)`` makes what loads in each actor.

    ``observer`` is told when actors wait long for a place on the cluster.

    Raises:
        JobError: no Ray cluster answers at ``cluster.address``, or no actor fits on this machine.
    """
    open_backend = _open_ray if config.backend == "ray" else _open_local
    backend, plan = open_backend(config, needs, factory_of)
    return Pool(backend, _pool_config(config, plan), observer=observer), plan


def _open_local(
    config: ClusterConfig, needs: Resources, factory_of: Callable[[float], Factory]
) -> tuple[Backend, ActorPlan]:
    # GPUs of one process are one actor's; more of them are Ray's business.
    gpus = 1.0 if needs.gpus > 0 and config.gpus_per_actor != 0 and _cuda() else 0.0
    plan = plan_actors(config, needs, cpus=machine_cpus(), gpus=gpus)
    keep_buffers()
    return LocalBackend(factory_of(plan.gpus), in_flight=config.units_in_flight), plan


def _open_ray(
    config: ClusterConfig, needs: Resources, factory_of: Callable[[float], Factory]
) -> tuple[Backend, ActorPlan]:
    from tokenmill_infra.cluster import ray_backend

    env = dict.fromkeys(THREAD_VARIABLES, str(config.torch_threads))
    owns = ray_backend.connect(config.address, env=env)
    there = ray_backend.resources()
    plan = plan_actors(config, needs, cpus=there.get("CPU", 0.0), gpus=there.get("GPU", 0.0))
    # A cluster that was joined may grow; one of our own never will, so waiting would be for ever.
    if owns and (problem := misfit(plan, there)):
        ray_backend.disconnect()
        raise problem
    shape = ray_backend.ActorShape(plan.cpus, plan.gpus, config.units_in_flight, env)
    return ray_backend.RayBackend(factory_of(plan.gpus), shape, owns_cluster=owns), plan


def _cuda() -> bool:
    try:
        import torch
    except ImportError:
        return False
    return torch.cuda.is_available()


def _pool_config(config: ClusterConfig, plan: ActorPlan) -> PoolConfig:
    return PoolConfig(
        plan.actors,
        config.units_in_flight,
        config.max_attempts,
        config.lease_s,
        config.speculate,
    )
