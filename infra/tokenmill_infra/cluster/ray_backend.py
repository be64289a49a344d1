"""Actors over Ray: one process each, with its own GPU or share of the cores.

Ray is asked for as little as possible: no restarts and no retries of its own (the pool decides who
runs what again), no objects but tasks and receipts, no dashboard.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import ray
import ray.exceptions
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from tokenmill_infra.cluster import blackbox
from tokenmill_infra.cluster.malloc import MALLOC_ENV
from tokenmill_infra.cluster.tasks import (
    Cause,
    Done,
    Event,
    Factory,
    Failed,
    Host,
    Lost,
    PostMortem,
    Ready,
    Task,
)
from tokenmill_schemas.errors import JobError

#: Object store of a cluster of our own: only tasks and receipts pass through it.
OBJECT_STORE_BYTES = 128 * 2**20
KNOCK_S = 10.0
#: How long a node may take to hand over what one of its actors has noted, a process being started.
FETCH_S = 30.0

#: Environment of a cluster of our own: no telemetry, no token file in the user's home (everything
#: is bound to this machine's loopback address).
CLUSTER_ENV = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AUTH_MODE": "disabled",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}


@dataclass(frozen=True, slots=True)
class ActorShape:
    """What one actor reserves of the cluster, and how many calls it takes at once."""

    cpus: float = 1.0
    gpus: float = 0.0
    in_flight: int = 2
    env: Mapping[str, str] = field(default_factory=dict)


class RayHost:
    """The actor: a host and nothing else."""

    def __init__(self) -> None:
        self._host: Host | None = None

    def load(self, factory: Factory) -> tuple[str, str]:
        """Make the host; not in the constructor, where Ray would hide what it raises.

        Returns:
            The node and, on it, the path of the host's black box ("" if it keeps none).
        """
        self._host = factory()
        return _node(), getattr(self._host, "black_box", "")

    def run(self, task: Any) -> Any:
        """Run one task."""
        if self._host is None:
            raise RuntimeError("the actor was given a task before it had loaded")
        return self._host.run(task)


@contextlib.contextmanager
def environment(values: Mapping[str, str]) -> Iterator[None]:
    """Set environment variables for the processes that are started inside the block."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def connect(address: str, *, env: Mapping[str, str]) -> bool:
    """Join the cluster at ``address``, or start one of our own for ``"local"``.

    Returns:
        Whether a cluster was started, which the caller then ends.

    Raises:
        JobError: there is no cluster at that address.
    """
    if ray.is_initialized():
        return False
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address != "local":
        try:
            _knock(address)
            ray.init(address=address, **quiet)
        except (OSError, ValueError) as error:
            raise JobError(
                f"no Ray cluster answers at {address}: {error}", path="cluster.address"
            ) from error
        return False
    with environment({**CLUSTER_ENV, **MALLOC_ENV, **env}):
        ray.init(
            address="local",
            include_dashboard=False,
            object_store_memory=OBJECT_STORE_BYTES,
            _node_ip_address="127.0.0.2",
            **quiet,
        )
    return True


def _knock(address: str) -> None:
    """Open a connection to ``host:port``: where nobody answers, Ray would end this process."""
    host, _, port = address.rpartition(":")
    if host and port.isdigit() and "://" not in address:
        socket.create_connection((host, int(port)), timeout=KNOCK_S).close()


def disconnect() -> None:
    """Leave the cluster, and end it if it was started here."""
    ray.shutdown()


def resources() -> dict[str, float]:
    """Return the totals of the joined cluster: ``CPU``, ``GPU``, ``memory``."""
    totals: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]  # Ray's
    return {str(name): float(amount) for name, amount in totals.items()}


def _node() -> str:
    return str(ray.get_runtime_context().get_node_id())


@dataclass(slots=True)
class Box:
    """Where an actor's black box is; held open where it is on this machine, and then nameless.

    So nothing stays behind on this machine, whatever ends.
    """

    node: str
    path: str
    file: BinaryIO | None = None

    def hold(self) -> None:
        """Open the file if it is here."""
        if self.path and self.node == _node():
            with contextlib.suppress(OSError):
                self.file = Path(self.path).open("rb")  # noqa: SIM115  (for as long as the actor)
                Path(self.path).unlink(missing_ok=True)

    def read(self) -> PostMortem:
        """Return what was noted; nothing if its node is gone, too."""
        if not self.path:
            return PostMortem()
        if self.file is not None:
            return blackbox.read(self.file.read())
        return blackbox.read(self._fetch())

    def _fetch(self) -> bytes:
        strategy = NodeAffinitySchedulingStrategy(self.node, soft=False)
        options = {"num_cpus": 0, "max_retries": 0, "scheduling_strategy": strategy}
        call: Any = ray.remote(blackbox.read_and_remove).options(**options)
        try:
            return bytes(ray.get(call.remote(self.path), timeout=FETCH_S))
        except ray.exceptions.RayError:
            return b""

    def close(self) -> None:
        """Let the file go."""
        if self.file is not None:
            self.file.close()


