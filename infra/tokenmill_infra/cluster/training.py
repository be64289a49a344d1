"""Groups of training workers: one function in N processes that average their gradients.

`run_workers` runs it in this process (one worker), in processes of this machine, or by Ray Train.
What a worker says goes to the caller's observer; what it raises is raised here, and ends the
others. Workers of more than one have torch's process group: NCCL on GPUs, gloo elsewhere.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import pickle
import queue
import tempfile
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from tokenmill_infra.cluster.pool import ClusterError
from tokenmill_schemas.errors import JobError, TokenmillError

T = TypeVar("T")
Say = Callable[[Mapping[str, Any]], None]

#: How long the end of a dead worker may go unseen.
LOOK_S = 0.5
#: How long workers that have said that they are done may take to end.
END_S = 30.0


@dataclass(frozen=True, slots=True)
class WorkerGroup:
    """How many workers, of which backend, and what each may use.

    ``gpus`` below 0 means one each where there are any. ``max_failures`` is how often Ray starts
    all of them again after one died; the function then goes on from what it has saved.
    """

    workers: int = 1
    backend: Literal["local", "ray"] = "local"
    address: str = "local"
    torch_threads: int = 1
    cpus: float = 1.0
    gpus: float = -1.0
    max_failures: int = 0


@dataclass(frozen=True, slots=True)
class Worker:
    """One worker, as its function sees it; ``say`` passes facts to the caller."""

    rank: int
    world_size: int
    device: str
    say: Say


def run_workers(work: Callable[[Worker, T], None], config: T, group: WorkerGroup, say: Say) -> None:
    """Run ``work(worker, config)`` in every worker of a group and wait for all of them.

    ``work`` is a module's function: workers of other processes import it by its name.
    ``say`` is called in this process with what any worker says.

    Raises:
        JobError: the cluster has no room for the group, or does not answer.
        TokenmillError: whatever a worker raised.
        ClusterError: a worker died, or raised something else.
    """
    if group.backend == "ray":
        from tokenmill_infra.cluster.ray_training import run_on_ray

        run_on_ray(work, config, group, say)
    elif group.workers == 1:
        with threads(group.torch_threads):
            work(Worker(0, 1, device(group.gpus, 0), say), config)
    else:
        _in_processes(work, config, group, say)


@contextlib.contextmanager
def threads(count: int) -> Iterator[None]:
    """Let torch use ``count`` threads inside the block."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def device(gpus: float, index: int) -> str:
    """Return the device of a worker, the ``index``-th of its machine.

    Raises:
        JobError: it is to have a GPU and there is none.
    """
    import torch

    there = torch.cuda.device_count() if gpus else 0
    if gpus > 0 and index >= there:
        text = f"worker {index} wants a GPU and this machine has {there}"
        raise JobError(text, path="cluster.gpus_per_worker")
    return f"cuda:{index}" if index < there else "cpu"


def _in_processes(
    work: Callable[[Worker, T], None], config: T, group: WorkerGroup, say: Say
) -> None:
    """Run workers in spawned processes that meet in a file, for which no port is needed."""
    context = multiprocessing.get_context("spawn")
    heard: Any = context.Queue()
    with tempfile.TemporaryDirectory(prefix="tokenmill-train-") as folder:
        meeting = (Path(folder) / "meeting").as_uri()
        children = [
            context.Process(
                target=_child, args=(work, config, group, (rank, meeting, heard)), daemon=True
            )
            for rank in range(group.workers)
        ]
        try:
            for child in children:
                child.start()
            _listen(heard, children, say)
        finally:
            for child in children:
                if child.is_alive():
                    child.terminate()
                    child.join()


def _listen(heard: Any, children: list[Any], say: Say) -> None:
    """Pass on what workers say until all are done; raise what one of them raised."""
    left = set(range(len(children)))
    while left:
        # Looked at before the queue: what a worker said before it ended is in there by then.
        ended = [rank for rank in left if children[rank].exitcode is not None]
        try:
            kind, rank, value = heard.get(timeout=LOOK_S)
        except queue.Empty:
            if ended:
                code = children[ended[0]].exitcode
                text = f"training worker {ended[0]} of {len(children)} died (exit code {code})"
                raise ClusterError(f"{text}; --resume goes on from the newest checkpoint") from None
            continue
        if kind == "said":
            say(value)
        elif kind == "raised":
            raise pickle.loads(value)  # noqa: S301  (made by our own child, below)
        else:
            left.discard(rank)
    for child in children:
        child.join(END_S)


def _child(
    work: Callable[[Worker, T], None],
    config: T,
    group: WorkerGroup,
    place: tuple[int, str, Any],
) -> None:
    """Be one worker: join the others, work, and tell how it ended."""
    rank, meeting, heard = place
    try:
        with threads(group.torch_threads), _joined(rank, meeting, group) as on:
            work(Worker(rank, group.workers, on, lambda v: heard.put(("said", rank, v))), config)
        heard.put(("done", rank, None))
    except Exception as error:  # noqa: BLE001  (a process's top: all of it goes to the parent)
        heard.put(("raised", rank, pickle.dumps(portable(error, rank))))


@contextlib.contextmanager
def _joined(rank: int, meeting: str, group: WorkerGroup) -> Iterator[str]:
    """Be in the process group inside the block; gives the worker's device."""
    import torch.distributed

    on = device(group.gpus, rank)
    if os.name == "posix":
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # all of them are on this machine
    torch.distributed.init_process_group(
        "nccl" if on.startswith("cuda") else "gloo",
        init_method=meeting,
        rank=rank,
        world_size=group.workers,
    )
    try:
        yield on
    finally:
        torch.distributed.destroy_process_group()


def portable(error: Exception, rank: int) -> TokenmillError:
    """Return an error that crosses processes: our own as they are, others in words."""
    if isinstance(error, TokenmillError):
        return error
    last = traceback.extract_tb(error.__traceback__)[-1:]
    where = f" at {Path(last[0].filename).name}:{last[0].lineno}" if last else ""
    return ClusterError(f"training worker {rank} failed: {type(error).__name__}: {error}{where}")