def free_resources() -> dict[str, float]:
    """Return what of the cluster nobody has reserved."""
    free: dict[str, float] = ray.available_resources()  # type: ignore[no-untyped-call]  # Ray's
    return {str(name): float(amount) for name, amount in free.items()}


class RayBackend:
    """Runs actors on the joined cluster."""

    def __init__(self, factory: Factory, shape: ActorShape, *, owns_cluster: bool) -> None:
        self._factory = factory
        self._owns_cluster = owns_cluster
        options: dict[str, Any] = {
            "num_cpus": shape.cpus,
            "num_gpus": shape.gpus,
            "max_concurrency": shape.in_flight + 1,
            "max_restarts": 0,
            "max_task_retries": 0,
        }
        if not owns_cluster:
            options["runtime_env"] = {"env_vars": {**MALLOC_ENV, **shape.env}}
        self._remote = ray.remote(RayHost).options(**options)
        self._shape = shape
        self._actors: dict[int, Any] = {}
        self._boxes: dict[int, Box] = {}
        self._unplaced: dict[int, Any] = {}
        self._calls: dict[Any, tuple[int, int]] = {}

    def start(self, actor: int) -> None:
        """Ask Ray for an actor; it waits there until the cluster has room."""
        handle: Any = self._remote.remote()
        self._actors[actor] = handle
        self._unplaced[actor] = handle.__ray_ready__.remote()
        self._calls[handle.load.remote(self._factory)] = (actor, -1)

    def submit(self, actor: int, lease: int, task: Task) -> None:
        """Begin a call."""
        self._calls[self._actors[actor].run.remote(task)] = (actor, lease)

    def wait(self, timeout_s: float) -> list[Event]:
        """Return what happened; at most one `Lost` per actor."""
        if not self._calls:
            time.sleep(timeout_s)
            return []
        done, _ = ray.wait(list(self._calls), num_returns=1, timeout=timeout_s)
        rest = [ref for ref in self._calls if ref not in set(done)]
        if rest:
            done += ray.wait(rest, num_returns=len(rest), timeout=0)[0]
        events = [self._event(ref, *self._calls.pop(ref)) for ref in done]
        lost = {event.actor: event for event in events if isinstance(event, Lost)}
        return [e for e in events if not isinstance(e, Lost)] + list(lost.values())

    def _event(self, ref: Any, actor: int, lease: int) -> Event:
        try:
            result = ray.get(ref)
        except ray.exceptions.RayTaskError as error:
            return Failed(actor, lease, _cause(error))
        except ray.exceptions.RayError as error:
            return Lost(actor, _first_line(error), _ended_by(error))
        if lease >= 0:
            return Done(actor, lease, result)
        self._boxes[actor] = Box(*result)
        self._boxes[actor].hold()
        return Ready(actor)

    def post_mortem(self, actor: int) -> PostMortem:
        """Return what an actor has noted, from wherever it ran."""
        box = self._boxes.get(actor)
        return box.read() if box else PostMortem()

    def shortage(self) -> dict[str, str] | None:
        """Return what actors without a place ask for, and what the cluster has and has free."""
        refs = {ref: actor for actor, ref in self._unplaced.items()}
        if refs:
            for ref in ray.wait(list(refs), num_returns=len(refs), timeout=0)[0]:
                del self._unplaced[refs[ref]]
        if not self._unplaced:
            return None
        total, free = resources(), free_resources()
        wanted = {"CPU": self._shape.cpus, "GPU": self._shape.gpus}
        names = [name for name, amount in wanted.items() if amount]
        has = (f"{total.get(n, 0.0):g} {n}, {free.get(n, 0.0):g} free" for n in names)
        return {
            "waiting": str(len(self._unplaced)),
            "each_asks_for": ", ".join(f"{wanted[name]:g} {name}" for name in names),
            "cluster_has": "; ".join(has),
        }

    def kill(self, actor: int) -> None:
        """End an actor's process."""
        handle = self._actors.pop(actor, None)
        self._unplaced.pop(actor, None)
        box = self._boxes.pop(actor, None)
        if box is not None:
            box.close()
        self._calls = {ref: call for ref, call in self._calls.items() if call[0] != actor}
        if handle is not None:
            ray.kill(handle, no_restart=True)

    def close(self) -> None:
        """End all actors, and the cluster if it is our own."""
        for actor in list(self._actors):
            self.kill(actor)
        if self._owns_cluster:
            disconnect()


def _cause(error: ray.exceptions.RayTaskError) -> Exception:
    cause = error.cause
    return cause if isinstance(cause, Exception) else error


def _first_line(error: Exception) -> str:
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)


def _ended_by(error: Exception) -> Cause:
    """Tell the end that Ray's memory monitor makes; the kernel's own looks like any other."""
    return "memory" if isinstance(error, ray.exceptions.OutOfMemoryError) else "died"
